//! The task that asks for grants, and has them held.
//!
//! It renews several times in the length of a grant, and counts each grant from when it asked. The decisions are those of
//! [`HostLeases`] and [`plan`]; the watchdog carries them out. Without a watchdog nothing is held.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use romana_client::{Client, Error};
use romana_daemon::error::chain;
use romana_daemon::problems::Problems;
use romana_statemachine::lease::{HostLeases, VipAnswer, VipRenewal, renew_every};
use romana_statemachine::{Vip, plural};
use rtnetlink::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::clock;
use super::flux::guard;
use super::held_addresses::{Hold, Order, Report};
use super::plan::{FOREIGN, NO_LINK, Plan, SEVERAL_LINKS, plan, subnets};
use super::process::Process;
use super::status::{Holding, Holds};
use crate::enrol::{Enrolment, EnrolmentState};
use crate::follow::Seen;
use crate::kernel::addresses::{self, VipFacts, Write, Written};
use crate::sysctl::Sysctls;

/// The part under which problems are reported.
pub const PART: &str = "vips";
/// The watchdog cannot be used.
const WATCHDOG: &str = "VipWatchdogFails";
/// The kernel refuses an address, or its announcement.
const KERNEL: &str = "VipNotSet";
/// Links or addresses cannot be read.
const UNREAD: &str = "VipLinksUnread";

/// Interval of renewals of a host that holds nothing, but could.
const IDLE: Duration = Duration::from_millis(500);
/// A renewal that takes longer is given up, and another one sent: the timeout of the task's client.
pub const RENEWAL_MAX: Duration = Duration::from_millis(500);
/// Addresses of an earlier run are gone by then, if nobody renews them.
const LEFTOVER_MAX: Duration = Duration::from_secs(2);
/// Links and addresses are read this often, besides on changes.
const LOOK: Duration = Duration::from_secs(5);
/// After a failure, they are read again, and the watchdog is told again.
const RETRY: Duration = Duration::from_millis(200);
/// The watchdog has removed an address by then after the end of its grant.
const GRACE: Duration = Duration::from_millis(20);
/// Announcements are repeated every 10 s: what failed is said for longer.
const FAILURE_SHOWN: Duration = Duration::from_secs(12);
/// Messages of problems of one kind.
const SHOWN_MAX: usize = 3;

/// What the task needs.
pub struct Needs {
    pub enrolment: Arc<Enrolment>,
    /// A client with a short timeout.
    pub client: Client,
    pub handle: Handle,
    pub sysctls: Sysctls,
    /// Whether to set the sysctls of links beside VIPs.
    pub set_sysctls: bool,
    /// The link for VIPs; `None`: that of their subnet.
    pub link: Option<String>,
    pub state_dir: PathBuf,
    pub seen: watch::Receiver<Seen>,
    /// Notified when links or addresses change.
    pub news: Arc<Notify>,
    pub problems: Problems,
    pub status: watch::Sender<Holding>,
}

type Asked = (u64, Result<VipAnswer, Error>);

/// The task.
pub struct Holder {
    needs: Needs,
    enrolment_state: watch::Receiver<EnrolmentState>,
    leases: HostLeases,
    /// Identifies this run to the leader.
    run: u64,
    facts: VipFacts,
    /// When the facts are read again.
    look: Instant,
    watchdog: Option<Process>,
    /// The link of each address that may be in the kernel.
    places: BTreeMap<IpAddr, u32>,
    /// Addresses of an earlier run, and until when they may stay.
    leftovers: (BTreeSet<IpAddr>, Duration),
    /// Length of the last grant.
    grant: Duration,
    holding: Holding,
    /// What failed of each address, and until when that is a problem.
    failed: BTreeMap<IpAddr, (String, Instant)>,
}

impl Holder {
    /// A task that holds nothing yet.
    #[must_use]
    pub fn new(needs: Needs) -> Self {
        let enrolment_state = needs.enrolment.state();
        Self {
            needs,
            enrolment_state,
            leases: HostLeases::default(),
            run: rand::random(),
            facts: VipFacts::default(),
            look: Instant::now(),
            watchdog: None,
            places: BTreeMap::new(),
            leftovers: (BTreeSet::new(), Duration::ZERO),
            grant: Duration::ZERO,
            holding: Holding::default(),
            failed: BTreeMap::new(),
        }
    }

    /// Holds VIPs until `stop`. What is held then stays until its grant is over, or the next run renews it.
    pub async fn run(mut self, stop: CancellationToken) {
        self.adopt().await;
        let mut asked: Option<BoxFuture<'static, Asked>> = None;
        let mut due = Instant::now();
        loop {
            let wanted = self.is_wanted();
            if asked.is_none() && due <= Instant::now() {
                due = Instant::now() + self.period();
                asked = wanted.then(|| self.ask());
            }
            match wanted {
                true if self.look <= Instant::now() => self.settle(Vec::new()).await,
                true => {}
                false => self.say(&Plan::default()),
            }
            let waits = self.waits(due, asked.is_some(), wanted);
            tokio::select! {
                () = stop.cancelled() => return,
                (sequence, answer) = pending(&mut asked) => {
                    asked = None;
                    if self.answered(sequence, answer).await {
                        due = Instant::now();
                    }
                }
                changed = self.needs.seen.changed() => match changed {
                    Ok(()) if self.is_placed_here() => due = Instant::now(),
                    Ok(()) => {}
                    Err(_) => return,
                },
                changed = self.enrolment_state.changed() => match changed {
                    Ok(()) => due = Instant::now(),
                    Err(_) => return,
                },
                () = self.needs.news.notified() => self.look = Instant::now(),
                report = heard(&mut self.watchdog) => match report {
                    Ok(report) => self.reported(report, false),
                    Err(error) => self.without_watchdog(&error.to_string()).await,
                },
                () = sleep_until(waits) => {}
            }
            if self.end_what_is_over().await {
                due = Instant::now();
            }
        }
    }

    /// When something is to be done next: a renewal, a look at the kernel, or the end of a grant.
    fn waits(&self, due: Instant, asked: bool, wanted: bool) -> Instant {
        let renewal = if asked { Instant::now() + RENEWAL_MAX } else { due };
        let renewal = if wanted { renewal.min(self.look) } else { renewal };
        let end = self.leases.next_end().map(|end| end.max(self.spared_until()));
        let left = end.map(|end| end.saturating_sub(clock::now()) + GRACE);
        left.map_or(renewal, |left| renewal.min(Instant::now() + left))
    }

    fn spared_until(&self) -> Duration {
        if self.leftovers.0.is_empty() { Duration::ZERO } else { self.leftovers.1 }
    }

    /// Finds what an earlier run has left in the kernel. It may stay for its lifetime: if it is granted by then, nobody
    /// notices the restart.
    async fn adopt(&mut self) {
        self.read().await;
        for found in self.facts.addresses.iter().filter(|found| found.ours) {
            self.leases.adopt(found.ip);
            self.places.insert(found.ip, found.link);
            self.leftovers.0.insert(found.ip);
        }
        self.leftovers.1 = clock::now() + LEFTOVER_MAX;
    }

    fn period(&self) -> Duration {
        let holds = self.leases.held().next().is_some();
        if holds && !self.grant.is_zero() { renew_every(self.grant) } else { IDLE }
    }

    /// Whether this host holds a VIP, or could.
    fn is_wanted(&self) -> bool {
        if *self.enrolment_state.borrow() != EnrolmentState::Accepted {
            return false;
        }
        let host = &self.needs.enrolment.host;
        let holds = self.leases.held().next().is_some();
        holds || self.vips(|vips| vips.into_iter().any(|vip| vip.is_candidate(host)))
    }

    /// Whether the log has placed a VIP here that is not held: it is asked for at once.
    fn is_placed_here(&self) -> bool {
        let host = &self.needs.enrolment.host;
        let held: BTreeSet<IpAddr> = self.leases.held().map(|(ip, _)| ip).collect();
        let here = |vip: &Vip| vip.placement.as_ref().is_some_and(|at| at.host == *host);
        self.vips(|vips| vips.into_iter().any(|vip| here(vip) && !held.contains(&vip.ip)))
    }

    /// Looks at the VIPs in the log, as far as it was followed.
    fn vips<R>(&self, look: impl FnOnce(Vec<&Vip>) -> R) -> R {
        let seen = self.needs.seen.borrow();
        let rules = seen.view.as_ref().and_then(|view| view.rules.as_ref());
        look(rules.into_iter().flat_map(|rules| rules.vips.values()).collect())
    }

    /// Sends a renewal.
    fn ask(&mut self) -> BoxFuture<'static, Asked> {
        let (sequence, held) = self.leases.ask(clock::now());
        let (host, instance) =
            (self.needs.enrolment.host.clone(), self.needs.enrolment.instance.clone());
        let subnets = subnets(&self.facts, self.needs.link.as_deref());
        let renewal = VipRenewal { host, instance, run: self.run, sequence, held, subnets };
        let client = self.needs.client.clone();
        Box::pin(async move { (sequence, client.renew_vips(renewal).await) })
    }

    /// Takes an answer. Returns whether an address was given up, which the leader waits for.
    async fn answered(&mut self, sequence: u64, answer: Result<VipAnswer, Error>) -> bool {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%error, "VIPs are not renewed");
                return false;
            }
        };
        let longest = answer.granted.iter().map(|grant| grant.grant_ms).max();
        self.grant = longest.map_or(self.grant, Duration::from_millis);
        let changes = self.leases.answer(sequence, &answer, clock::now());
        self.leftovers.0.clear();
        let before = self.leases.held().count();
        if !changes.hold.is_empty() || !changes.release.is_empty() {
            self.settle(changes.release).await;
        }
        self.leases.held().count() < before
    }

    /// Removes what the watchdog should have removed. Returns whether something was given up.
    async fn end_what_is_over(&mut self) -> bool {
        let now = clock::now();
        if now >= self.leftovers.1 {
            self.leftovers.0.clear();
        }
        let over = self.leases.over(now).into_iter();
        let over: Vec<IpAddr> = over.filter(|ip| !self.leftovers.0.contains(ip)).collect();
        let any = !over.is_empty();
        if any {
            self.settle(over).await;
        }
        any
    }

    /// Brings the kernel to what is held; `release`: addresses to remove.
    async fn settle(&mut self, release: Vec<IpAddr>) {
        // Another watchdog has to know what is there.
        if self.look <= Instant::now() || self.watchdog.is_none() {
            self.read().await;
        }
        let now = clock::now();
        let held = self.leases.held().filter(|(ip, until)| *until > now && !release.contains(ip));
        let held: BTreeMap<IpAddr, Duration> = held.collect();
        let vips: BTreeSet<IpAddr> = self.vips(|vips| vips.into_iter().map(|vip| vip.ip).collect());
        let link = self.needs.link.as_deref();
        let plan = plan(&held, &vips, &self.leftovers.0, &self.facts, link);
        self.say(&plan);
        let given_up = release.iter().filter_map(|ip| Some((*ip, *self.places.get(ip)?)));
        let mut order = Order { release: given_up.collect(), ..Order::default() };
        if !plan.remove.is_empty() {
            self.look_soon();
        }
        let known = order.release.clone();
        order.release.extend(plan.remove.iter().filter(|found| !known.contains(found)));
        // Nothing is in the kernel of those without a place.
        for ip in release.iter().filter(|ip| order.release.iter().all(|(other, _)| other != *ip)) {
            self.leases.removed(*ip, now);
        }
        order.hold = plan.hold.iter().copied().map(Hold::from).collect();
        if order.hold.is_empty() && order.release.is_empty() {
            return;
        }
        self.places.extend(plan.hold.iter().map(|place| (place.ip, place.link)));
        self.order(order).await;
    }

    /// Has an order obeyed.
    async fn order(&mut self, order: Order) {
        if self.watchdog.is_none() {
            match Process::start(&self.needs.state_dir) {
                Ok(process) => self.watchdog = Some(process),
                Err(error) => return self.cannot_start(&error.to_string(), order).await,
            }
        }
        let Some(watchdog) = &mut self.watchdog else { return };
        match watchdog.obey(order.clone()).await {
            Ok(report) => {
                self.needs.problems.set(PART, WATCHDOG, None);
                self.note(&order, &report);
                self.reported(report, true);
            }
            Err(error) => {
                self.without_watchdog(&error.to_string()).await;
                self.remove(order.release).await;
            }
        }
    }

    async fn cannot_start(&mut self, why: &str, order: Order) {
        let why =
            format!("the watchdog of VIPs cannot be started, and none is held without it: {why}");
        self.needs.problems.set(PART, WATCHDOG, Some(why));
        self.remove(order.release).await;
    }

    /// Kills a watchdog that does not answer; what it has added is removed at the end of its grant, by this process or
    /// the next watchdog, or by the kernel.
    async fn without_watchdog(&mut self, why: &str) {
        tracing::warn!(why, "the watchdog of VIPs does not answer: another one is started");
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.kill().await;
        }
        self.look_soon();
    }

    fn look_soon(&mut self) {
        self.look = self.look.min(Instant::now() + RETRY);
    }

    /// Removes addresses without a watchdog.
    async fn remove(&mut self, release: Vec<(IpAddr, u32)>) {
        let writes = release.iter().map(|(ip, link)| Write::Remove { ip: *ip, link: *link });
        let writes: Vec<Write> = writes.collect();
        let done = tokio::task::spawn_blocking(move || addresses::write(&writes)).await;
        match done {
            Ok(Ok(outcomes)) => {
                let mut report = Report::default();
                for ((ip, _), outcome) in release.into_iter().zip(outcomes) {
                    match outcome {
                        Written::Done | Written::Exists => report.gone.push(ip),
                        Written::Failed(why) => report.failed.push((ip, why)),
                    }
                }
                report.only_gone();
                self.reported(report, true);
            }
            Ok(Err(error)) => tracing::warn!(%error, "VIPs cannot be removed"),
            Err(error) => tracing::warn!(%error, "VIPs cannot be removed"),
        }
    }

    /// Takes what the watchdog has done. `ordered`: what is gone was to go.
    fn reported(&mut self, report: Report, ordered: bool) {
        let now = clock::now();
        for ip in &report.gone {
            self.leases.removed(*ip, now);
            // One that is on another link by now is still held.
            if self.leases.held().all(|(held, _)| held != *ip) {
                self.places.remove(ip);
                if let Some(holds) = self.holding.held.remove(ip) {
                    let count = if ordered {
                        &mut self.holding.released
                    } else {
                        &mut self.holding.expired
                    };
                    *count += 1;
                    tracing::info!(vip = holds.name, %ip, ordered, "VIP given up");
                }
            }
        }
        let now = Instant::now();
        let until = now + FAILURE_SHOWN;
        self.failed.extend(report.failed.iter().map(|(ip, why)| (*ip, (why.clone(), until))));
        self.failed.retain(|ip, (_, until)| *until > now && self.places.contains_key(ip));
        let failed = self.failed.iter().map(|(ip, (why, _))| format!("VIP {ip}: {why}")).collect();
        self.problem(KERNEL, failed);
        if !report.failed.is_empty() {
            self.look_soon();
        }
        self.needs.status.send_replace(self.holding.clone());
    }

    /// Notes what is held after an order.
    fn note(&mut self, order: &Order, report: &Report) {
        let failed = |ip: &IpAddr| report.failed.iter().any(|(other, _)| other == ip);
        for hold in order.hold.iter().filter(|hold| !failed(&hold.ip)) {
            let named = |vips: Vec<&Vip>| {
                let found = vips.into_iter().find(|vip| vip.ip == hold.ip);
                found.map(|vip| vip.name.to_string()).unwrap_or_default()
            };
            let link = self.facts.links.iter().find(|link| link.index == hold.link);
            let link = link.map(|link| link.name.clone()).unwrap_or_default();
            let holds = Holds { name: self.vips(named), link, until: hold.until };
            if self.holding.held.insert(hold.ip, holds.clone()).is_none() {
                self.holding.taken += 1;
                tracing::info!(vip = holds.name, ip = %hold.ip, link = holds.link, "VIP taken");
            }
        }
    }

    /// Reports what a plan found, and keeps links beside VIPs silent about them.
    fn say(&self, plan: &Plan) {
        let of = |code| plan.problems.iter().filter(move |(other, _)| *other == code);
        for code in [FOREIGN, NO_LINK] {
            self.problem(code, of(code).map(|(_, why)| why.clone()).collect());
        }
        let wrong = guard(&self.needs.sysctls, &plan.beside, self.needs.set_sysctls);
        self.problem(SEVERAL_LINKS, wrong);
    }

    fn problem(&self, code: &'static str, mut all: Vec<String>) {
        let more = all.len().saturating_sub(SHOWN_MAX);
        all.truncate(SHOWN_MAX);
        if more > 0 {
            all.push(format!("and {} more", plural(more as u64, "problem")));
        }
        let text = (!all.is_empty()).then(|| all.join("; "));
        self.needs.problems.set(PART, code, text);
    }

    async fn read(&mut self) {
        match addresses::read(&self.needs.handle).await {
            Ok(mut facts) => {
                for found in &mut facts.addresses {
                    // Before Linux 5.18 an address has no protocol: what this run has added is ours.
                    let place = self.places.get(&found.ip) == Some(&found.link);
                    found.ours |= place && self.holding.held.contains_key(&found.ip);
                }
                (self.facts, self.look) = (facts, Instant::now() + LOOK);
                self.needs.problems.set(PART, UNREAD, None);
            }
            Err(error) => {
                self.look = Instant::now() + RETRY;
                self.needs.problems.set(PART, UNREAD, Some(chain(&error)));
            }
        }
    }
}

/// The answer to the renewal that is under way, if any. One that takes too long has failed.
async fn pending(asked: &mut Option<BoxFuture<'static, Asked>>) -> Asked {
    match asked {
        Some(asked) => asked.await,
        None => std::future::pending().await,
    }
}

async fn heard(watchdog: &mut Option<Process>) -> std::io::Result<Report> {
    match watchdog {
        Some(watchdog) => watchdog.heard().await,
        None => std::future::pending().await,
    }
}

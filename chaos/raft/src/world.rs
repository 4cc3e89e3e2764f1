//! A run: alternates simulated time, faults and checks.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use romana_replica::Replica;
use romana_statemachine::{Record, Revision};
use romana_storage::platform::{begin, below, disk, random};
use turmoil::Sim;

use crate::laws;
use crate::node::{self, Order, Site, name};
use crate::profile::{CALM, FAULTS, NODES, Plan, right_clock, wrong_clock};
use crate::recorder::{Answer, Question};
use crate::watch;

/// The result of a run.
pub(crate) struct Verdict {
    pub(crate) trace: u64,
    pub(crate) made: usize,
    pub(crate) reads: usize,
    pub(crate) revision: u64,
    pub(crate) broken: Vec<String>,
    pub(crate) told: Vec<String>,
}

/// A network fault, and how to end it.
#[derive(Clone, Copy)]
enum Cut {
    Both(u64, u64),
    OneWay(u64, u64),
    Slow(u64, u64),
}

struct World {
    sim: Sim<'static>,
    plan: Rc<Plan>,
    site: Rc<Site>,
    /// Milliseconds.
    now: u64,
    /// Machines that are down, and when they restart.
    down: BTreeMap<u64, u64>,
    cuts: Vec<(Cut, u64)>,
    /// The last revision seen in the current life of each replica.
    shown: BTreeMap<u64, Revision>,
}

/// Runs one seed. `lie`: the lie of all disks.
pub(crate) fn run(seed: u64, lie: disk::Lie) -> Verdict {
    begin(seed, Duration::from_millis(1));
    let plan = Rc::new(Plan::draw());
    begin(seed ^ 0x5eed, plan.disk);
    let mut world = World::new(seed, plan, lie);
    while world.now < FAULTS.end && world.tick() {
        world.inject();
    }
    world.heal();
    let calm = world.until("everybody is answered again", CALM, World::unanswered);
    world.site.quiet.set(true);
    if calm {
        world.until("all have the same state", CALM, World::uneven);
    }
    world.judge()
}

impl World {
    fn new(seed: u64, plan: Rc<Plan>, lie: disk::Lie) -> Self {
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(seed)
            .simulation_duration(Duration::from_secs(3600))
            .tick_duration(Duration::from_millis(1))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(plan.latency))
            .tcp_capacity(1 << 16)
            .enable_random_order();
        let mut sim = builder.build();
        let site = Rc::new(Site::default());
        for id in 1..=NODES {
            disk::lie(&name(id), lie);
            site.clocks.borrow_mut().insert(id, right_clock());
            let (plan, site) = (Rc::clone(&plan), Rc::clone(&site));
            sim.host(name(id), move || node::live(id, Rc::clone(&plan), Rc::clone(&site)));
        }
        let (down, cuts, shown) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        Self { sim, plan, site, now: 0, down, cuts, shown }
    }

    fn tell(&self, what: String) {
        self.site.book.with(|book| book.tell(self.now, what));
    }

    fn is_broken(&self) -> bool {
        self.site.book.with(|book| !book.broken.is_empty())
    }

    /// Simulates a millisecond. `false`: a law is broken.
    fn tick(&mut self) -> bool {
        if let Err(error) = self.sim.step() {
            self.site.book.with(|book| book.break_law("no panic", error.to_string()));
        }
        self.now += 1;
        watch::tick(self.now);
        for id in 1..=NODES {
            if self.down.contains_key(&id) {
                continue;
            }
            if disk::is_dark(&name(id)) {
                self.stop(id, "has no power");
            } else if !self.sim.is_host_running(name(id)) {
                self.stop(id, "has stopped itself");
            }
        }
        let back: Vec<u64> =
            self.down.iter().filter(|(_, at)| **at <= self.now).map(|(id, _)| *id).collect();
        back.into_iter().for_each(|id| self.start(id));
        let (over, still) = self.cuts.drain(..).partition(|(_, until)| *until <= self.now);
        self.cuts = still;
        for (cut, _) in Vec::from_iter::<Vec<(Cut, u64)>>(over) {
            self.repair(cut);
        }
        self.look();
        !self.is_broken()
    }

    /// Checks the laws that must hold at every moment.
    fn look(&mut self) {
        for (id, running) in &*self.site.running.borrow() {
            let seen = running.replica.with_state(|state| (state.revision(), state.digest()));
            let leads = *running.leads.borrow();
            let before = self.shown.insert(*id, seen.0).unwrap_or_default();
            self.site.book.with(|book| {
                book.see(*id, seen.0, seen.1);
                if let Some(term) = leads {
                    book.lead(*id, term);
                }
                if before > seen.0 {
                    book.break_law(
                        "forward",
                        format!("node {id} went from {before} to {}", seen.0),
                    );
                }
                book.trace((self.now, id, seen.0, seen.1.to_string(), leads));
            });
        }
    }

    /// Ends a machine's life; it restarts later.
    fn stop(&mut self, id: u64, why: &str) {
        self.tell(format!("node {id} {why}"));
        disk::kill(&name(id));
        self.site.running.borrow_mut().remove(&id);
        self.sim.crash(name(id));
        self.down.insert(id, self.now + 20 + below(self.plan.outage));
    }

    fn start(&mut self, id: u64) {
        self.tell(format!("node {id} starts"));
        self.down.remove(&id);
        self.shown.remove(&id);
        disk::power_on(&name(id));
        self.sim.bounce(name(id));
    }

    fn inject(&mut self) {
        if self.now < FAULTS.start {
            return;
        }
        let plan = Rc::clone(&self.plan);
        let comes = |every: Option<u64>| every.is_some_and(|every| below(every) == 0);
        let one = 1 + below(NODES);
        let other = 1 + (one + below(NODES - 1)) % NODES;
        if comes(plan.power) {
            disk::cut_power_after(&name(one), 1 + below(40));
        }
        if comes(plan.blackout) {
            let at_once: bool = random();
            for id in 1..=NODES {
                if at_once {
                    disk::cut_power(&name(id))
                } else {
                    disk::cut_power_after(&name(id), 1 + below(40))
                }
            }
        }
        if comes(plan.kill) && !self.down.contains_key(&one) {
            self.stop(one, "is killed");
        }
        if comes(plan.sync) {
            disk::fail_next_sync(&name(one));
        }
        if comes(plan.cut) {
            self.cut(if random() { Cut::Both(one, other) } else { Cut::OneWay(one, other) });
        }
        if comes(plan.isolate) {
            (1..=NODES).filter(|id| *id != one).for_each(|id| self.cut(Cut::Both(one, id)));
        }
        if comes(plan.slow) {
            self.cut(Cut::Slow(one, other));
        }
        let order = match () {
            () if comes(plan.transfer) => Order::Transfer(other),
            () if comes(plan.snapshot) => Order::Snapshot,
            () if comes(plan.clock) => return self.set_clock(plan.liar.unwrap_or(one)),
            () => return,
        };
        self.order(one, order);
    }

    /// Makes a machine's clock wrong, or correct again. A machine that is down starts with it.
    fn set_clock(&self, id: u64) {
        let clock = wrong_clock();
        self.site.clocks.borrow_mut().insert(id, clock);
        self.order(id, Order::Clock(clock));
    }

    fn order(&self, id: u64, order: Order) {
        if let Some(running) = self.site.running.borrow().get(&id) {
            self.tell(format!("node {id}: {order:?}"));
            // A node that has just stopped ignores orders.
            _ = running.orders.send(order);
        }
    }

    fn cut(&mut self, cut: Cut) {
        match cut {
            Cut::Both(one, other) => {
                self.tell(format!("nodes {one} and {other} are cut apart"));
                self.sim.partition(name(one), name(other));
            }
            Cut::OneWay(one, other) => {
                self.tell(format!("node {other} does not hear node {one}"));
                self.sim.partition_oneway(name(one), name(other));
            }
            Cut::Slow(one, other) => {
                self.tell(format!("it is far from node {one} to node {other}"));
                let late = Duration::from_millis(100 + below(400));
                self.sim.set_link_max_message_latency(name(one), name(other), late);
            }
        }
        self.cuts.push((cut, self.now + 50 + below(self.plan.outage)));
    }

    fn repair(&mut self, cut: Cut) {
        match cut {
            Cut::Both(one, other) | Cut::OneWay(one, other) => {
                self.tell(format!("nodes {one} and {other} hear each other"));
                self.sim.repair(name(one), name(other));
            }
            Cut::Slow(one, other) => {
                self.sim.set_link_max_message_latency(
                    name(one),
                    name(other),
                    Duration::from_millis(self.plan.latency),
                );
            }
        }
    }

    /// Ends all faults.
    fn heal(&mut self) {
        self.tell("no more faults".into());
        for id in 1..=NODES {
            disk::forget_faults(&name(id));
        }
        for (cut, _) in std::mem::take(&mut self.cuts) {
            self.repair(cut);
        }
        let down: Vec<u64> = self.down.keys().copied().collect();
        down.into_iter().for_each(|id| self.start(id));
        self.site.book.with(|book| book.mark = book.operations.len());
    }

    /// Continues until nothing is missing.
    fn until(&mut self, what: &str, within: u64, missing: fn(&Self) -> Vec<String>) -> bool {
        let deadline = self.now + within;
        while self.now < deadline {
            if !self.tick() {
                return false;
            }
            if missing(self).is_empty() {
                return true;
            }
        }
        let missing = missing(self).join(", ");
        let lives = format!("{what}: not within {within} ms of the last fault: {missing}");
        self.site.book.with(|book| book.break_law("lives", lives));
        false
    }

    /// Nodes that have not answered a write and a read since the last fault.
    fn unanswered(&self) -> Vec<String> {
        self.site.book.with(|book| {
            let since = &book.operations[book.mark..];
            let told = |id, question| {
                since.iter().any(|operation| {
                    operation.node == id
                        && operation.question == question
                        && matches!(operation.answered, Some((_, Answer::At(_))))
                })
            };
            let all = (1..=NODES).flat_map(|id| [(id, Question::Make), (id, Question::Read)]);
            let not = all.filter(|(id, question)| !told(*id, *question));
            not.map(|(id, question)| format!("node {id}: {question:?}")).collect()
        })
    }

    /// Why the cluster is not quiet: replicas that lag behind, and unanswered requests.
    fn uneven(&self) -> Vec<String> {
        let running = self.site.running.borrow();
        let mut found: Vec<String> = self.site.book.with(|book| {
            let since = book.operations[book.mark..].iter();
            let waits = since.filter(|operation| operation.answered.is_none());
            waits.map(|operation| format!("node {} owes an answer", operation.node)).collect()
        });
        let applied: Vec<(u64, u64)> = running
            .iter()
            .map(|(id, one)| (*id, *one.replica.reads().applied().borrow()))
            .collect();
        let even = applied.windows(2).all(|two| two[0].1 == two[1].1);
        if applied.len() as u64 != NODES || !even {
            found.push(format!("applied {applied:?}"));
        }
        found
    }

    fn judge(mut self) -> Verdict {
        let replicas: BTreeMap<u64, Replica> = {
            let running = self.site.running.borrow();
            running.iter().map(|(id, running)| (*id, running.replica.clone())).collect()
        };
        let mut records = BTreeMap::new();
        let mut states = Vec::new();
        if !self.is_broken() {
            for (id, replica) in &replicas {
                match history(replica) {
                    Ok(all) => _ = records.insert(*id, all),
                    Err(why) => self.site.book.with(|book| {
                        book.break_law("history", format!("node {id}: {why}"));
                    }),
                }
                states.push(replica.with_state(romana_statemachine::State::snapshot));
            }
        }
        let revision =
            replicas.values().map(|replica| replica.with_state(|state| state.revision()));
        let revision = revision.max().unwrap_or(Revision(0));
        self.site.running.borrow_mut().clear();
        drop(replicas);
        let clocks = self.plan.liar.is_some();
        let verdict = self.site.book.with(|book| {
            laws::judge(book, &records, clocks);
            if states.windows(2).any(|two| two[0] != two[1]) {
                book.break_law("one state", "equal digests, and other contents".into());
            }
            let count = |question| {
                let told = |answer| matches!(answer, Some((_, Answer::At(_))));
                let all = book.operations.iter();
                all.filter(|one| one.question == question && told(one.answered)).count()
            };
            Verdict {
                trace: book.traced(),
                made: count(Question::Make),
                reads: count(Question::Read) + count(Question::ReadHere),
                revision: revision.get(),
                broken: std::mem::take(&mut book.broken),
                told: std::mem::take(&mut book.told),
            }
        });
        self.finish();
        verdict
    }

    /// Ends the run with all machines powered off, so that destructors have no effect.
    fn finish(&mut self) {
        for id in 1..=NODES {
            disk::kill(&name(id));
            self.sim.crash(name(id));
        }
    }
}

/// A replica's whole history, verified from its start.
fn history(replica: &Replica) -> Result<Vec<Record>, String> {
    let history = replica.history();
    history.verify().map_err(|error| format!("{error:?}"))?;
    let (mut all, mut next) = (Vec::new(), history.oldest());
    loop {
        let some = history.read(next, 4096, 1 << 20).map_err(|error| format!("{error:?}"))?;
        let Some(last) = some.last() else { return Ok(all) };
        next = last.revision.next();
        all.extend(some);
    }
}

//! Keeps the kernel's routes as the plan wants them: on news, and on a timer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use romana_daemon::error::chain;
use romana_statemachine::Revision;
use romana_statemachine::command::HostState;
use rtnetlink::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::follow::Seen;
use crate::kernel::KernelError;
use crate::kernel::facts::{self, Links};
use crate::kernel::routes::RouteTable;
use crate::routes::{Change, Gateway, Options, Plan, diff, missing, plan, sparing};
use crate::status::Status;
use crate::view::View;

/// How often it looks when nothing happens.
const PERIOD: Duration = Duration::from_secs(30);
/// How often while something is wrong, or a host that is down is being asked.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps routes.
pub struct Router {
    host: String,
    enabled: bool,
    options: Options,
    handle: Handle,
    table: RouteTable,
    seen: watch::Receiver<Seen>,
    status: watch::Sender<Status>,
}

/// How a pass went.
struct Pass {
    status: Status,
    /// Look again soon.
    soon: bool,
}

impl Router {
    /// Keeps the routes that `config` wants.
    #[must_use]
    pub fn new(
        config: &Config,
        handle: Handle,
        seen: watch::Receiver<Seen>,
        status: watch::Sender<Status>,
    ) -> Self {
        let table = RouteTable::new(handle.clone(), config.route_table);
        let options = Options { multihop: config.multihop, ecmp: config.ecmp };
        let (host, enabled) = (config.host.to_string(), config.routes);
        Self { host, enabled, options, handle, table, seen, status }
    }

    /// Runs until `stop`.
    pub async fn run(mut self, wake: Arc<Notify>, stop: CancellationToken) {
        // What the last pass that succeeded was made for, and how it went.
        let mut done: Option<((Revision, bool), Status)> = None;
        let mut look = true;
        let mut looked = Instant::now();
        while !stop.is_cancelled() {
            let Seen { view, caught_up, .. } = self.seen.borrow_and_update().clone();
            let known = view.as_ref().map(|view| (view.routing, caught_up));
            let unchanged = done.as_ref().filter(|(at, _)| !look && Some(*at) == known);
            if let (Some((_, status)), Some(view)) = (unchanged, &view) {
                // Most events are about addresses and policies: the routes stay as they are.
                let revision = Some(view.revision);
                self.say(Status { revision, applied: revision, ..status.clone() }, None);
                look = self.woken(&wake, &stop, PERIOD.saturating_sub(looked.elapsed())).await;
                continue;
            }
            (done, looked) = (None, Instant::now());
            let soon = match view {
                // Nothing is known: what is in the kernel stays.
                None => {
                    self.say(Status::default(), Some("nothing is known of the cluster yet"));
                    false
                }
                Some(view) => match self.pass(&view, caught_up).await {
                    Ok(mut pass) => {
                        pass.status.problems.extend(view.conflicts.iter().cloned());
                        if !pass.soon {
                            done = known.map(|known| (known, pass.status.clone()));
                        }
                        self.say(pass.status, None);
                        pass.soon
                    }
                    Err(error) => {
                        let status = Status { revision: Some(view.revision), ..Status::default() };
                        self.say(status, Some(&chain(&error)));
                        true
                    }
                },
            };
            look = self.woken(&wake, &stop, if soon { RETRY } else { PERIOD }).await;
        }
    }

    /// Waits for news or for the end of a pause. Whether the kernel has to be read whatever the view says.
    async fn woken(&mut self, wake: &Notify, stop: &CancellationToken, pause: Duration) -> bool {
        let news = async {
            tokio::select! {
                () = stop.cancelled() => true,
                () = wake.notified() => true,
                changed = self.seen.changed() => {
                    if changed.is_err() {
                        stop.cancelled().await;
                    }
                    false
                }
            }
        };
        timeout(pause, news).await.unwrap_or(true)
    }

    async fn pass(&self, view: &View, caught_up: bool) -> Result<Pass, KernelError> {
        let revision = Some(view.revision);
        if !self.enabled {
            let status = Status { revision, applied: revision, ..Status::default() };
            return Ok(Pass { status, soon: false });
        }
        let links = facts::links(&self.handle).await?;
        let down = down_here(view, &links);
        let silent = facts::silent(&self.handle, &down).await?;
        let gateways = self.gateways(view, &links).await;
        let Plan { routes, skipped } =
            plan(view, &facts::facts(&links, gateways, silent), self.options);
        let actual = self.table.read().await?;
        let changes = if caught_up { diff(&actual, &routes) } else { missing(&actual, &routes) };
        let replaces = changes.iter().any(|change| matches!(change, Change::Replace(..)));
        let changes = match replaces {
            true => sparing(changes, &actual, &self.table.foreign().await?),
            false => changes,
        };
        let failed = self.table.apply(changes).await?;
        let mut status = Status { revision, routes: routes.len(), ..Status::default() };
        for (_, error) in &failed {
            status.problems.push(chain(error));
        }
        status.applied = revision.filter(|_| failed.is_empty());
        for skip in skipped {
            if skip.problem {
                status.problems.push(format!("no route to {}: {}", skip.block, skip.why));
            }
            status.skipped.insert(skip.block, skip.why);
        }
        Ok(Pass { status, soon: !failed.is_empty() || !down.is_empty() })
    }

    fn say(&self, status: Status, problem: Option<&str>) {
        let mut status = Status {
            host: self.host.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            writes: self.table.writes(),
            ..status
        };
        status.problems.extend(problem.map(str::to_owned));
        // What stays wrong is tried again each second, and told once.
        let told = self.status.borrow().problems.clone();
        let new = status.problems.iter().filter(|problem| !told.contains(problem));
        for problem in new.filter(|_| status.revision.is_some()) {
            tracing::warn!(problem, "routes are not as wanted");
        }
        self.status.send_replace(status);
    }

    /// Ways to hosts that are not on a link here.
    async fn gateways(&self, view: &View, links: &Links) -> BTreeMap<IpAddr, Gateway> {
        let mut found = BTreeMap::new();
        if !self.options.multihop {
            return found;
        }
        let owners: BTreeSet<_> = view.blocks.values().map(|block| &block.host).collect();
        let remote = owners.into_iter().filter(|host| **host != view.host);
        let ips = remote.filter_map(|host| view.hosts.get(host)).flat_map(|host| &host.ips);
        for ip in ips.filter(|ip| link_of(**ip, links).is_none()) {
            if let Some(gateway) = facts::gateway(&self.handle, *ip).await {
                found.insert(*ip, gateway);
            }
        }
        found
    }
}

/// Addresses, on links here, of hosts that are down in the log; with the index of the link.
fn down_here(view: &View, links: &Links) -> BTreeMap<IpAddr, u32> {
    let down = view
        .hosts
        .iter()
        .filter(|(name, host)| host.state == HostState::Down && **name != view.host);
    let ips = down.flat_map(|(_, host)| host.ips.iter().copied());
    ips.filter_map(|ip| Some((ip, link_of(ip, links)?))).collect()
}

fn link_of(ip: IpAddr, links: &Links) -> Option<u32> {
    let on = |prefix: &ipnet::IpNet| prefix.contains(&ip);
    links.foreign.iter().find(|link| link.prefixes.iter().any(on)).map(|link| link.index)
}

//! Reconciles the kernel's routes with the plan: on changes, and on a timer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use romana_daemon::error::chain;
use romana_daemon::reconcile::{Next, Pass, Reconcile, Schedule};
use romana_statemachine::Revision;
use romana_statemachine::command::HostState;
use rtnetlink::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::config::Config;
use crate::follow::Seen;
use crate::kernel::KernelError;
use crate::kernel::facts::{self, Links};
use crate::kernel::routes::RouteTable;
use crate::routes::{Change, Gateway, Options, Plan, diff, missing, plan, sparing};
use crate::status::Status;
use crate::view::View;

/// Interval without events.
const PERIOD: Duration = Duration::from_secs(30);
/// Interval while a host that is down is being probed, and minimum back-off after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Schedule of passes.
pub const SCHEDULE: Schedule =
    Schedule { period: Some(PERIOD), retry: RETRY, retry_max: Duration::from_secs(8) };

/// The route reconciler.
pub struct RouteReconciler {
    host: String,
    enabled: bool,
    options: Options,
    handle: Handle,
    table: RouteTable,
    seen: watch::Receiver<Seen>,
    status: watch::Sender<Status>,
    wake: Arc<Notify>,
    /// Input, status and problems of the last successful pass.
    done: Option<((Revision, bool), Status, Vec<String>)>,
    /// Whether the kernel has to be read even if the view is unchanged.
    look: bool,
    looked: Instant,
}

impl RouteReconciler {
    /// Creates a reconciler for the routes that `config` asks for.
    #[must_use]
    pub fn new(
        config: &Config,
        handle: Handle,
        seen: watch::Receiver<Seen>,
        status: watch::Sender<Status>,
        wake: Arc<Notify>,
    ) -> Self {
        let table = RouteTable::new(handle.clone(), config.route_table);
        let options = Options { multihop: config.multihop, ecmp: config.ecmp };
        let (host, enabled) = (config.host.to_string(), config.routes);
        let (done, look, looked) = (None, true, Instant::now());
        Self { host, enabled, options, handle, table, seen, status, wake, done, look, looked }
    }

    /// Reads the kernel and applies the differences to the plan.
    async fn apply(&self, view: &View, caught_up: bool) -> Result<(Status, Pass), KernelError> {
        let revision = Some(view.revision());
        if !self.enabled {
            let status = Status { revision, applied: revision, ..Status::default() };
            return Ok((status, Pass::default()));
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
        let mut problems: Vec<_> = failed.iter().map(|(_, error)| chain(error)).collect();
        status.applied = revision.filter(|_| failed.is_empty());
        for skip in skipped {
            if skip.problem {
                problems.push(format!("no route to {}: {}", skip.block, skip.why));
            }
            status.skipped.insert(skip.block, skip.why);
        }
        let next = match (failed.is_empty(), down.is_empty()) {
            (false, _) => Next::Retry,
            (true, false) => Next::In(RETRY),
            (true, true) => Next::Period,
        };
        Ok((status, Pass { problems, next }))
    }

    fn say(&self, status: Status) {
        self.status.send_replace(Status {
            host: self.host.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            writes: self.table.writes(),
            ..status
        });
    }

    /// Gateways towards hosts that are not on a link.
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

impl Reconcile for RouteReconciler {
    const PART: &'static str = "routes";

    async fn pass(&mut self) -> Pass {
        let Seen { view, caught_up, .. } = self.seen.borrow_and_update().clone();
        let Some(view) = view else {
            // The kernel is left unchanged.
            self.done = None;
            self.say(Status::default());
            let problems = vec!["nothing is known of the cluster yet".into()];
            return Pass { problems, next: Next::Period };
        };
        let known = (view.routing, caught_up);
        let unchanged = self.done.as_ref().filter(|(at, ..)| !self.look && *at == known);
        if let Some((_, status, problems)) = unchanged {
            // Most events concern addresses and policies, and do not affect routes.
            let revision = Some(view.revision());
            self.say(Status { revision, applied: revision, ..status.clone() });
            let next = Next::In(PERIOD.saturating_sub(self.looked.elapsed()));
            return Pass { problems: problems.clone(), next };
        }
        (self.done, self.looked) = (None, Instant::now());
        match self.apply(&view, caught_up).await {
            Ok((status, mut pass)) => {
                pass.problems.extend(view.conflicts.iter().cloned());
                if pass.next == Next::Period {
                    self.done = Some((known, status.clone(), pass.problems.clone()));
                }
                self.say(status);
                pass
            }
            Err(error) => {
                self.say(Status { revision: Some(view.revision()), ..Status::default() });
                Pass::failed(chain(&error))
            }
        }
    }

    async fn wake(&mut self) {
        self.look = true;
        tokio::select! {
            () = self.wake.notified() => {}
            changed = self.seen.changed() => match changed {
                Ok(()) => self.look = false,
                Err(_) => std::future::pending().await,
            }
        }
    }
}

/// Addresses on our links of hosts that are down in the log, with the link's index.
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

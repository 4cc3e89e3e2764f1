//! Reconciles attachments: the host side of each is desired state. Drift is repaired; what cannot be
//! repaired is reported as a problem.
//!
//! ```text
//!   store (wanted) ─► links and host routes of one look (actual) ─► plan (pure) ─► apply, under the lock of
//!   the attachment, if the store still says the same
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use romana_daemon::error::chain;
use romana_daemon::reconcile::{Next, Pass, Reconcile, Schedule};
use tokio::time::Instant;

use super::{Attacher, Entry, Stage};
use crate::ipc::Key;
use crate::kernel::KernelError;
use crate::kernel::facts;
use crate::kernel::links::{self, HostEnd};
use crate::kernel::taken::Taken;
use crate::ownership::host_link;

/// Interval of full passes without events.
const PERIOD: Duration = Duration::from_secs(30);
/// Interval while a problem lasts.
const RETRY: Duration = Duration::from_secs(1);
/// Schedule of passes, besides events from the kernel.
pub(super) const SCHEDULE: Schedule =
    Schedule { period: Some(PERIOD), retry: RETRY, retry_max: RETRY };
/// Changes within this time are handled in one pass.
const GATHER: Duration = Duration::from_millis(200);
/// How long an attachment without link and namespace is kept for the runtime's DEL.
const GONE_AFTER: Duration = Duration::from_secs(60);

/// A fault of an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    /// Host routes are missing, or use another link.
    Routes(u32),
    Down,
    NoLink,
}

/// Compares an attachment with the kernel's state.
fn fault(
    entry: &Entry,
    ends: &BTreeMap<String, HostEnd>,
    routes: &BTreeMap<IpAddr, u32>,
) -> Option<Fault> {
    let link = host_link(&entry.key.container_id, &entry.key.ifname);
    let Some(end) = ends.get(&link) else { return Some(Fault::NoLink) };
    if !end.up {
        return Some(Fault::Down);
    }
    let mut ips = entry.addresses.iter().filter_map(|held| held.ip);
    ips.any(|ip| routes.get(&ip) != Some(&end.index)).then_some(Fault::Routes(end.index))
}

/// Whether both link and namespace of an attachment are gone. The namespace of a recovered
/// attachment is unknown: its link existed at recovery, and deleting a veth pair also removes its
/// addresses, so a missing link suffices.
fn is_namespace_gone(entry: &Entry) -> bool {
    entry.netns.as_deref().is_some_and(|path| path.is_empty() || !Path::new(path).exists())
}

fn is_attached(entry: &Entry) -> bool {
    entry.stage == Stage::Ready && entry.netns.is_some()
}

/// State kept between passes.
#[derive(Default)]
struct Healing {
    /// Problems by attachment; these are checked again every second.
    problems: BTreeMap<Key, String>,
    /// Attachments with a fault that were in use by a command; these too.
    later: BTreeSet<Key>,
    /// When attachments were first seen without link and namespace.
    gone: BTreeMap<Key, Instant>,
}

/// Reconciles attachments.
pub(super) struct Healer {
    attacher: Arc<Attacher>,
    taken: Arc<Taken>,
    healing: Healing,
    looked: Option<Instant>,
}

impl Healer {
    pub(super) fn new(attacher: Arc<Attacher>, taken: Arc<Taken>) -> Self {
        Self { attacher, taken, healing: Healing::default(), looked: None }
    }
}

impl Reconcile for Healer {
    const PART: &'static str = "attachments";

    /// Reconciles attachments that the kernel reported as changed and those with
    /// problems; all of them on the timer.
    async fn pass(&mut self) -> Pass {
        let Self { attacher, taken, healing, looked } = self;
        let touched = taken.take();
        let everything =
            touched.everything || looked.is_none_or(|looked| looked.elapsed() >= PERIOD);
        let mut keys = attacher.store.concerned(&touched.links, &touched.ips);
        keys.extend(healing.problems.keys().chain(&healing.later).cloned());
        let done = match everything {
            true => attacher.look_at_all(healing).await,
            false => attacher.look_at(keys, healing).await,
        };
        *looked = match done {
            Ok(()) if everything => Some(Instant::now()),
            Ok(()) => *looked,
            Err(_) => None,
        };
        let well = looked.is_some() && healing.problems.is_empty() && healing.later.is_empty();
        let unread =
            done.err().map(|error| format!("attachments cannot be verified: {}", chain(&error)));
        let problems = unread.into_iter().chain(healing.problems.values().cloned()).collect();
        Pass { problems, next: if well { Next::Period } else { Next::Retry } }
    }

    async fn wake(&mut self) {
        self.taken.news().await;
        tokio::time::sleep(GATHER).await;
    }
}

impl Attacher {
    /// Checks all attachments, and restores what is missing.
    async fn look_at_all(self: &Arc<Self>, healing: &mut Healing) -> Result<(), KernelError> {
        let entries = self.store.select(is_attached);
        healing.forget_all_but(&entries);
        let keys = entries.into_iter().map(|entry| entry.key).collect();
        self.look_at(keys, healing).await
    }

    /// Checks some attachments; the cost does not depend on how many the host has.
    async fn look_at(
        self: &Arc<Self>,
        keys: BTreeSet<Key>,
        healing: &mut Healing,
    ) -> Result<(), KernelError> {
        for key in keys {
            let Some(entry) = self.store.get(&key).filter(is_attached) else {
                healing.forget(&key);
                continue;
            };
            let link = host_link(&key.container_id, &key.ifname);
            let end = links::host_end(&self.handle, &link).await?;
            let mut routes = BTreeMap::new();
            for ip in entry.addresses.iter().filter_map(|held| held.ip) {
                let way = facts::reach(&self.handle, ip).await;
                routes.extend(way.map(|(link, _)| (ip, link)));
            }
            let ends = end.map(|end| (link, end)).into_iter().collect();
            let fault = fault(&entry, &ends, &routes);
            self.mend_if(entry, fault, healing).await;
        }
        Ok(())
    }

    async fn mend_if(self: &Arc<Self>, entry: Entry, fault: Option<Fault>, healing: &mut Healing) {
        let key = entry.key.clone();
        let Some(fault) = fault else {
            healing.forget(&key);
            return;
        };
        // A command is under way. A CHECK leaves the fault as it is, and the kernel does not report it again.
        let alone = self.try_lock(&key);
        let alone = alone.filter(|_| self.store.get(&key).as_ref() == Some(&entry));
        let Some(_alone) = alone else {
            healing.later.insert(key);
            return;
        };
        match self.repair(entry, fault, &mut healing.gone).await {
            Some(problem) => {
                healing.later.remove(&key);
                healing.problems.insert(key, problem);
            }
            None => healing.forget(&key),
        }
    }

    /// The first address whose route in the kernel uses another link, despite our host route.
    async fn goes_elsewhere(&self, ips: &[IpAddr], index: u32) -> Option<IpAddr> {
        for ip in ips {
            if facts::reach(&self.handle, *ip).await.map(|(link, _)| link) != Some(index) {
                return Some(*ip);
            }
        }
        None
    }

    /// Repairs an attachment, whose lock is held. Returns a problem if it cannot be repaired.
    async fn repair(
        self: &Arc<Self>,
        entry: Entry,
        fault: Fault,
        gone: &mut BTreeMap<Key, Instant>,
    ) -> Option<String> {
        let Key { container_id, ifname } = &entry.key;
        let link = host_link(container_id, ifname);
        let of = format!("{ifname} of container {container_id}");
        match fault {
            Fault::Routes(index) => {
                let ips: Vec<IpAddr> = entry.addresses.iter().filter_map(|held| held.ip).collect();
                let (table, sysctls) = (self.config.route_table, &self.config.sysctls);
                let end = (&*link, index);
                match links::restore(&self.handle, sysctls, table, end, &ips).await {
                    Ok(()) => {
                        let elsewhere = self.goes_elsewhere(&ips, index).await;
                        if elsewhere.is_none() {
                            tracing::warn!(link, "restored missing host routes");
                        }
                        elsewhere.map(|ip| {
                            format!("{of}: the route of another program, or a rule, leads {ip} elsewhere")
                        })
                    }
                    Err(error) => Some(format!("{of} has no host route: {}", chain(&error))),
                }
            }
            Fault::Down => Some(format!("{of}: its host link is down: `ip link set {link} up`")),
            Fault::NoLink if !is_namespace_gone(&entry) => {
                Some(format!("{of}: host link {link} is gone: DEL and ADD the container again"))
            }
            Fault::NoLink => {
                let since = *gone.entry(entry.key.clone()).or_insert_with(Instant::now);
                if since.elapsed() < GONE_AFTER {
                    return Some(format!("{of}: its network namespace is gone, without a DEL"));
                }
                tracing::warn!(
                    container_id,
                    ifname,
                    "attachment released: namespace and link are gone"
                );
                let removed = self.begin_removal(entry).await;
                removed.err().map(|error| format!("{of} cannot be released: {}", error.msg))
            }
        }
    }
}

impl Healing {
    fn forget(&mut self, key: &Key) {
        self.problems.remove(key);
        self.later.remove(key);
        self.gone.remove(key);
    }

    fn forget_all_but(&mut self, entries: &[Entry]) {
        let keys: BTreeSet<&Key> = entries.iter().map(|entry| &entry.key).collect();
        self.problems.retain(|key, _| keys.contains(key));
        self.later.retain(|key| keys.contains(key));
        self.gone.retain(|key, _| keys.contains(key));
    }
}

#[cfg(test)]
mod tests {
    use romana_statemachine::Labels;

    use super::*;
    use crate::attach::AttachmentAddress;

    #[test]
    fn what_is_lost_is_told_apart() {
        let key = Key { container_id: "c".into(), ifname: "eth0".into() };
        let link = host_link("c", "eth0");
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        let entry = Entry {
            key,
            network: "net".into(),
            netns: Some("/nonexistent/netns".into()),
            addresses: vec![AttachmentAddress {
                ip: Some(ip),
                ..AttachmentAddress::new("a".into())
            }],
            owner: None,
            labels: Labels::new(),
            stage: Stage::Ready,
        };
        let ends = |up| BTreeMap::from([(link.clone(), HostEnd { index: 7, up })]);
        let routes = |index| BTreeMap::from([(ip, index)]);
        assert_eq!(fault(&entry, &ends(true), &routes(7)), None);
        assert_eq!(fault(&entry, &ends(true), &routes(8)), Some(Fault::Routes(7)), "elsewhere");
        assert_eq!(fault(&entry, &ends(true), &BTreeMap::new()), Some(Fault::Routes(7)));
        assert_eq!(fault(&entry, &ends(false), &routes(7)), Some(Fault::Down));
        assert_eq!(fault(&entry, &BTreeMap::new(), &routes(7)), Some(Fault::NoLink));
        assert!(is_namespace_gone(&entry));
        let netns = |path: &str| Entry { netns: Some(path.into()), ..entry.clone() };
        assert!(!is_namespace_gone(&netns("/proc/self/ns/net")));
        assert!(is_namespace_gone(&netns("")), "recovered");
        assert!(!is_attached(&Entry { stage: Stage::Removing, ..entry.clone() }));
        assert!(!is_attached(&Entry { netns: None, ..entry }));
    }
}

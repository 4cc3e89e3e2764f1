//! An agent: its view, its saved view, its host's kernel, and the running containers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;
use romana_agent::policy::compile::Compiler;
use romana_agent::policy::inputs::{Attached, Attachments, PolicyInputs};
use romana_agent::policy::options::Options as PolicyOptions;
use romana_agent::routes::{Change, Facts, Link, Options, Target, diff, missing, plan};
use romana_agent::view::View;
use romana_statemachine::name::{AddressName, HostName};
use romana_statemachine::{Record, Revision, State};

use super::Bug;

/// Routes of a kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    pub ours: BTreeMap<IpNet, Target>,
    /// Other programs' routes, with a value to detect changes.
    pub foreign: BTreeMap<IpNet, u32>,
}

/// An agent and its host.
#[derive(Clone, Debug)]
pub struct Agent {
    pub host: HostName,
    pub(super) view: View,
    /// The view after a restart.
    saved: View,
    /// Whether it receives the feed.
    pub(super) connected: bool,
    /// Whether it has caught up since its start.
    pub(super) caught_up: bool,
    pub kernel: Kernel,
    /// Our routes before the last pass, and whether the agent had caught up: for the law `fail-static`.
    pub(super) before: Option<(BTreeMap<IpNet, Target>, bool)>,
    /// Our routes that other programs have removed since.
    pub(super) lost: BTreeSet<IpNet>,
    /// Other programs' routes as they were left.
    pub(super) foreign: BTreeMap<IpNet, u32>,
    /// Addresses of running containers.
    pub(super) running: BTreeMap<AddressName, IpAddr>,
    pub(super) compiler: Option<Compiler>,
    delivered: u64,
    written: u64,
}

/// All hosts are on one link.
fn facts() -> Facts {
    let prefixes = vec!["192.168.0.0/24".parse(), "2001:db8::/64".parse()];
    let prefixes = prefixes.into_iter().filter_map(Result::ok).collect();
    let link = Link { index: 1, name: String::from("eth0"), prefixes };
    Facts { links: vec![link], ..Facts::default() }
}

/// The desired routes of a host.
pub(super) fn wanted(view: &View) -> BTreeMap<IpNet, Target> {
    plan(view, &facts(), Options::default()).routes
}

impl Agent {
    pub(super) fn new(number: usize) -> Self {
        let host = HostName::from(format!("h{number}"));
        let view = View::new(host.clone());
        Self {
            host,
            saved: view.clone(),
            view,
            connected: true,
            caught_up: false,
            kernel: Kernel::default(),
            before: None,
            lost: BTreeSet::new(),
            foreign: BTreeMap::new(),
            running: BTreeMap::new(),
            compiler: None,
            delivered: 0,
            written: 0,
        }
    }

    /// Delivers up to `most` records of the feed; then a bookmark, if that was all.
    pub(super) fn hear(&mut self, records: &[Record], most: usize, bug: Option<Bug>) {
        if !self.connected {
            return;
        }
        let from =
            usize::try_from(self.view.revision().get()).unwrap_or(usize::MAX).min(records.len());
        for record in records[from..].iter().take(most) {
            self.delivered += 1;
            if bug == Some(Bug::LostRecord) && self.delivered.is_multiple_of(5) {
                self.view.cursor.revision = record.revision;
                continue;
            }
            self.view.apply(record);
        }
        self.caught_up |=
            self.view.revision() == records.last().map_or(Revision(0), |last| last.revision);
    }

    /// Reconciles the kernel with the view; stops after `most` writes, as in a crash.
    pub(super) fn pass(&mut self, most: usize, bug: Option<Bug>) {
        let wanted = wanted(&self.view);
        let eager = bug == Some(Bug::EagerStart);
        let changes = match self.caught_up || eager {
            true => diff(&self.kernel.ours, &wanted),
            false => missing(&self.kernel.ours, &wanted),
        };
        self.before = Some((self.kernel.ours.clone(), self.caught_up));
        self.lost.clear();
        for change in changes.into_iter().take(most) {
            self.written += 1;
            if bug == Some(Bug::LostWrite) && self.written.is_multiple_of(7) {
                continue;
            }
            match change {
                Change::Add(prefix, target) | Change::Replace(prefix, target) => {
                    _ = self.kernel.ours.insert(prefix, target);
                }
                Change::Remove(prefix, _) => _ = self.kernel.ours.remove(&prefix),
            }
        }
        if bug == Some(Bug::ForeignTaken) {
            self.kernel.foreign.retain(|prefix, _| self.kernel.ours.contains_key(prefix));
        }
        self.compile();
    }

    fn compile(&mut self) {
        let Some(world) = self.policy() else { return };
        let fresh = || Compiler::new(&world, PolicyOptions::default());
        self.compiler.get_or_insert_with(fresh).update(world.clone());
    }

    /// The inputs of its policy filter.
    pub(super) fn policy(&self) -> Option<PolicyInputs> {
        let attached = self.running.iter().filter_map(|(name, ip)| {
            let address = self.view.addresses.get(name)?;
            let link = Some(format!("romana-{ip}").as_str().into());
            let (tenant, segment) = (address.tenant.clone(), address.segment.clone());
            Some((
                *ip,
                Attached { link, tenant, segment, labels: Default::default(), is_pod: false },
            ))
        });
        PolicyInputs::new(Arc::new(self.view.clone()), attached.collect::<Attachments>())
    }

    pub(super) fn save(&mut self) {
        self.saved = self.view.clone();
    }

    /// Restarts the agent with its saved view; the kernel state stays.
    pub(super) fn restart(&mut self) {
        self.view = self.saved.clone();
        (self.caught_up, self.compiler) = (false, None);
    }

    /// Reboots the host: containers and our routes are gone, other programs restore theirs.
    pub(super) fn reboot(&mut self) {
        self.restart();
        self.running.clear();
        self.kernel = Kernel { ours: BTreeMap::new(), foreign: self.foreign.clone() };
        self.before = None;
    }

    /// Another program adds or removes a route.
    pub(super) fn others(&mut self, number: u32) {
        let prefix = IpNet::from(IpAddr::from(Ipv4Addr::from(0xac10_0000 + number * 256)));
        if self.foreign.remove(&prefix).is_none() {
            self.foreign.insert(prefix, number);
        }
        self.kernel.foreign.clone_from(&self.foreign);
    }

    /// Another program removes one of our routes.
    pub(super) fn lose_route(&mut self, number: usize) {
        let prefix = self.kernel.ours.keys().nth(number % self.kernel.ours.len().max(1)).copied();
        if let Some(prefix) = prefix {
            self.kernel.ours.remove(&prefix);
            self.lost.insert(prefix);
        }
    }

    /// Whether the view equals the one derived from the state.
    pub(super) fn is_current(&self, state: &State) -> bool {
        self.caught_up && self.view.revision() == state.revision()
    }
}

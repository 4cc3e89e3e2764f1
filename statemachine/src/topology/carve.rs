//! Carving: from the document to groups with CIDRs (Romana 2.0 reference §1.3).
//!
//! The groups of one level divide their parent's range evenly: their number is padded to the next power of two, and
//! child `i` gets the `i`-th part. A single group gets the whole range. Padding is kept in the list for display, but
//! never takes a host.

mod groups;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use ipnet::IpNet;

use super::spec::{DeclaredHost, GroupSpec, MapSpec, NetworkSpec, TopologySpec};
use crate::command::Labels;
use crate::limits::{NETWORK_TENANTS_MAX, NETWORKS_MAX};
use crate::name::{HostName, NetworkName, TenantId};
use crate::prefix;
use crate::refusal::Refusal;

/// A topology in force: the document and the groups carved from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    pub(crate) spec: TopologySpec,
    pub(crate) networks: Vec<Network>,
}

/// A network and its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    pub name: NetworkName,
    pub cidr: IpNet,
    /// Prefix length of its blocks.
    pub block_mask: u8,
    /// Tenants that may get addresses here; empty: all tenants.
    pub tenants: BTreeSet<TenantId>,
    /// Whether the first and last address of each block are skipped.
    pub skip_first_last: bool,
    /// All groups, parents before children, padding included.
    pub groups: Vec<Group>,
    /// Indexes in `groups` of the leaves that take hosts, by CIDR.
    leaves: BTreeMap<IpNet, usize>,
}

/// A prefix group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name, if it has one.
    pub name: Option<String>,
    pub cidr: IpNet,
    /// Index of its parent in the network's list.
    pub parent: Option<usize>,
    /// Labels that a host must have: its own assignment and those of all its ancestors.
    pub requires: Labels,
    /// Whether it has no groups inside: only such a group takes hosts.
    pub leaf: bool,
    /// Whether it only pads its level to a power of two.
    pub padding: bool,
}

/// A topology and the hosts that its document declares.
pub(crate) struct Built {
    pub(crate) topology: Topology,
    pub(crate) declared: BTreeMap<HostName, Declared>,
}

/// A declared host, and its declared leaf in each network.
pub(crate) struct Declared {
    pub(crate) host: DeclaredHost,
    pub(crate) leaves: Vec<(NetworkName, IpNet)>,
    /// The labels that those leaves require: used for a host declared without labels.
    pub(crate) requires: Labels,
}

impl Topology {
    /// Carves the document of a topology in force.
    ///
    /// # Errors
    /// Why the document is not valid: a newer program must have set it.
    pub fn new(spec: &TopologySpec) -> Result<Self, Refusal> {
        Self::build(spec).map(|built| built.topology)
    }

    /// Checks a document and carves its networks.
    pub(crate) fn build(spec: &TopologySpec) -> Result<Built, Refusal> {
        let mut networks = networks(&spec.networks)?;
        let map_of = maps(spec)?;
        let mut declared = BTreeMap::new();
        for network in &mut networks {
            let Some(map) = map_of.get(&network.name) else { continue };
            let hosts = groups::carve(network, &map.map)?;
            network.index_leaves();
            declare(&mut declared, network, hosts)?;
        }
        let spec = normalise(spec, &networks);
        Ok(Built { topology: Self { spec, networks }, declared })
    }

    /// The document, without hosts and computed CIDRs.
    #[must_use]
    pub fn spec(&self) -> &TopologySpec {
        &self.spec
    }

    /// The networks, in definition order.
    #[must_use]
    pub fn networks(&self) -> &[Network] {
        &self.networks
    }

    /// The network with that name.
    #[must_use]
    pub fn network(&self, name: &NetworkName) -> Option<&Network> {
        self.networks.iter().find(|network| network.name == *name)
    }

    /// The network that contains a whole range.
    #[must_use]
    pub fn network_around(&self, cidr: IpNet) -> Option<&Network> {
        self.networks.iter().find(|network| network.cidr.contains(&cidr))
    }
}

impl Network {
    /// Whether a tenant may get addresses in the network.
    #[must_use]
    pub fn admits(&self, tenant: &TenantId) -> bool {
        self.tenants.is_empty() || self.tenants.contains(tenant)
    }

    /// The leaf groups that take hosts, ordered by range.
    pub fn leaves(&self) -> impl Iterator<Item = &Group> {
        self.leaves.values().filter_map(|at| self.groups.get(*at))
    }

    /// The leaf group with exactly that range.
    #[must_use]
    pub fn leaf(&self, cidr: IpNet) -> Option<&Group> {
        self.leaves.get(&cidr).and_then(|at| self.groups.get(*at))
    }

    /// The leaf group that contains a whole range.
    #[must_use]
    pub fn leaf_around(&self, cidr: IpNet) -> Option<&Group> {
        let (range, at) = self.leaves.range(..=cidr).next_back()?;
        self.groups.get(*at).filter(|_| range.contains(&cidr))
    }

    fn index_leaves(&mut self) {
        let leaves = self.groups.iter().enumerate();
        self.leaves = leaves
            .filter(|(_, group)| group.leaf && !group.padding)
            .map(|(at, group)| (group.cidr, at))
            .collect();
    }
}

impl Group {
    /// Whether a host with these labels is eligible for the group.
    #[must_use]
    pub fn takes(&self, labels: &Labels) -> bool {
        let matches = |(key, value)| labels.get(key) == Some(value);
        self.leaf && !self.padding && self.requires.iter().all(matches)
    }
}

/// Checks the networks one by one and against each other.
fn networks(specs: &[NetworkSpec]) -> Result<Vec<Network>, Refusal> {
    bound("networks", specs.len(), NETWORKS_MAX)?;
    let mut names = BTreeSet::new();
    let mut networks: Vec<Network> = Vec::with_capacity(specs.len());
    for spec in specs {
        spec.name.check()?;
        if !names.insert(&spec.name) {
            return Err(Refusal::DuplicateNetwork { network: spec.name.clone() });
        }
        let network = network(spec)?;
        if let Some(other) = networks.iter().find(|o| prefix::overlap(o.cidr, network.cidr)) {
            return Err(Refusal::NetworksOverlap {
                a: other.name.clone(),
                a_cidr: other.cidr,
                b: network.name,
                b_cidr: network.cidr,
            });
        }
        networks.push(network);
    }
    Ok(networks)
}

fn network(spec: &NetworkSpec) -> Result<Network, Refusal> {
    let cidr = prefix::parse_before_4(&spec.cidr)?;
    bound("tenants of a network", spec.tenants.len(), NETWORK_TENANTS_MAX)?;
    spec.tenants.iter().try_for_each(TenantId::check)?;
    Ok(Network {
        name: spec.name.clone(),
        cidr,
        block_mask: block_mask(spec, cidr)?,
        tenants: spec.tenants.iter().cloned().collect(),
        skip_first_last: spec.skip_first_last,
        groups: Vec::new(),
        leaves: BTreeMap::new(),
    })
}

/// The prefix length of blocks: as given, if it is longer than the CIDR's (a network of one address has one block of
/// one address); otherwise 29 (IPv6: 122), or the CIDR's own length if that is longer.
fn block_mask(spec: &NetworkSpec, cidr: IpNet) -> Result<u8, Refusal> {
    let (own, longest) = (cidr.prefix_len(), cidr.max_prefix_len());
    let usual = if longest == 32 { 29 } else { 122 };
    let min = u32::from(if own == longest { own } else { own + 1 });
    let max = u32::from(if spec.skip_first_last { longest.saturating_sub(2) } else { longest });
    let given = spec.block_mask.filter(|mask| *mask != 0);
    let mask = given.unwrap_or_else(|| u32::from(usual.max(own)));
    let in_range = (given.is_none() || mask >= min) && mask <= max;
    match u8::try_from(mask) {
        Ok(mask) if in_range => Ok(mask),
        _ => {
            let network = spec.name.clone();
            Err(Refusal::BlockMaskOutOfRange { network, block_mask: mask, min, max })
        }
    }
}

/// The validated map of each network: every network is in at most one map and every map has groups.
fn maps(spec: &TopologySpec) -> Result<BTreeMap<NetworkName, &MapSpec>, Refusal> {
    let defined: BTreeSet<_> = spec.networks.iter().map(|network| &network.name).collect();
    let mut map_of = BTreeMap::new();
    for map in &spec.topologies {
        if map.map.is_empty() {
            return Err(Refusal::EmptyMap { networks: map.networks.clone() });
        }
        for name in &map.networks {
            name.check()?;
            if !defined.contains(name) {
                return Err(Refusal::NetworkNotDefined { network: name.clone() });
            }
            if map_of.insert(name.clone(), map).is_some() {
                return Err(Refusal::NetworkRepeated { network: name.clone() });
            }
        }
    }
    Ok(map_of)
}

/// Records the hosts that a map declares for one of its networks.
fn declare(
    declared: &mut BTreeMap<HostName, Declared>,
    network: &Network,
    hosts: Vec<(DeclaredHost, usize)>,
) -> Result<(), Refusal> {
    for (host, at) in hosts {
        let Some(group) = network.groups.get(at) else { continue };
        let place = (network.name.clone(), group.cidr);
        let known = declared.entry(host.name.clone()).or_insert_with(|| Declared {
            host: host.clone(),
            leaves: Vec::new(),
            requires: Labels::new(),
        });
        let twice = known.leaves.iter().any(|(name, _)| *name == network.name);
        if twice || known.host != host {
            return Err(Refusal::DuplicateHost { host: host.name });
        }
        known.leaves.push(place);
        known.requires.extend(group.requires.clone());
    }
    Ok(())
}

/// The document as stored: with block masks; without hosts, computed values and padding.
fn normalise(spec: &TopologySpec, networks: &[Network]) -> TopologySpec {
    let mut spec = spec.clone();
    for (spec, network) in spec.networks.iter_mut().zip(networks) {
        spec.cidr = network.cidr.to_string();
        spec.block_mask = Some(u32::from(network.block_mask));
        spec.revision = None;
    }
    for map in &mut spec.topologies {
        if map.map.iter().any(GroupSpec::is_host) {
            map.map = alloc::vec![GroupSpec::default()];
        }
        map.map.retain(|group| group.dummy != Some(true));
        map.map.iter_mut().for_each(normalise_group);
    }
    spec
}

fn normalise_group(group: &mut GroupSpec) {
    group.cidr = None;
    group.dummy = None;
    group.hosts = None;
    let inside = group.groups.get_or_insert_default();
    inside.retain(|inner| !inner.is_host() && inner.dummy != Some(true));
    inside.iter_mut().for_each(normalise_group);
}

fn bound(field: &str, size: usize, max: usize) -> Result<(), Refusal> {
    if size <= max {
        return Ok(());
    }
    Err(Refusal::TooLarge { field: field.to_string(), size: size as u64, max: max as u64 })
}

//! What the agent knows of the cluster: the part of the state that concerns a host, folded from a
//! snapshot and the feed. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use romana_statemachine::Revision;
use romana_statemachine::command::HostState;
use romana_statemachine::name::{AddressName, HostName, NetworkName, SegmentId, TenantId};
use serde::{Deserialize, Serialize};

/// A host's view of the cluster at a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// The cluster that this is of, as its answers say. Another one's records are never mixed in.
    pub cluster: String,
    /// Up to where it is true.
    pub revision: Revision,
    /// All hosts.
    pub hosts: BTreeMap<HostName, Host>,
    /// All blocks.
    pub blocks: BTreeMap<IpNet, Block>,
    /// All networks, in the order in which addresses are taken from them.
    pub networks: Vec<Network>,
    /// Addresses of this host, by name.
    pub addresses: BTreeMap<AddressName, Address>,
    /// How many addresses to hold in reserve for each owner that lives here.
    pub reserve_per_owner: u32,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its addresses in the physical network, the main one first.
    pub ips: Vec<IpAddr>,
    /// Its state.
    pub state: HostState,
}

/// A block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Its host.
    pub host: HostName,
    /// Its tenant.
    pub tenant: TenantId,
    /// Its segment.
    pub segment: SegmentId,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: NetworkName,
    /// Its range.
    pub cidr: IpNet,
    /// Tenants that it is for; empty: open to all.
    pub tenants: Vec<TenantId>,
}

/// An address of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// It.
    pub ip: IpAddr,
    /// Its tenant.
    pub tenant: TenantId,
    /// Its segment.
    pub segment: SegmentId,
}

impl View {
    /// Networks a tenant may get addresses from, in the order of design §3: those that name it, then
    /// the open ones.
    pub fn networks_for(&self, tenant: &TenantId) -> impl Iterator<Item = &Network> {
        let named = self.networks.iter().filter(|network| network.tenants.contains(tenant));
        named.chain(self.networks.iter().filter(|network| network.tenants.is_empty()))
    }
}

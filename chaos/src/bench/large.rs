//! The cluster of the budgets and smaller ones of the same shape: 200 addresses on each host, eight of each
//! tenant, a tenant on a dozen hosts. A million addresses: 5 000 hosts, 10 000 tenants, 250 racks.

use romana_statemachine::Command;
use romana_statemachine::command::{
    AllocateAddress, HostSource, HostSpec, Labels, SegmentSpec, TenantSpec,
};
use romana_statemachine::topology::TopologySpec;
use serde_json::json;

/// Addresses on each host.
pub(super) const PER_HOST: u64 = 200;
/// Addresses of a tenant on a host: one block.
const PER_OWNER: u64 = 8;
/// Hosts in a rack.
const PER_RACK: u64 = 20;
const HOSTS_MAX: u64 = 5_000;

/// A cluster sized for a number of addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site {
    pub(super) hosts: u64,
    pub(super) tenants: u64,
    pub(super) racks: u64,
}

impl Site {
    pub(super) fn for_addresses(live: u64) -> Self {
        let hosts = live.div_ceil(PER_HOST).clamp(1, HOSTS_MAX);
        Self { hosts, tenants: 2 * hosts, racks: hosts.div_ceil(PER_RACK) }
    }

    /// A /8 with blocks of /29, divided among the racks; with a second network for plans.
    pub(super) fn topology(&self, networks: usize) -> TopologySpec {
        let racks: Vec<_> = (0..self.racks)
            .map(|rack| {
                json!({"name": format!("rack{rack}"), "assignment": {"rack": rack.to_string()}})
            })
            .collect();
        let all = [("pods", "10.0.0.0/8"), ("more", "172.16.0.0/12")];
        let named = all.iter().take(networks);
        let maps = named.clone().map(|(name, _)| json!({"networks": [name], "map": racks}));
        let networks =
            named.clone().map(|(name, cidr)| json!({"name": name, "cidr": cidr, "block_mask": 29}));
        // The document is a constant of this file.
        serde_json::from_value(json!({
            "networks": networks.collect::<Vec<_>>(),
            "topologies": maps.collect::<Vec<_>>(),
        }))
        .unwrap_or_default()
    }

    /// Commands required before allocations: hosts, tenants, segments.
    pub(super) fn furniture(&self) -> impl Iterator<Item = Command> {
        let (racks, tenants) = (self.racks, self.tenants);
        let hosts = (0..self.hosts).map(move |number| Command::AddHost(host(number, racks)));
        hosts.chain((0..tenants).flat_map(|number| {
            let id = tenant_name(number);
            let tenant = TenantSpec { id: id.as_str().into(), labels: Labels::new() };
            let segment =
                SegmentSpec { tenant: id.into(), id: "default".into(), labels: Labels::new() };
            [Command::CreateTenant(tenant), Command::CreateSegment(segment)]
        }))
    }

    /// The allocation with this number. The allocation `live` numbers later has the same host and tenant, so
    /// releasing this one makes room for it in the block.
    pub(super) fn allocation(&self, number: u64) -> AllocateAddress {
        let (host, nth) = (number % self.hosts, number / self.hosts);
        let owners = PER_HOST / PER_OWNER;
        let step = (self.tenants / owners).max(1);
        let tenant = (host + nth / PER_OWNER % owners * step) % self.tenants;
        AllocateAddress {
            name: format!("pod-{number}").into(),
            host: host_name(host).into(),
            tenant: tenant_name(tenant).into(),
            segment: "default".into(),
            network: None,
            ip: None,
        }
    }
}

pub(super) fn host_name(number: u64) -> String {
    format!("node{number}")
}

fn tenant_name(number: u64) -> String {
    format!("tenant{number}")
}

fn host(number: u64, racks: u64) -> HostSpec {
    let [.., high, low] = number.to_be_bytes();
    HostSpec {
        name: host_name(number).into(),
        ip: [192, 168, high, low].into(),
        addresses: Vec::new(),
        labels: Labels::from([(String::from("rack"), (number % racks).to_string())]),
        info: Labels::new(),
        source: HostSource::Operator,
    }
}

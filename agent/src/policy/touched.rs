//! What two worlds differ in, found without looking at what they share.

use std::collections::BTreeSet;
use std::net::IpAddr;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use ipnet::IpNet;
use romana_statemachine::name::{PolicyName, TenantId};

use super::world::{World, single};

/// Differences.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Touched {
    /// Prefixes at which somebody else may be, or somebody changed.
    pub(super) nets: BTreeSet<IpNet>,
    /// Policies that are new, changed or gone.
    pub(super) policies: BTreeSet<PolicyName>,
    /// Blocks of this host came or went, or their owners changed.
    pub(super) own_blocks: bool,
}

fn keys<K: Ord + Clone, V: PartialEq>(before: &OrdMap<K, V>, after: &OrdMap<K, V>) -> Vec<K> {
    if before.ptr_eq(after) {
        return Vec::new();
    }
    let key = |item: DiffItem<'_, '_, K, V>| match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) => key.clone(),
        DiffItem::Update { old: (key, _), .. } => key.clone(),
    };
    before.diff(after).map(key).collect()
}

pub(super) fn touched(before: &World, after: &World) -> Touched {
    let mut touched = Touched::default();
    touched.policies.extend(keys(&before.rules.policies, &after.rules.policies));
    let singles = |ips: Vec<IpAddr>| ips.into_iter().map(single);
    touched.nets.extend(singles(keys(&before.rules.endpoints, &after.rules.endpoints)));
    touched.nets.extend(singles(keys(&before.attached, &after.attached)));
    for cidr in keys(&before.view.blocks, &after.view.blocks) {
        touched.nets.insert(cidr);
        for world in [before, after] {
            let block = world.view.blocks.get(&cidr);
            touched.own_blocks |= block.is_some_and(|block| block.host == world.view.host);
        }
    }
    let tenants: BTreeSet<TenantId> =
        keys(&before.rules.tenants, &after.rules.tenants).into_iter().collect();
    if !tenants.is_empty() {
        touched.own_blocks = true;
        touched.nets.extend(after.of_tenants(&tenants));
    }
    // What an endpoint is in a set depends on its block.
    let blocks: Vec<IpNet> = touched.nets.iter().copied().collect();
    for block in blocks.into_iter().filter(|net| net.prefix_len() < net.max_prefix_len()) {
        for world in [before, after] {
            touched.nets.extend(world.endpoints_in(block).map(single));
        }
    }
    for host in keys(&before.view.hosts, &after.view.hosts) {
        let ips = [before, after].map(|world| world.view.hosts.get(&host));
        touched
            .nets
            .extend(ips.into_iter().flatten().flat_map(|host| &host.ips).copied().map(single));
    }
    touched
}

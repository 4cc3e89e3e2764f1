//! The plan of a topology change matches its effects, each consequence in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use romana_statemachine::limits::CONFLICTS_LISTED_MAX;
use romana_statemachine::name::NetworkName;
use romana_statemachine::topology::{PlannedNetwork, TopologyPlan};
use romana_statemachine::{Outcome, Refusal, State};

/// Compares a plan with the state before and after the change, and with its outcome.
pub(crate) fn check(
    before: &State,
    plan: &Result<TopologyPlan, Refusal>,
    after: &State,
    outcome: &Outcome,
) {
    let plan = match (plan, &outcome.result) {
        (Err(why), result) => return assert_eq!(result, &Err(why.clone()), "planned otherwise"),
        (Ok(plan), Err(Refusal::TopologyConflicts { conflicts, total })) => {
            assert_eq!(plan.conflicts.len() as u64, *total);
            let listed = plan.conflicts.iter().take(CONFLICTS_LISTED_MAX);
            assert!(listed.eq(conflicts), "other conflicts");
            return assert_eq!(before.revision(), after.revision());
        }
        (Ok(plan), result) => {
            assert!(result.is_ok(), "{result:?} was not planned");
            plan
        }
    };
    assert!(plan.conflicts.is_empty(), "planned to be refused");
    assert_eq!(plan.changed, before.revision() != after.revision());
    check_networks(before, plan, after);
    check_hosts(before, plan, after);
    let blocks = |state: &State| -> BTreeSet<IpNet> {
        state.ipam().blocks().map(|block| block.cidr).collect()
    };
    let (old, new) = (blocks(before), blocks(after));
    let released: BTreeSet<IpNet> = plan.blocks_released.iter().copied().collect();
    assert_eq!(released, &old - &new, "blocks that went");
    assert!(new.is_subset(&old), "blocks that came");
    assert_eq!(plan.blocks_kept, new.len() as u64);
    assert_eq!(plan.addresses_kept, after.ipam().address_count() as u64);
    check_addresses(before, plan, after);
    assert!(before.ipam().blackouts().eq(after.ipam().blackouts()), "blackouts changed");
    assert!(before.endpoints().eq(after.endpoints()), "endpoints changed");
}

/// Every address keeps its owner and host, and changes its network only as planned.
fn check_addresses(before: &State, plan: &TopologyPlan, after: &State) {
    let (old, new) = (before.ipam().addresses_after(None), after.ipam().addresses_after(None));
    let mut handed: BTreeMap<(NetworkName, NetworkName), u64> = BTreeMap::new();
    let (mut old, mut new) = (old.collect::<Vec<_>>(), new.collect::<Vec<_>>());
    for (one, other) in old.iter_mut().zip(&mut new) {
        if one.network != other.network {
            let key = (one.network.clone(), other.network.clone());
            *handed.entry(key).or_default() += 1;
            one.network = other.network.clone();
        }
    }
    assert_eq!(old, new, "addresses changed");
    let planned = plan.blocks_handed_over.iter().filter(|one| one.addresses > 0);
    let planned = planned.map(|one| ((one.from.clone(), one.to.clone()), one.addresses));
    assert_eq!(planned.collect::<BTreeMap<_, _>>(), handed);
    let mut blocks: BTreeMap<(NetworkName, NetworkName), u64> = BTreeMap::new();
    for block in after.ipam().blocks() {
        let was = before.ipam().blocks().find(|old| old.cidr == block.cidr);
        let key = (was.unwrap().owner().network.clone(), block.owner().network.clone());
        if key.0 != key.1 {
            *blocks.entry(key).or_default() += 1;
        }
    }
    let planned = plan.blocks_handed_over.iter();
    let planned = planned.map(|one| ((one.from.clone(), one.to.clone()), one.blocks));
    assert_eq!(planned.collect::<BTreeMap<_, _>>(), blocks);
}

fn networks(state: &State) -> BTreeMap<NetworkName, PlannedNetwork> {
    let networks = state.topology().into_iter().flat_map(|topology| topology.networks());
    networks.map(|network| (network.name.clone(), PlannedNetwork::of(network))).collect()
}

fn check_networks(before: &State, plan: &TopologyPlan, after: &State) {
    let (old, new) = (networks(before), networks(after));
    let only = |some: &BTreeMap<NetworkName, _>, others: &BTreeMap<NetworkName, _>| {
        let mut names: Vec<_> =
            some.keys().filter(|name| !others.contains_key(*name)).cloned().collect();
        names.sort();
        names
    };
    let sorted = |names: &[NetworkName]| {
        let mut names = names.to_vec();
        names.sort();
        names
    };
    assert_eq!(sorted(&plan.networks_added), only(&new, &old));
    assert_eq!(sorted(&plan.networks_removed), only(&old, &new));
    let changed: BTreeMap<_, _> =
        plan.networks_changed.iter().map(|c| (c.network.clone(), (&c.from, &c.to))).collect();
    let differ = old.iter().filter_map(|(name, from)| Some((name.clone(), (from, new.get(name)?))));
    assert_eq!(changed, differ.filter(|(_, (from, to))| from != to).collect());
}

fn check_hosts(before: &State, plan: &TopologyPlan, after: &State) {
    let old: BTreeSet<_> = before.hosts().map(|host| host.name.clone()).collect();
    let new: BTreeSet<_> = after.hosts().map(|host| host.name.clone()).collect();
    assert!(old.is_subset(&new), "hosts went");
    let added: BTreeSet<_> = plan.hosts_added.iter().cloned().collect();
    assert_eq!(added, &new - &old);
    let mut moved = BTreeMap::new();
    for host in before.hosts() {
        let now = after.host(&host.name).unwrap();
        let ips = |host: &romana_statemachine::Host| host.ips().collect::<Vec<IpAddr>>();
        assert_eq!((ips(host), &host.labels), (ips(now), &now.labels), "{}", host.name);
        for place in host.places.iter().chain(&now.places) {
            let (from, to) = (host.place(&place.network), now.place(&place.network));
            if from != to {
                moved.insert((host.name.clone(), place.network.clone()), (from, to));
            }
        }
    }
    let planned: BTreeMap<_, _> = plan
        .hosts_moved
        .iter()
        .map(|one| ((one.host.clone(), one.network.clone()), (one.from, one.to)))
        .collect();
    assert_eq!(planned, moved);
    let groups = after.topology().into_iter().flat_map(|topology| topology.networks());
    let groups = groups.flat_map(|network| network.leaves().map(move |leaf| (network, leaf)));
    let groups: Vec<_> = groups
        .map(|(network, leaf)| {
            let hosts = after.hosts().filter(|host| host.place(&network.name) == Some(leaf.cidr));
            (network.name.clone(), leaf.cidr, leaf.name.clone(), hosts.count() as u64)
        })
        .collect();
    let planned: Vec<_> =
        plan.groups.iter().map(|g| (g.network.clone(), g.cidr, g.name.clone(), g.hosts)).collect();
    assert_eq!(planned, groups);
}

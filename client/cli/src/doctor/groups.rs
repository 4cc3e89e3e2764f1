//! Checks the topology: whether there is one, and whether networks and groups have addresses left.

use romana_api::network::Network;
use romana_statemachine::GroupUsage;

use super::{Finding, bad, good, warning};
use crate::network;

/// The remedy for a full group or network.
const MORE: &str = "add a network, or hosts in another group: romana topology plan FILE";

/// Utilization of every network and group.
pub(super) fn check(networks: &[Network]) -> Vec<Finding> {
    if networks.is_empty() {
        let what = "no topology is set: no host can be added and no address allocated";
        let remedy = "romana topology update FILE (deploy/topologies has examples), or romanad --initial-network FILE";
        return vec![warning("topology", what).remedy(remedy)];
    }
    let mut findings = Vec::new();
    for network in networks {
        let name = &network.name;
        let (used, capacity) = total(network);
        let percent = percent(used, capacity);
        let what = format!("network {name} is {percent}% full: {used} of {capacity} addresses");
        findings.extend(full("networks", percent, &what));
        for group in &network.groups {
            let cidr = group.usage.cidr;
            let percent = network::percent_used(&group.usage);
            let what = format!("group {cidr} of {name} is {percent}% full");
            let by_addresses = full("groups", percent, &what);
            findings.extend(by_addresses.or_else(|| without_blocks(network, &group.usage)));
        }
    }
    if findings.is_empty() {
        let count: usize = networks.iter().map(|network| network.groups.len()).sum();
        findings.push(good("groups", format!("all {count} have addresses left")));
    }
    findings
}

fn full(check: &'static str, percent: u64, what: &str) -> Option<Finding> {
    match percent {
        0..80 => None,
        80..95 => Some(warning(check, what).remedy(MORE)),
        _ => Some(bad(check, what).remedy(MORE)),
    }
}

/// Addresses in use or cooling down, and all addresses of a network's groups.
fn total(network: &Network) -> (u64, u64) {
    network.groups.iter().fold((0_u64, 0_u64), |(used, capacity), group| {
        let GroupUsage { addresses, cooling, capacity: more, .. } = &group.usage;
        let used = used.saturating_add(*addresses).saturating_add(*cooling);
        (used, capacity.saturating_add(*more))
    })
}

fn percent(used: u64, capacity: u64) -> u64 {
    match capacity {
        0 => 0,
        capacity => u64::try_from(u128::from(used) * 100 / u128::from(capacity)).unwrap_or(100),
    }
}

/// A group whose blocks all have owners: addresses are left, but only for those.
fn without_blocks(network: &Network, usage: &GroupUsage) -> Option<Finding> {
    let bits = network.cidr.max_prefix_len().checked_sub(network.block_mask)?;
    let size = 1_u128.checked_shl(bits.into())?;
    let group_bits = network.cidr.max_prefix_len().saturating_sub(usage.cidr.prefix_len());
    let blocks = 1_u128.checked_shl(group_bits.into())? / size;
    if usage.blocks == 0 || u128::from(usage.blocks) < blocks {
        return None;
    }
    let (cidr, name) = (usage.cidr, &network.name);
    let what = format!(
        "every block of group {cidr} of {name} has an owner: another host, tenant or segment gets no address there"
    );
    Some(warning("groups", what).remedy(MORE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::{network, tones};
    use crate::table::Tone;

    #[test]
    fn full_groups_and_networks_are_found() {
        assert_eq!(tones(&check(&[network("n", &[("a", 10)])])), [Tone::Good]);
        let found = check(&[network("n", &[("a", 80), ("b", 10)])]);
        assert_eq!((tones(&found), found[0].check), (vec![Tone::Warning], "groups"));
        let found = check(&[network("n", &[("a", 96), ("b", 90)])]);
        assert_eq!(tones(&found), [Tone::Warning, Tone::Bad, Tone::Warning]);
        assert_eq!(found[0].what, "network n is 93% full: 186 of 200 addresses");
    }

    #[test]
    fn a_group_whose_blocks_are_all_taken_is_found() {
        let mut small = network("n", &[("a", 10)]);
        small.groups[0].usage.cidr = "10.0.0.0/28".parse().unwrap();
        small.groups[0].usage.blocks = 2;
        let found = check(&[small.clone()]);
        assert_eq!(tones(&found), [Tone::Warning]);
        assert!(found[0].what.contains("every block of group 10.0.0.0/28"), "{found:?}");
        small.groups[0].usage.blocks = 1;
        assert_eq!(tones(&check(&[small])), [Tone::Good]);
    }

    #[test]
    fn a_cluster_without_a_topology_says_what_to_do() {
        let found = check(&[]);
        assert_eq!((tones(&found), found[0].check), (vec![Tone::Warning], "topology"));
        assert!(found[0].remedy.contains("romana topology update FILE"));
    }
}

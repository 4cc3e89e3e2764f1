//! Computes the difference between two worlds without visiting what they share.

use std::collections::BTreeSet;
use std::net::IpAddr;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use ipnet::IpNet;
use romana_statemachine::name::{PolicyName, TenantId};

use super::inputs::{PolicyInputs, by_labels, single};

/// Differences.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Delta {
    /// Prefixes whose holder may have changed.
    pub(super) nets: BTreeSet<IpNet>,
    /// Policies that were added, changed or removed.
    pub(super) policies: BTreeSet<PolicyName>,
    /// Blocks of this host were added or removed, or their owners changed.
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

pub(super) fn touched(before: &PolicyInputs, after: &PolicyInputs) -> Delta {
    let mut touched = Delta::default();
    touched.policies.extend(keys(&before.rules.policies, &after.rules.policies));
    let mut awaited = BTreeSet::new();
    for world in [before, after] {
        let policies = touched.policies.iter().filter_map(|name| world.rules.policies.get(name));
        awaited.extend(policies.flat_map(by_labels).cloned());
    }
    let singles = |ips: Vec<IpAddr>| ips.into_iter().map(single);
    touched.nets.extend(singles(keys(&before.rules.endpoints, &after.rules.endpoints)));
    touched.nets.extend(singles(keys(&before.attached, &after.attached)));
    if !awaited.is_empty() {
        touched.nets.extend(after.pods_of(&awaited).map(single));
    }
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
    // Whether an endpoint is a member of a set depends on its block.
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use romana_statemachine::policy::{Policy, Target};

    use super::super::inputs::Attachments;
    use super::*;
    use crate::policy_view::PolicyView;
    use crate::view::View;

    /// Regression test: imbl before 7.0.2 missed the first difference after a part that two maps share, and a
    /// changed policy was not updated in the kernel.
    #[test]
    fn one_among_many_is_seen() {
        let policy = |n: usize, description: &str| Policy {
            name: format!("p{n}").into(),
            description: description.into(),
            applied_to: vec![Target::Local],
            isolates_ingress: true,
            isolates_egress: false,
            ingress: Vec::new(),
            egress: Vec::new(),
        };
        let world = |rules: &PolicyView| {
            let view = View { rules: Some(rules.clone()), ..View::new("h".into()) };
            PolicyInputs::new(Arc::new(view), Attachments::new()).unwrap()
        };
        let mut rules = PolicyView::default();
        for n in 0..300 {
            rules.policies.insert(format!("p{n}").into(), policy(n, ""));
        }
        let before = world(&rules);
        for n in 0..300 {
            let mut changed = rules.clone();
            changed.policies.insert(format!("p{n}").into(), policy(n, "changed"));
            let wanted = BTreeSet::from([PolicyName::from(format!("p{n}"))]);
            assert_eq!(touched(&before, &world(&changed)).policies, wanted);
        }
    }
}

//! The topologies that shipped with Romana 2.0, by name: `kubeadm` and one per AWS region.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::spec::{GroupSpec, MapSpec, NetworkSpec, TopologySpec};
use crate::command::Labels;
use crate::name::NetworkName;

/// The one network of all built-in topologies.
const NETWORK: &str = "romana-network";
const KUBEADM: &str = "kubeadm";
const KUBEADM_CIDR: &str = "10.112.0.0/12";
const KUBEADM_GROUPS: usize = 8;
const AWS_CIDR: &str = "100.96.0.0/11";

/// Region, letters of its zones, groups per zone. us-east-1 has four: 6 × 8 = 48 prefixes would be too close to the
/// limit of 50 routes in a VPC route table.
const AWS: [(&str, &str, usize); 14] = [
    ("ap-northeast-1", "ac", 8),
    ("ap-northeast-2", "ac", 8),
    ("ap-south-1", "ab", 8),
    ("ap-southeast-1", "ab", 8),
    ("ap-southeast-2", "abc", 8),
    ("ca-central-1", "ab", 8),
    ("eu-central-1", "abc", 8),
    ("eu-west-1", "abc", 8),
    ("eu-west-2", "ab", 8),
    ("sa-east-1", "abc", 8),
    ("us-east-1", "abcdef", 4),
    ("us-east-2", "abc", 8),
    ("us-west-1", "bc", 8),
    ("us-west-2", "abc", 8),
];

/// The built-in topology of that name: `kubeadm`, or `aws-<region>`.
#[must_use]
pub fn builtin(name: &str) -> Option<TopologySpec> {
    if name == KUBEADM {
        let groups = (1..=KUBEADM_GROUPS).map(|n| leaf(format!("host-group-{n:02}"), []));
        return Some(topology(KUBEADM_CIDR, groups.collect()));
    }
    let name = name.strip_prefix("aws-")?;
    let (region, zones, groups) = AWS.iter().find(|(region, ..)| *region == name)?;
    let zone = |letter| zone(region, &format!("{region}{letter}"), *groups);
    Some(topology(AWS_CIDR, zones.chars().map(zone).collect()))
}

/// Names of all built-in topologies.
#[must_use]
pub fn builtin_names() -> Vec<String> {
    let aws = AWS.iter().map(|(region, ..)| format!("aws-{region}"));
    [String::from(KUBEADM)].into_iter().chain(aws).collect()
}

fn topology(cidr: &str, map: Vec<GroupSpec>) -> TopologySpec {
    let network = NetworkSpec {
        name: NETWORK.into(),
        cidr: cidr.into(),
        block_mask: None,
        tenants: Vec::new(),
        skip_first_last: false,
        revision: None,
    };
    let networks = vec![NetworkName::from(NETWORK)];
    TopologySpec { networks: vec![network], topologies: vec![MapSpec { networks, map }] }
}

/// An availability zone: its groups require the zone's labels, so that each zone has separate prefixes.
fn zone(region: &str, zone: &str, groups: usize) -> GroupSpec {
    let leaf = |n| {
        let labels = [
            ("failure-domain.beta.kubernetes.io/region", region),
            ("failure-domain.beta.kubernetes.io/zone", zone),
        ];
        leaf(format!("{zone}-group-{n:02}"), labels)
    };
    GroupSpec {
        name: Some(format!("failure-domain: {zone}")),
        groups: Some((1..=groups).map(leaf).collect()),
        ..GroupSpec::default()
    }
}

fn leaf<const N: usize>(name: String, labels: [(&str, &str); N]) -> GroupSpec {
    let assignment: Labels = labels.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
    GroupSpec { name: Some(name), groups: Some(Vec::new()), assignment, ..GroupSpec::default() }
}

//! What the zone is made of: Services and their backends, without what DNS has no use for. This is also the form of
//! the copy on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Services, EndpointSlices and namespaces of a Kubernetes cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    pub namespaces: BTreeSet<String>,
    /// By namespace and name.
    pub services: BTreeMap<String, BTreeMap<String, Service>>,
    /// By namespace and name of the slice.
    pub slices: BTreeMap<String, BTreeMap<String, Slice>>,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub kind: ServiceKind,
    pub ports: Vec<Port>,
    /// Whether backends that are not ready have names, too.
    pub publish_not_ready: bool,
    /// The VIP of another Service that it shares, as romanad notes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_vip: Option<String>,
}

/// What stands behind a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceKind {
    /// Its cluster IPs, the primary one first.
    Cluster(Vec<IpAddr>),
    /// `clusterIP: None`.
    Headless,
    /// Another name.
    External(String),
}

impl Default for ServiceKind {
    fn default() -> Self {
        Self::Cluster(Vec::new())
    }
}

/// A port with a name; ports without one have no records.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    pub name: String,
    pub protocol: Protocol,
    pub number: u16,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// The label of its SRV records.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tcp => "_tcp",
            Self::Udp => "_udp",
            Self::Sctp => "_sctp",
        }
    }
}

/// An EndpointSlice, or an Endpoints object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// The Service that it belongs to, in the same namespace.
    pub service: String,
    pub groups: Vec<Group>,
}

/// Backends with the same ports: an EndpointSlice, or a subset of an Endpoints object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub ports: Vec<Port>,
    pub backends: Vec<Backend>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    pub addresses: Vec<IpAddr>,
    /// One label; `None` if it has none, or none that is valid.
    pub hostname: Option<String>,
    pub ready: bool,
}

/// Whether a text is a label of a host (RFC 1123): letters, digits and inner hyphens.
#[must_use]
pub fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// An address as a label: `10-0-0-1`, `fd00--1`.
#[must_use]
pub fn address_label(ip: IpAddr) -> String {
    let mut label = ip.to_string().replace(['.', ':'], "-");
    // `::1` and `fd00::`: a label neither begins nor ends with a hyphen.
    if label.starts_with('-') {
        label.insert(0, '0');
    }
    if label.ends_with('-') {
        label.push('0');
    }
    label
}

/// The address of such a label.
#[must_use]
pub fn label_address(label: &str) -> Option<IpAddr> {
    let v4 = || label.replace('-', ".").parse().ok().map(IpAddr::V4);
    let v6 = || label.replace('-', ":").parse().ok().map(IpAddr::V6);
    v4().or_else(v6)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn addresses_are_labels_and_back(v4: u32, v6: u128) {
            for ip in [IpAddr::V4(v4.into()), IpAddr::V6(v6.into())] {
                // An IPv4-mapped address is written with dots, which no label has.
                prop_assume!(ip.to_canonical() == ip);
                let label = address_label(ip);
                prop_assert!(is_label(&label), "{label}");
                prop_assert_eq!(label_address(&label), Some(ip));
            }
        }
    }

    #[test]
    fn labels_at_the_edges() {
        for (ip, label) in [("::1", "0--1"), ("fd00::", "fd00--0"), ("::", "0--0")] {
            assert_eq!(address_label(ip.parse().unwrap()), label);
            assert_eq!(label_address(label), Some(ip.parse().unwrap()));
        }
        for label in ["10-0-0", "10-0-0-256", "a-b", "", "1-2-3-4-5"] {
            assert_eq!(label_address(label), None, "{label}");
        }
        for label in ["", "-a", "a-", "a.b", "a_b", &"a".repeat(64)] {
            assert!(!is_label(label), "{label}");
        }
    }
}

//! Settings of the zone.

use std::str::FromStr;

use hickory_proto::rr::Name;
use ipnet::IpNet;
use serde::Deserialize;

/// Settings that answers depend on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The zone of all names but those of addresses.
    pub zone: Name,
    /// Time to live of its records, and of the absence of one, seconds.
    pub ttl: u32,
    /// What the name of a Service answers, in this order.
    pub parts: Vec<Part>,
    pub pods: Pods,
    /// Addresses without a name in here do not exist; questions for others are forwarded.
    pub reverse: Vec<IpNet>,
    /// The Service of the DNS server itself: the name server of the zone.
    pub service: ServiceName,
}

/// A kind of address that the name of a Service answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Published endpoints. Those of a headless Service are always answered.
    Endpoint,
    ClusterIp,
    /// The VIP that Romana has for the Service.
    Vip,
}

impl Part {
    /// All, in the order of the sample in the documentation of Romana DNS (chapter 8.4.3).
    pub const ALL: [Self; 3] = [Self::Endpoint, Self::ClusterIp, Self::Vip];
}

/// Which names of pods are answered (kube-dns: `10-0-0-1.NAMESPACE.pod.ZONE`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pods {
    /// None.
    Disabled,
    /// Any address in a namespace that exists, as kube-dns does.
    #[default]
    Insecure,
    /// Addresses that Romana knows as endpoints of the namespace.
    Verified,
}

/// Namespace and name of a Service: `kube-system/kube-dns`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ServiceName {
    pub namespace: String,
    pub name: String,
}

impl Default for ServiceName {
    fn default() -> Self {
        Self { namespace: "kube-system".into(), name: "kube-dns".into() }
    }
}

impl FromStr for ServiceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self { namespace: namespace.into(), name: name.into() })
            }
            _ => Err(format!("{text:?} is not NAMESPACE/NAME")),
        }
    }
}

impl TryFrom<String> for ServiceName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            zone: Name::from_ascii("cluster.local.").unwrap_or_default(),
            ttl: 5,
            parts: Part::ALL.into(),
            pods: Pods::default(),
            reverse: Vec::new(),
            service: ServiceName::default(),
        }
    }
}

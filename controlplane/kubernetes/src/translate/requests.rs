//! What a Service asks for: which address, and where the API server is to show it.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use romana_statemachine::name::VipName;
use serde::Deserialize;

use crate::problem::ObjectRef;
use crate::shown::{ADDRESSES_MAX, Shown, ShownVip};

/// The annotations that ask for a VIP: as in the documentation, and as Romana 2.0.2 reads it.
const ANNOTATIONS: [&str; 2] = ["romanaip", "romanavip"];
/// Services that have this annotation with the same value, and ask for the same address, share it.
const SHARED: &str = "romana.io/allow-shared-ip";

/// The value of the annotation: `{"auto": false, "ip": "192.168.99.101"}` or `{"auto": true, "pool": "edge"}`. Several
/// addresses are separated by commas.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Annotation {
    #[serde(default)]
    auto: bool,
    #[serde(default)]
    ip: Option<String>,
    #[serde(default)]
    pool: Option<String>,
}

/// The address that a Service asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Address {
    Given(IpAddr),
    /// One of a pool ([`State::vip_pools`](romana_statemachine::State::vip_pools)); `None`: of any pool.
    Auto {
        pool: Option<String>,
        /// As in `spec.ipFamilies`, such as `IPv6`; `None`: either.
        family: Option<String>,
    },
}

/// A Service that asks for a VIP.
pub(super) struct Request<'a> {
    pub(super) service: &'a Service,
    pub(super) object: ObjectRef,
    /// The name of its first VIP, unless it shares those of another Service.
    pub(super) name: VipName,
    /// At least one, and at most [`ADDRESSES_MAX`].
    pub(super) addresses: Vec<Address>,
    pub(super) shown: Shown,
    /// Services with the same key share an address.
    pub(super) key: Option<&'a str>,
}

/// Why a Service gets no VIP.
pub(super) struct Fault {
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// Whether the VIP that the log has stays: what the Service asks for is not known, or its address would be lost.
    pub(super) keeps: bool,
}

impl<'a> Request<'a> {
    /// What a Service asks for; `None`: nothing.
    pub(super) fn of(service: &'a Service) -> Result<Option<Self>, Fault> {
        let shown = Shown::of(service);
        let annotated = annotated(service)?;
        let addresses = match (shown, annotated) {
            (Shown::External, None) => return Ok(None),
            (Shown::External, Some(addresses)) => addresses,
            (Shown::LoadBalancer, annotated) => balanced(service, annotated)?,
        };
        if spec(service).and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
            let message =
                "a Service of type ExternalName has no endpoints that a VIP could lead to.";
            return Err(Fault { reason: "ExternalName", message: message.into(), keeps: false });
        }
        let object = ObjectRef::of(service);
        let ShownVip { name, .. } = ShownVip::of(service);
        let key = annotation(service, SHARED).filter(|key| !key.is_empty());
        Ok(Some(Self { service, object, name, addresses, shown, key }))
    }

    /// When the Service was created, and its name.
    pub(super) fn age(&self) -> (Option<&Time>, &str, &str) {
        let created = self.service.metadata.creation_timestamp.as_ref();
        (created, &self.object.namespace, &self.object.name)
    }

    /// Whether only nodes with an endpoint of the Service forward to it.
    pub(super) fn is_local(&self) -> bool {
        let policy = spec(self.service).and_then(|spec| spec.external_traffic_policy.as_deref());
        policy == Some("Local")
    }

    /// Whether any node may have its VIP when none has an endpoint: a load balancer has its address from the
    /// beginning, and kube-proxy forwards from every node.
    pub(super) fn is_anywhere(&self) -> bool {
        self.shown == Shown::LoadBalancer && !self.is_local()
    }

    /// Whether its VIP stays where it is when no node has an endpoint: another one could get another address.
    pub(super) fn keeps(&self) -> bool {
        let auto = |address: &Address| matches!(address, Address::Auto { .. });
        self.shown == Shown::LoadBalancer || self.addresses.iter().any(auto)
    }
}

fn spec(service: &Service) -> Option<&ServiceSpec> {
    service.spec.as_ref()
}

fn annotation<'a>(service: &'a Service, key: &str) -> Option<&'a str> {
    service.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The addresses that the annotation asks for.
fn annotated(service: &Service) -> Result<Option<Vec<Address>>, Fault> {
    let mut given = ANNOTATIONS.iter().filter_map(|key| Some((*key, annotation(service, key)?)));
    let Some((key, value)) = given.next() else { return Ok(None) };
    let wrong = |why: String| {
        let message =
            format!("annotation {key} {why}. Write {{\"auto\": false, \"ip\": \"ADDRESS\"}}.");
        Fault { reason: "InvalidAnnotation", message, keeps: true }
    };
    if given.any(|(_, other)| other != value) {
        return Err(wrong(format!("and {} differ", ANNOTATIONS[1])));
    }
    let Annotation { auto, ip, pool } = serde_json::from_str(value)
        .map_err(|error| wrong(format!("is not understood: {error}")))?;
    match (auto, ip, pool) {
        (true, None, pool) => Ok(Some(automatic(service, pool.as_ref()))),
        (true, Some(_), _) => Err(wrong("has \"auto\": true and an ip".into())),
        (false, _, Some(_)) => Err(wrong("has a pool without \"auto\": true".into())),
        (false, None, None) => Err(wrong("has no ip".into())),
        (false, Some(text), None) => {
            let unreadable = || format!("has no address as ip: \"{}\"", text.escape_default());
            let mut addresses = Vec::new();
            for part in text.split(',') {
                let ip: IpAddr = part.trim().parse().map_err(|_| wrong(unreadable()))?;
                if addresses.contains(&Address::Given(ip)) || addresses.len() >= ADDRESSES_MAX {
                    return Err(wrong(format!("has an ip twice, or more than {ADDRESSES_MAX}")));
                }
                addresses.push(Address::Given(ip));
            }
            Ok(Some(addresses))
        }
    }
}

/// An address of a pool for each family of the Service. One with an annotation has one address, of the family of its
/// cluster IP.
fn automatic(service: &Service, pool: Option<&String>) -> Vec<Address> {
    let families = spec(service).and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
    let one =
        |family: Option<&String>| Address::Auto { pool: pool.cloned(), family: family.cloned() };
    match Shown::of(service) {
        Shown::LoadBalancer if families.len() > 1 => {
            families.iter().take(ADDRESSES_MAX).map(|family| one(Some(family))).collect()
        }
        _ => vec![one(families.first())],
    }
}

/// The addresses of a load balancer: those of its annotation, else `spec.loadBalancerIP`, else such of any pool.
fn balanced(service: &Service, annotated: Option<Vec<Address>>) -> Result<Vec<Address>, Fault> {
    let given = spec(service).and_then(|spec| spec.load_balancer_ip.as_deref());
    let Some(text) = given.filter(|text| !text.is_empty()) else {
        return Ok(annotated.unwrap_or_else(|| automatic(service, None)));
    };
    let wrong = |why: String| {
        let message = format!("spec.loadBalancerIP {why}. Write an address, or leave it out.");
        Fault { reason: "InvalidLoadBalancerIP", message, keeps: true }
    };
    let ip: IpAddr = text
        .parse()
        .map_err(|_| wrong(format!("is not an address: \"{}\"", text.escape_default())))?;
    match annotated {
        Some(annotated) if annotated != [Address::Given(ip)] => {
            Err(wrong("and the annotation ask for different addresses".into()))
        }
        _ => Ok(vec![Address::Given(ip)]),
    }
}

//! Converts a Kubernetes NetworkPolicy (`networking.k8s.io/v1`) to a Romana policy: completely, or not at all.
//!
//! The policy `kube.<namespace>.<name>` applies to the selected pods of the namespace, which is the tenant of the
//! same name. A name that is too long is truncated, and a hash of the full name is appended. An object with API
//! fields that this release does not know is refused.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use serde::Deserialize;

use super::document::{Labelled, absent, selector};
use super::{Peer, Policy, Port, Protocol, Rule, Target, TenantSelector, Traffic};
use crate::Digest;
use crate::limits::NAME_BYTES_MAX;
use crate::name::{PolicyName, TenantId};
use crate::refusal::Refusal;

/// A NetworkPolicy object from the API server. Only the names in its metadata are used.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NetworkPolicy {
    pub metadata: Metadata,
    #[serde(default, deserialize_with = "absent")]
    pub spec: Spec,
}

/// Metadata of an object: its names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Metadata {
    pub name: String,
    pub namespace: String,
}

/// `NetworkPolicySpec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Spec {
    /// Selects pods of the namespace; empty: all.
    #[serde(deserialize_with = "absent")]
    pub pod_selector: Labelled,
    /// Inbound traffic to allow.
    pub ingress: Option<Vec<Ingress>>,
    /// Outbound traffic to allow.
    pub egress: Option<Vec<Egress>>,
    /// Directions to isolate; absent: ingress, and egress if there are egress rules.
    pub policy_types: Option<Vec<PolicyType>>,
}

/// `PolicyType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum PolicyType {
    /// Inbound.
    Ingress,
    /// Outbound.
    Egress,
}

/// `NetworkPolicyIngressRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ingress {
    /// Sources; absent or empty: any.
    pub from: Option<Vec<PeerSpec>>,
    /// Ports; absent or empty: any.
    pub ports: Option<Vec<PortSpec>>,
}

/// `NetworkPolicyEgressRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Egress {
    /// Destinations; absent or empty: any.
    pub to: Option<Vec<PeerSpec>>,
    /// Ports; absent or empty: any.
    pub ports: Option<Vec<PortSpec>>,
}

/// `NetworkPolicyPeer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct PeerSpec {
    pub pod_selector: Option<Labelled>,
    pub namespace_selector: Option<Labelled>,
    /// Addresses.
    pub ip_block: Option<IpBlock>,
}

/// `IPBlock`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IpBlock {
    pub cidr: String,
    /// Subranges that do not match.
    pub except: Option<Vec<String>>,
}

/// `NetworkPolicyPort`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct PortSpec {
    /// `TCP` (the default), `UDP` or `SCTP`.
    pub protocol: Option<String>,
    /// A number or a name; absent: all ports.
    pub port: Option<NumberOrName>,
    /// The last port of a range that begins at `port`.
    pub end_port: Option<u64>,
}

/// `IntOrString`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "a port is a number or a name")]
pub enum NumberOrName {
    Number(u64),
    /// The name of a port of the destination pod.
    Name(String),
}

/// A field, and the problem.
type Fault = (String, String);

impl NetworkPolicy {
    /// The corresponding Romana policy.
    ///
    /// # Errors
    /// [`Refusal::InvalidPolicy`] with the path of the field, such as `spec.ingress[0].from[1].ipBlock.cidr`.
    pub fn policy(&self) -> Result<Policy, Refusal> {
        let Metadata { name, namespace } = &self.metadata;
        let name = policy_name(namespace, name);
        let refuse = |(field, why)| Refusal::InvalidPolicy { policy: name.to_string(), field, why };
        let policy = self.translate(name.clone(), &namespace.as_str().into()).map_err(refuse)?;
        policy.check()?;
        Ok(policy)
    }

    fn translate(&self, name: PolicyName, namespace: &TenantId) -> Result<Policy, Fault> {
        let spec = &self.spec;
        let pods = selector("spec.podSelector", &spec.pod_selector)?;
        let types = spec.policy_types.as_deref();
        let isolates = |direction| types.is_some_and(|types| types.contains(&direction));
        let unsaid = types.is_none_or(<[PolicyType]>::is_empty);
        let isolates_ingress = unsaid || isolates(PolicyType::Ingress);
        let some = |list: &Option<Vec<Egress>>| list.as_ref().is_some_and(|list| !list.is_empty());
        let isolates_egress = isolates(PolicyType::Egress) || unsaid && some(&spec.egress);
        let mut policy = Policy {
            name,
            description: String::new(),
            applied_to: vec![Target::Endpoints(namespace.clone(), pods)],
            isolates_ingress,
            isolates_egress,
            ingress: Vec::new(),
            egress: Vec::new(),
        };
        // Kubernetes ignores rules of a direction that is not isolated.
        for (i, rule) in spec.ingress.iter().flatten().enumerate().filter(|_| isolates_ingress) {
            let path = format!("spec.ingress[{i}]");
            let peers = peers(&format!("{path}.from"), namespace, rule.from.as_deref())?;
            policy.ingress.push(Rule { peers, traffic: ports(&path, rule.ports.as_deref())? });
        }
        for (i, rule) in spec.egress.iter().flatten().enumerate().filter(|_| isolates_egress) {
            let path = format!("spec.egress[{i}]");
            let peers = peers(&format!("{path}.to"), namespace, rule.to.as_deref())?;
            policy.egress.push(Rule { peers, traffic: ports(&path, rule.ports.as_deref())? });
        }
        Ok(policy)
    }
}

/// Hex digits of the hash in a shortened name.
const DIGEST_DIGITS: usize = 32;

/// `kube.<namespace>.<name>`; if that is too long, `kube.<namespace>.<first part of name>-<hash of name>`.
/// The hash is BLAKE3, 128 bits of it. It must never change: policies in the log have these names.
fn policy_name(namespace: &str, name: &str) -> PolicyName {
    let whole = format!("kube.{namespace}.{name}");
    if whole.len() <= NAME_BYTES_MAX {
        return whole.into();
    }
    let digest = Digest::of(name.as_bytes()).to_string();
    let tail = format!("-{}", digest.get(..DIGEST_DIGITS).unwrap_or(&digest));
    // The namespace is never truncated: one that is too long is refused, so that it cannot collide with another.
    let least = "kube.".len() + namespace.len() + 1;
    let room = NAME_BYTES_MAX.saturating_sub(tail.len()).max(least);
    let first = whole.get(..whole.floor_char_boundary(room)).unwrap_or_default();
    format!("{first}{tail}").into()
}

fn peers(path: &str, namespace: &TenantId, list: Option<&[PeerSpec]>) -> Result<Vec<Peer>, Fault> {
    let Some(list) = list.filter(|list| !list.is_empty()) else { return Ok(vec![Peer::Any]) };
    let each = list.iter().enumerate();
    each.map(|(i, spec)| peer(&format!("{path}[{i}]"), namespace, spec)).collect()
}

fn peer(path: &str, namespace: &TenantId, spec: &PeerSpec) -> Result<Peer, Fault> {
    if let Some(IpBlock { cidr, except }) = &spec.ip_block {
        if spec.pod_selector.is_some() || spec.namespace_selector.is_some() {
            return Err((format!("{path}.ipBlock"), "it stands beside a selector".into()));
        }
        let parse = |field: String, text: &str| {
            // The API server accepts bits after the prefix and ignores them.
            match crate::prefix::parse(text) {
                Ok(net) | Err(Refusal::HostBitsSet { network: net, .. }) => Ok(net),
                Err(refusal) => Err((field, refusal.to_string())),
            }
        };
        let except = except.iter().flatten().enumerate();
        let except = except.map(|(i, part)| parse(format!("{path}.ipBlock.except[{i}]"), part));
        return Ok(Peer::Cidr {
            cidr: parse(format!("{path}.ipBlock.cidr"), cidr)?,
            except: except.collect::<Result<_, _>>()?,
        });
    }
    let pods = spec.pod_selector.as_ref();
    let pods = pods.map(|labelled| selector(&format!("{path}.podSelector"), labelled));
    let tenants = match &spec.namespace_selector {
        Some(labelled) => {
            TenantSelector::Labels(selector(&format!("{path}.namespaceSelector"), labelled)?)
        }
        None if pods.is_none() => return Err((path.into(), "it selects nothing".into())),
        None => TenantSelector::Id(namespace.clone()),
    };
    Ok(Peer::Endpoints { tenants, endpoints: pods.transpose()?.unwrap_or_default() })
}

fn ports(path: &str, list: Option<&[PortSpec]>) -> Result<Vec<Traffic>, Fault> {
    let any = || Traffic { protocol: Protocol::Any, ports: Vec::new(), icmp: None };
    let Some(list) = list.filter(|list| !list.is_empty()) else { return Ok(vec![any()]) };
    let mut traffic: Vec<Traffic> = Vec::new();
    for (i, spec) in list.iter().enumerate() {
        let path = format!("{path}.ports[{i}]");
        let protocol = match spec.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            Some(_) => return Err((format!("{path}.protocol"), "not TCP, UDP or SCTP".into())),
        };
        let ports: Vec<Port> = port(&path, spec)?.into_iter().collect();
        traffic.push(Traffic { protocol, ports, icmp: None });
    }
    Ok(traffic)
}

fn port(path: &str, spec: &PortSpec) -> Result<Option<Port>, Fault> {
    let number = |field: &str, value: u64| {
        u16::try_from(value).map_err(|_| (format!("{path}.{field}"), "it is over 65535".into()))
    };
    Ok(match (&spec.port, spec.end_port) {
        (None, None) => None,
        (Some(NumberOrName::Number(first)), None) => Some(Port::Number(number("port", *first)?)),
        (Some(NumberOrName::Number(first)), Some(last)) => {
            Some(Port::Range(number("port", *first)?, number("endPort", last)?))
        }
        (Some(NumberOrName::Name(name)), None) => Some(Port::Named(name.clone())),
        (None | Some(NumberOrName::Name(_)), Some(_)) => {
            return Err((format!("{path}.endPort"), "it needs a number as port".into()));
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_longest_names_fit_and_differ() {
        let (namespace, name) = ("n".repeat(63), "p".repeat(252));
        let [a, b] = ["a", "b"].map(|last| policy_name(&namespace, &format!("{name}{last}")));
        assert_ne!(a, b);
        assert_eq!(a.as_str().len(), NAME_BYTES_MAX);
        a.check().unwrap();
        assert_eq!(policy_name("shop", "web").as_str(), "kube.shop.web");
        assert_eq!(policy_name(&namespace, &"p".repeat(184)).as_str().len(), NAME_BYTES_MAX);
    }

    #[test]
    fn null_is_absent() {
        let metadata = json!({"name": "web", "namespace": "shop"});
        let read = |spec| -> Policy {
            let object = json!({"metadata": metadata, "spec": spec});
            serde_json::from_value::<NetworkPolicy>(object).unwrap().policy().unwrap()
        };
        let selector = json!({"matchLabels": null, "matchExpressions": null});
        assert_eq!(read(json!({"podSelector": selector})), read(json!({"podSelector": {}})));
        let nulls =
            json!({"podSelector": null, "ingress": null, "egress": null, "policyTypes": null});
        assert_eq!(read(nulls), read(json!({})));
        assert_eq!(read(json!(null)), read(json!({})));
        assert_eq!(
            read(json!({"ingress": [{"from": null, "ports": null}]})),
            read(json!({"ingress": [{}]}))
        );
        let exists = json!({"key": "a", "operator": "Exists"});
        let mut null = exists.clone();
        null["values"] = json!(null);
        let select = |condition| json!({"podSelector": {"matchExpressions": [condition]}});
        assert_eq!(read(select(null)), read(select(exists)));
    }
}

//! Policies: one model, a superset of Romana's own document form, Romana 2.0's, and Kubernetes NetworkPolicy.
//!
//! A policy selects endpoints (`applied_to`), states in which directions it isolates them, and allows traffic by
//! rules. The rules of all policies add up; there is no order and there are no deny rules. An endpoint that is
//! isolated in a direction accepts in that direction only what some rule allows. [`document`] reads JSON documents in
//! Romana's own and in 2.0's form, [`kubernetes`] those of Kubernetes. [`evaluate`] defines the semantics of policies.

pub mod compare;
pub mod describe;
pub mod document;
pub mod evaluate;
pub mod kubernetes;
pub mod party;
mod validate;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::command::PolicyRef;
use crate::event::{Event, PolicyRemoved};
use crate::name::{PolicyName, SegmentId, TenantId};
use crate::refusal::Refusal;
use crate::state::State;
use crate::version;

pub(crate) use validate::check_port_name;

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Its name, the key for setting, showing and removing it.
    pub name: PolicyName,
    /// For information.
    #[serde(default)]
    pub description: String,
    /// The targets that it applies to. At least one.
    pub applied_to: Vec<Target>,
    /// Whether targets accept only inbound traffic that rules allow.
    pub isolates_ingress: bool,
    /// Whether targets send only outbound traffic that rules allow.
    pub isolates_egress: bool,
    /// Inbound traffic to allow. Used only with `isolates_ingress`.
    #[serde(default)]
    pub ingress: Vec<Rule>,
    /// Outbound traffic to allow. Used only with `isolates_egress`.
    #[serde(default)]
    pub egress: Vec<Rule>,
}

/// Allows traffic that matches any of `traffic` with any of `peers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The other side. Empty: no peer (NetworkPolicy's empty `from` is [`Peer::Any`]).
    pub peers: Vec<Peer>,
    /// The kinds of traffic. Empty: none (NetworkPolicy's empty `ports` is [`Protocol::Any`]).
    pub traffic: Vec<Traffic>,
}

/// A target that a policy applies to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub enum Target {
    /// All endpoints of a tenant.
    Tenant(TenantId),
    /// All endpoints of a segment.
    Segment(TenantId, SegmentId),
    /// Endpoints of a tenant with matching labels.
    Endpoints(TenantId, Selector),
    /// Everything with an address in the range: bare metal, VMs.
    Cidr(
        #[serde(with = "crate::prefix::json")]
        #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
        IpNet,
    ),
    /// The hosts themselves.
    Host,
    /// All endpoints on the host that enforces the policy.
    Local,
}

/// The other side of the traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub enum Peer {
    /// Any address.
    Any,
    /// All endpoints of a tenant.
    Tenant(TenantId),
    /// All endpoints of a segment.
    Segment(TenantId, SegmentId),
    /// Endpoints with matching labels, in tenants with matching labels.
    Endpoints { tenants: TenantSelector, endpoints: Selector },
    /// An address range, with exceptions. Also matches the addresses of endpoints.
    Cidr {
        #[serde(with = "crate::prefix::json")]
        #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
        cidr: IpNet,
        /// Subranges that do not match.
        #[serde(with = "crate::prefix::json::list")]
        #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::Cidr>"))]
        except: Vec<IpNet>,
    },
    /// The host of the endpoint.
    Host,
    /// All endpoints on the same host.
    Local,
}

/// Selects tenants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub enum TenantSelector {
    Id(TenantId),
    /// Tenants whose labels match.
    Labels(Selector),
}

/// A label selector with the semantics of Kubernetes' `LabelSelector`: all conditions must match; an empty selector
/// matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Selector {
    /// Labels that must have these values.
    pub labels: BTreeMap<String, String>,
    /// Further conditions.
    pub expressions: Vec<Expression>,
}

/// One condition on a label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub enum Expression {
    /// The label has one of the values.
    In(String, Vec<String>),
    /// The label is absent or has none of the values.
    NotIn(String, Vec<String>),
    /// The label is present.
    Exists(String),
    /// The label is absent.
    DoesNotExist(String),
}

impl Selector {
    /// Whether the labels match.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let wanted = self.labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        wanted
            && self.expressions.iter().all(|expression| match expression {
                Expression::In(key, values) => {
                    labels.get(key).is_some_and(|value| values.contains(value))
                }
                Expression::NotIn(key, values) => {
                    labels.get(key).is_none_or(|value| !values.contains(value))
                }
                Expression::Exists(key) => labels.contains_key(key),
                Expression::DoesNotExist(key) => !labels.contains_key(key),
            })
    }
}

/// A transport protocol.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// All traffic.
    #[default]
    Any,
    Tcp,
    Udp,
    Sctp,
    /// ICMP for IPv4, ICMPv6 for IPv6.
    Icmp,
}

impl Protocol {
    /// Its name, as in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
            Self::Icmp => "icmp",
        }
    }
}

/// A kind of traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    pub protocol: Protocol,
    /// Destination ports; empty: all. Only with TCP, UDP and SCTP.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// ICMP type and code; absent: all. Only with ICMP.
    #[serde(default)]
    pub icmp: Option<Icmp>,
}

/// A destination port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub enum Port {
    Number(u16),
    /// First and last number.
    Range(u16, u16),
    /// The name of a port of the destination endpoint.
    Named(String),
}

/// ICMP type and code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Icmp {
    /// The type.
    pub kind: u8,
    /// The code; absent: all codes of the type.
    #[serde(default)]
    pub code: Option<u8>,
}

pub(crate) fn decide_set(state: &State, policy: &Policy) -> Result<Vec<Event>, Refusal> {
    policy.check_before_4()?;
    if state.version >= version::ADDRESS_CHECKS {
        policy.check_mapped()?;
    }
    if state.policy(&policy.name) == Some(policy) {
        return Ok(Vec::new());
    }
    Ok(alloc::vec![Event::PolicySet(policy.clone())])
}

pub(crate) fn decide_remove(state: &State, policy: &PolicyRef) -> Result<Vec<Event>, Refusal> {
    let name = policy.name.clone();
    if state.policy(&name).is_none() {
        return Err(Refusal::PolicyNotFound { policy: name });
    }
    Ok(alloc::vec![Event::PolicyRemoved(PolicyRemoved { name })])
}

/// Which tenants and segments a policy refers to.
impl Policy {
    /// Whether it refers to the tenant or one of its segments.
    pub(crate) fn names_tenant(&self, tenant: &TenantId) -> bool {
        let target = self.applied_to.iter().any(|target| match target {
            Target::Tenant(id) | Target::Segment(id, _) | Target::Endpoints(id, _) => id == tenant,
            Target::Cidr(_) | Target::Host | Target::Local => false,
        });
        target
            || self.peers().any(|peer| match peer {
                Peer::Tenant(id)
                | Peer::Segment(id, _)
                | Peer::Endpoints { tenants: TenantSelector::Id(id), .. } => id == tenant,
                Peer::Endpoints { .. } | Peer::Any | Peer::Cidr { .. } => false,
                Peer::Host | Peer::Local => false,
            })
    }

    /// Whether it refers to the segment.
    pub(crate) fn names_segment(&self, tenant: &TenantId, segment: &SegmentId) -> bool {
        let is = |t: &TenantId, s: &SegmentId| t == tenant && s == segment;
        let target = |target: &Target| matches!(target, Target::Segment(t, s) if is(t, s));
        let peer = |peer: &Peer| matches!(peer, Peer::Segment(t, s) if is(t, s));
        self.applied_to.iter().any(target) || self.peers().any(peer)
    }

    fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.ingress.iter().chain(&self.egress).flat_map(|rule| &rule.peers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    /// Kubernetes' semantics, including the surprising one: `NotIn` matches if the label is absent.
    #[test]
    fn selectors_match_as_in_kubernetes() {
        let values = || alloc::vec![String::from("a"), String::from("b")];
        let key = || String::from("k");
        let cases = [
            (Expression::In(key(), values()), [false, true, false]),
            (Expression::NotIn(key(), values()), [true, false, true]),
            (Expression::Exists(key()), [false, true, true]),
            (Expression::DoesNotExist(key()), [true, false, false]),
        ];
        for (expression, expected) in cases {
            let selector = Selector { expressions: alloc::vec![expression], ..Selector::default() };
            let of = [labels(&[("x", "a")]), labels(&[("k", "a")]), labels(&[("k", "c")])];
            assert_eq!(of.map(|labels| selector.matches(&labels)), expected, "{selector:?}");
        }
        assert!(Selector::default().matches(&labels(&[])));
        let both = Selector {
            labels: labels(&[("k", "a")]),
            expressions: alloc::vec![Expression::Exists("x".into())],
        };
        assert!(both.matches(&labels(&[("k", "a"), ("x", "")])));
        assert!(!both.matches(&labels(&[("k", "a")])));
    }
}

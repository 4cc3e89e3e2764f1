//! Commands about objects that come from outside the cluster, such as from Kubernetes.

use core::fmt;
use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Endpoint, HostSpec, TenantSpec, VipSpec};
use crate::entry::Term;
use crate::name::{HostName, PolicyName, SourceKind, SourceUid, TenantId, VipName};
use crate::policy::Policy;

/// An object that may come from outside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ObjectKey {
    Host(HostName),
    Tenant(TenantId),
    Endpoint(IpAddr),
    Policy(PolicyName),
    Vip(VipName),
    /// The Kubernetes cluster whose objects are imported. Never imported or withdrawn itself.
    Kubernetes,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => write!(f, "host {name}"),
            Self::Tenant(id) => write!(f, "tenant {id}"),
            Self::Endpoint(ip) => write!(f, "endpoint {ip}"),
            Self::Policy(name) => write!(f, "policy {name}"),
            Self::Vip(name) => write!(f, "VIP {name}"),
            Self::Kubernetes => f.write_str("Kubernetes"),
        }
    }
}

/// The object outside that an object comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its kind, such as `Pod`.
    pub kind: SourceKind,
    /// Its id, unique in all time: an object that is made again with the same name has another one.
    pub uid: SourceUid,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.uid)
    }
}

/// An object as it is wanted outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Imported {
    /// A new host gets the source `kubernetes`, whatever is given, and so does one that its agent registered. Its info
    /// is merged: other entries, such as the agent's, are kept. Of an operator's host only the info changes.
    Host(HostSpec),
    Tenant(TenantSpec),
    Endpoint(Endpoint),
    Policy(Policy),
    Vip(VipSpec),
}

impl Imported {
    /// The key of the object.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Host(spec) => ObjectKey::Host(spec.name.clone()),
            Self::Tenant(spec) => ObjectKey::Tenant(spec.id.clone()),
            Self::Endpoint(endpoint) => ObjectKey::Endpoint(endpoint.ip),
            Self::Policy(policy) => ObjectKey::Policy(policy.name.clone()),
            Self::Vip(spec) => ObjectKey::Vip(spec.name.clone()),
        }
    }
}

/// An object to create or change as it is wanted outside. It belongs to the source if this creates it; an endpoint
/// always does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ImportObject {
    pub source: Source,
    pub object: Imported,
    /// The term in which the leader task decided.
    pub term: Term,
}

/// An object to remove because its source no longer exists. A host is evicted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct WithdrawObject {
    pub object: ObjectKey,
    /// The uid of its source. Refused if the object has another source, or none.
    pub uid: SourceUid,
    /// The term in which the leader task decided.
    pub term: Term,
}

/// The Kubernetes cluster to follow. A leader task names the one that it sees: the first is recorded, another one is
/// refused. An operator's word is recorded in any case, and confirms what the task has held back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FollowKubernetes {
    /// The uid of its namespace `kube-system`; `None`: the one that is recorded.
    #[serde(default)]
    pub cluster: Option<SourceUid>,
    /// The term in which the leader task decided; `None`: an operator.
    #[serde(default)]
    pub term: Option<Term>,
}

//! `/v1/snapshot`: the state at one revision, as a starting point for followers.

use std::collections::BTreeMap;

use ipnet::IpNet;
use romana_statemachine::command::{Endpoint, ObjectKey, Retention, Source};
use romana_statemachine::event::CheckpointSigned;
use romana_statemachine::name::{HostName, TableId};
use romana_statemachine::policy::Policy;
use romana_statemachine::{
    AgentSettings, Allocation, Conflict, Digest, Host, Member, Millis, Revision, Settings, State,
    Vip,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::block::{Blackout, Block};
use crate::tenant::Tenant;
use crate::topology;

/// The state. It has the members of the requested topics.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Snapshot {
    #[serde(flatten)]
    pub head: SnapshotHead,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blackouts: Option<Vec<Blackout>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<Host>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Vec<Block>>,
    /// With `?host=`: only those of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<Allocation>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<Vec<Tenant>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policies: Option<Vec<Policy>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<Endpoint>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vips: Option<Vec<Vip>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routers: Option<Vec<Router>>,
    /// The objects that come from outside, such as from Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<Sourced>>,
}

/// The members before the lists.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SnapshotHead {
    pub revision: Revision,
    /// Digest of the history up to that revision.
    pub digest: Digest,
    /// Digest of the state, if requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_digest: Option<Digest>,
    /// Log time of the last record.
    pub at: Millis,
    #[serde(flatten)]
    pub topology: Option<TopologyHead>,
    #[serde(flatten)]
    pub hosts: Option<HostsHead>,
    #[serde(flatten)]
    pub cluster: Option<ClusterHead>,
}

/// Members of the topic `topology`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TopologyHead {
    /// The document, as in `/v1/topology`; `null`: none has been set.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Option<romana_statemachine::topology::TopologySpec>")
    )]
    pub topology: Option<Value>,
    pub settings: AllSettings,
    /// The version of behaviour.
    pub version: u16,
}

/// All settings, including those that concern agents.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AllSettings {
    #[serde(flatten)]
    pub settings: Settings,
    #[serde(flatten)]
    pub agents: AgentSettings,
}

/// Members of the topic `hosts`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HostsHead {
    /// Addresses in use by hosts that the log cannot allocate to them, by host.
    pub conflicts: BTreeMap<HostName, Vec<Conflict>>,
}

/// Members of the topic `cluster`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClusterHead {
    pub retention: Retention,
    /// The newest checkpoint that the replicas have agreed on.
    pub signed: Option<CheckpointSigned>,
    /// Why no new addresses are allocated.
    pub held: Option<HeldHosts>,
    pub members: Vec<Member>,
}

/// The cluster was restored: hosts that must report before addresses are allocated.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HeldHosts {
    /// Revision of the restore.
    pub since: Revision,
    pub waiting: Vec<HostName>,
}

/// A route of a VPC's table, and the host that it leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Router {
    #[cfg_attr(feature = "schema", schemars(with = "romana_statemachine::schema::Cidr"))]
    pub prefix: IpNet,
    pub table: TableId,
    pub host: HostName,
}

/// An object, and the object outside that it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Sourced {
    pub object: ObjectKey,
    pub source: Source,
}

impl Snapshot {
    /// All of a state at once. Replicas write large ones piece by piece instead.
    #[must_use]
    pub fn new(state: &State) -> Self {
        let ipam = state.ipam();
        Self {
            head: SnapshotHead {
                revision: state.revision(),
                digest: state.digest(),
                state_digest: None,
                at: state.at(),
                topology: Some(TopologyHead::new(state)),
                hosts: Some(HostsHead::new(state)),
                cluster: Some(ClusterHead::new(state)),
            },
            blackouts: Some(ipam.blackouts().map(|cidr| Blackout { cidr }).collect()),
            hosts: Some(state.hosts().cloned().collect()),
            blocks: Some(ipam.blocks().map(Block::from).collect()),
            addresses: Some(ipam.addresses_after(None).collect()),
            tenants: Some(state.tenants().map(|(id, tenant)| Tenant::new(id, tenant)).collect()),
            policies: Some(state.policies().cloned().collect()),
            endpoints: Some(state.endpoints().cloned().collect()),
            vips: Some(state.vips().cloned().collect()),
            routers: Some(routers(state).collect()),
            sources: Some(sources(state).collect()),
        }
    }
}

impl TopologyHead {
    /// Of a state.
    #[must_use]
    pub fn new(state: &State) -> Self {
        let (settings, agents) = (state.settings().clone(), state.agent_settings().clone());
        Self {
            topology: topology::document(state),
            settings: AllSettings { settings, agents },
            version: state.version(),
        }
    }
}

impl HostsHead {
    /// Of a state.
    #[must_use]
    pub fn new(state: &State) -> Self {
        let conflicts = state.conflicts().map(|(host, list)| (host.clone(), list.to_vec()));
        Self { conflicts: conflicts.collect() }
    }
}

impl ClusterHead {
    /// Of a state.
    #[must_use]
    pub fn new(state: &State) -> Self {
        let held = state.held().map(|held| HeldHosts {
            since: held.since,
            waiting: held.waiting.iter().cloned().collect(),
        });
        Self {
            retention: state.retention().clone(),
            signed: state.signed().cloned(),
            held,
            members: state.members().cloned().collect(),
        }
    }
}

/// The routers of a state.
pub fn routers(state: &State) -> impl Iterator<Item = Router> {
    state.routers().map(|(key, host)| Router {
        prefix: key.prefix,
        table: key.table.clone(),
        host: host.clone(),
    })
}

/// The objects of a state that come from outside.
pub fn sources(state: &State) -> impl Iterator<Item = Sourced> {
    state
        .sources()
        .map(|(object, source)| Sourced { object: object.clone(), source: source.clone() })
}

//! `/v1/snapshot`: the state at one revision, to start following from.

use std::collections::BTreeMap;

use ipnet::IpNet;

use romana_statemachine::event::CheckpointSigned;

use romana_statemachine::command::{Endpoint, Retention};
use romana_statemachine::name::{HostName, TableId};
use romana_statemachine::policy::Policy;
use romana_statemachine::{
    AgentSettings, Allocation, Conflict, Digest, Host, Member, Millis, Revision, Settings, Vip,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::block::{Blackout, Block};
use crate::tenant::Tenant;

/// The state. Members are those of the topics that were asked for.
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
    /// With `?host=`: only those on the host.
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
}

/// What comes before the lists.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SnapshotHead {
    pub revision: Revision,
    /// Digest of the history up to there.
    pub digest: Digest,
    /// Digest of the state, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_digest: Option<Digest>,
    /// Time of the last record.
    pub at: Millis,
    #[serde(flatten)]
    pub topology: Option<TopologyHead>,
    #[serde(flatten)]
    pub hosts: Option<HostsHead>,
    #[serde(flatten)]
    pub cluster: Option<ClusterHead>,
}

/// Of the topic `topology`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TopologyHead {
    /// The document, as `/v1/topology` shows it; `null`: none was set.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Option<romana_statemachine::topology::TopologySpec>")
    )]
    pub topology: Option<Value>,
    pub settings: AllSettings,
    /// The version of behaviour.
    pub version: u16,
}

/// Settings, and those that concern agents.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AllSettings {
    #[serde(flatten)]
    pub settings: Settings,
    #[serde(flatten)]
    pub agents: AgentSettings,
}

/// Of the topic `hosts`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HostsHead {
    /// Addresses that hosts use and the log cannot give them, by host.
    pub conflicts: BTreeMap<HostName, Vec<Conflict>>,
}

/// Of the topic `cluster`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClusterHead {
    pub retention: Retention,
    /// The newest checkpoint that the replicas have agreed on.
    pub signed: Option<CheckpointSigned>,
    /// Why nothing fresh is allocated.
    pub held: Option<HeldHosts>,
    pub members: Vec<Member>,
}

/// The cluster was restored: whom allocation waits for.
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

//! Topics of events.

use serde::{Deserialize, Serialize};

/// The unit of subscription to the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Topic {
    /// Topology, blackouts, settings, version.
    Topology,
    /// Hosts and their states.
    Hosts,
    Blocks,
    Addresses,
    /// Tenants and segments.
    Tenants,
    Policies,
    Endpoints,
    /// Virtual IPs.
    Vips,
    /// VPC routers.
    Routers,
    /// Members, retention, restores.
    Cluster,
    /// Where objects come from.
    Sources,
}

impl Topic {
    /// All topics.
    pub const ALL: [Self; 11] = [
        Self::Topology,
        Self::Hosts,
        Self::Blocks,
        Self::Addresses,
        Self::Tenants,
        Self::Policies,
        Self::Endpoints,
        Self::Vips,
        Self::Routers,
        Self::Cluster,
        Self::Sources,
    ];

    /// Its name, as in `?topics=`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Topology => "topology",
            Self::Hosts => "hosts",
            Self::Blocks => "blocks",
            Self::Addresses => "addresses",
            Self::Tenants => "tenants",
            Self::Policies => "policies",
            Self::Endpoints => "endpoints",
            Self::Vips => "vips",
            Self::Routers => "routers",
            Self::Cluster => "cluster",
            Self::Sources => "sources",
        }
    }

    /// The topic of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.as_str() == name)
    }
}

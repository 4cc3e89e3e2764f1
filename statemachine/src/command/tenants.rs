//! Commands about tenants and their segments.

use serde::{Deserialize, Serialize};

use crate::labels::Labels;
use crate::name::{SegmentId, TenantId};

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TenantSpec {
    pub id: TenantId,
    /// Its labels (namespace labels).
    #[serde(default)]
    pub labels: Labels,
}

/// The tenant to delete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TenantRef {
    pub id: TenantId,
}

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SegmentSpec {
    /// Its tenant, which must exist.
    pub tenant: TenantId,
    pub id: SegmentId,
    #[serde(default)]
    pub labels: Labels,
}

/// The segment to delete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SegmentRef {
    pub tenant: TenantId,
    pub id: SegmentId,
}

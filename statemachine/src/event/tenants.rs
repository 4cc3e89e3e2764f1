//! Events about tenants and their segments.

use serde::{Deserialize, Serialize};

use crate::labels::Labels;
use crate::name::{SegmentId, TenantId};

/// A tenant was created, or its labels were replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TenantCreated {
    pub id: TenantId,
    pub labels: Labels,
}

/// A tenant was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TenantDeleted {
    pub id: TenantId,
}

/// A segment was created, or its labels were replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SegmentCreated {
    pub tenant: TenantId,
    pub id: SegmentId,
    pub labels: Labels,
}

/// A segment was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SegmentDeleted {
    pub tenant: TenantId,
    pub id: SegmentId,
}

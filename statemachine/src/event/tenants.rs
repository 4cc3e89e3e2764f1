//! Events about tenants and their segments.

use serde::{Deserialize, Serialize};

use crate::labels::Labels;
use crate::name::{SegmentId, TenantId};

/// A tenant exists with these labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TenantCreated {
    pub id: TenantId,
    pub labels: Labels,
}

/// A tenant is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TenantDeleted {
    pub id: TenantId,
}

/// A segment exists with these labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SegmentCreated {
    pub tenant: TenantId,
    pub id: SegmentId,
    pub labels: Labels,
}

/// A segment is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SegmentDeleted {
    pub tenant: TenantId,
    pub id: SegmentId,
}

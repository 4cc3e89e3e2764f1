//! `/v1/tenants` and their segments.

use romana_statemachine::Labels;
use romana_statemachine::name::{SegmentId, TenantId};
use serde::{Deserialize, Serialize};

/// A tenant with its segments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Tenant {
    pub id: TenantId,
    #[serde(default)]
    pub labels: Labels,
    /// Sorted by id.
    #[serde(default)]
    pub segments: Vec<Segment>,
}

/// A segment of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Segment {
    pub id: SegmentId,
    #[serde(default)]
    pub labels: Labels,
}

impl Tenant {
    /// Converts a tenant of the state.
    #[must_use]
    pub fn new(id: &TenantId, tenant: &romana_statemachine::Tenant) -> Self {
        let segments = tenant
            .segments
            .iter()
            .map(|(id, labels)| Segment { id: id.clone(), labels: labels.clone() });
        Self { id: id.clone(), labels: tenant.labels.clone(), segments: segments.collect() }
    }
}

/// The labels of a tenant or segment, its only attribute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct LabelsBody {
    pub labels: Labels,
}

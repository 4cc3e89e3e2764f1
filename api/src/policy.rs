//! `/v1/policies`. Documents are [`romana_statemachine::policy::document::PolicyDocument`]s.

use std::net::IpAddr;

use ipnet::IpNet;
use romana_statemachine::Revision;
use romana_statemachine::name::PolicyName;
use romana_statemachine::policy::document::PolicyDocument;
use serde::{Deserialize, Serialize};

/// What became of a document.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PoliciesSet {
    pub changed: bool,
    pub revision: Revision,
    /// The policies that stand now.
    pub policies: Vec<PolicyName>,
}

/// What policies would do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PoliciesExplained {
    pub policies: Vec<PolicyExplained>,
    /// Between whom verdicts would change.
    pub changes: Vec<VerdictChange>,
    /// How many pairs that would be, all told.
    pub changed: u64,
    /// How many pairs were looked at.
    pub pairs: u64,
    /// Whether there are more pairs than that, or more ranges.
    pub truncated: bool,
    /// Ranges whose unknown addresses were looked at.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<romana_statemachine::schema::Cidr>"))]
    pub ranges: Vec<IpNet>,
    /// What was not looked at: sentences.
    pub not_looked_at: Vec<String>,
    /// What may not be meant: sentences.
    pub warnings: Vec<String>,
    pub revision: Revision,
}

/// Which endpoints a policy is about now, and what it means.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PolicyExplained {
    pub name: PolicyName,
    /// Whether a policy of that name exists, …
    pub exists: bool,
    /// … and is the same.
    pub unchanged: bool,
    /// Endpoints that it applies to now; addresses without one are counted too.
    pub endpoints: u64,
    /// Hosts that it applies to now.
    pub hosts: u64,
    /// Ranges in which it applies to every other address as well.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<romana_statemachine::schema::Cidr>"))]
    pub ranges: Vec<IpNet>,
    /// Sentences.
    pub explanation: Vec<String>,
    pub policy: PolicyDocument,
}

/// What would change between two parties.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VerdictChange {
    pub source: IpAddr,
    /// What the source stands for, if it is nobody's: the addresses of a range that nobody has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<romana_statemachine::schema::Cidr>"))]
    pub source_range: Option<IpNet>,
    pub destination: IpAddr,
    /// Likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<romana_statemachine::schema::Cidr>"))]
    pub destination_range: Option<IpNet>,
    /// Traffic that would be allowed.
    pub opens: Vec<String>,
    /// Traffic that would no longer be allowed.
    pub closes: Vec<String>,
}

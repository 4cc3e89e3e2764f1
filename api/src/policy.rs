//! `/v1/policies`. Documents are [`romana_statemachine::policy::document::PolicyDocument`]s.

use std::net::IpAddr;

use ipnet::IpNet;
use romana_statemachine::Revision;
use romana_statemachine::name::PolicyName;
use romana_statemachine::policy::document::PolicyDocument;
use serde::{Deserialize, Serialize};

/// A policy in an answer: a document that has a name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PolicyDocument")]
pub struct NamedPolicy {
    pub name: PolicyName,
    /// The whole document.
    pub document: PolicyDocument,
}

impl TryFrom<PolicyDocument> for NamedPolicy {
    type Error = &'static str;

    fn try_from(document: PolicyDocument) -> Result<Self, Self::Error> {
        let name = document.name.as_deref().filter(|name| !name.is_empty());
        let name = name.ok_or("missing field `name`")?.into();
        Ok(Self { name, document })
    }
}

/// The result of setting a document.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PoliciesSet {
    pub changed: bool,
    pub revision: Revision,
    /// The policies in force now.
    pub policies: Vec<PolicyName>,
}

/// The effect that policies would have.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PoliciesExplained {
    pub policies: Vec<PolicyExplained>,
    /// Pairs whose verdicts would change.
    pub changes: Vec<VerdictChange>,
    /// Total number of such pairs.
    pub changed: u64,
    /// Number of pairs examined.
    pub pairs: u64,
    /// Whether there are more pairs or ranges than those listed.
    pub truncated: bool,
    /// Ranges whose unallocated addresses were examined.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<romana_statemachine::schema::Cidr>"))]
    pub ranges: Vec<IpNet>,
    /// What was not examined: sentences.
    pub not_looked_at: Vec<String>,
    /// What may be unintended: sentences.
    pub warnings: Vec<String>,
    pub revision: Revision,
}

/// The endpoints that a policy selects now, and its meaning.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PolicyExplained {
    pub name: PolicyName,
    /// Whether a policy of that name exists.
    pub exists: bool,
    /// Whether the existing policy is the same.
    pub unchanged: bool,
    /// Number of endpoints that it selects now, including addresses without an endpoint.
    pub endpoints: u64,
    /// Number of hosts that it selects now.
    pub hosts: u64,
    /// Ranges in which it selects every other address as well.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<romana_statemachine::schema::Cidr>"))]
    pub ranges: Vec<IpNet>,
    /// The meaning, as sentences.
    pub explanation: Vec<String>,
    pub policy: PolicyDocument,
}

/// The change of verdicts between two parties.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VerdictChange {
    pub source: IpAddr,
    /// The range that the source stands for, if it is an unallocated address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<romana_statemachine::schema::Cidr>"))]
    pub source_range: Option<IpNet>,
    pub destination: IpAddr,
    /// The range that the destination stands for, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<romana_statemachine::schema::Cidr>"))]
    pub destination_range: Option<IpNet>,
    /// Traffic that would be allowed.
    pub opens: Vec<String>,
    /// Traffic that would no longer be allowed.
    pub closes: Vec<String>,
}

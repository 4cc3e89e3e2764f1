//! `/v1/verdict`: whether a packet passes from one address to another, and why.

use std::borrow::Cow;
use std::net::IpAddr;

use romana_statemachine::Revision;
use serde::{Deserialize, Serialize};

/// Whether a packet passes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Verdict {
    pub allowed: bool,
    /// The packet, as it was asked about.
    pub traffic: String,
    pub source: VerdictEnd,
    pub destination: VerdictEnd,
    /// How the source's side judges.
    pub egress: VerdictSide,
    /// How the destination's side judges.
    pub ingress: VerdictSide,
    pub revision: Revision,
}

/// Who is at an end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VerdictEnd {
    pub ip: IpAddr,
    /// `endpoint`, `host` or `other`.
    pub kind: Cow<'static, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// How a side judges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VerdictSide {
    pub open: bool,
    /// A sentence.
    pub why: String,
    /// Policies that isolate it.
    pub isolating: Vec<String>,
    pub allowing: Vec<RuleAt>,
}

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RuleAt {
    pub policy: String,
    /// Its place in the policy's list, from 0.
    pub rule: u64,
}

//! `/v1/verdict`: whether a packet passes from one address to another, and why.

use std::borrow::Cow;
use std::net::IpAddr;

use romana_statemachine::Revision;
use serde::{Deserialize, Serialize};

/// The verdict on a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Verdict {
    pub allowed: bool,
    /// The packet in question.
    pub traffic: String,
    pub source: VerdictEnd,
    pub destination: VerdictEnd,
    /// The verdict of the source's side.
    pub egress: VerdictSide,
    /// The verdict of the destination's side.
    pub ingress: VerdictSide,
    pub revision: Revision,
}

/// An end of the connection.
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

/// The verdict of one side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VerdictSide {
    pub open: bool,
    /// The reason, as a sentence.
    pub why: String,
    /// Policies that isolate this side.
    pub isolating: Vec<String>,
    pub allowing: Vec<RuleAt>,
}

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RuleAt {
    pub policy: String,
    /// Index in the policy's list, from 0.
    pub rule: u64,
}

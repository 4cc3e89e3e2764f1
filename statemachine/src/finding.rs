//! Findings: what `romana doctor` and `romana ipam check` show, each with its remedy.

use alloc::string::String;

use serde::{Deserialize, Serialize};

/// An inconsistency, and its remedy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Finding {
    /// Errors come first.
    pub severity: Severity,
    /// Machine-readable: the same in all versions.
    pub code: String,
    /// The object concerned: `host h1`, `address 10.0.0.5`.
    pub subject: String,
    pub why: String,
    /// What to do: a command, or a sentence. Replicas of the first releases named it `mend`.
    #[serde(alias = "mend")]
    pub remedy: String,
}

/// Severity of a finding, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something does not work.
    Error,
    /// Something may soon stop working, or cannot be verified.
    Warning,
}

/// Code of findings that agents report about their hosts.
pub const AGENT_PROBLEM: &str = "AgentProblem";

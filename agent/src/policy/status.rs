//! The reported status of policy enforcement.

use romana_statemachine::Revision;
use serde::{Deserialize, Serialize};

/// Status of policy enforcement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// The iptables variant.
    pub backend: String,
    /// The revision whose policies are in the kernel; `None`: not yet, or unknown after a failure.
    pub applied: Option<Revision>,
    /// Number of policies that concern this host.
    pub policies: usize,
    pub sets: usize,
    pub rules: usize,
    /// Duration of the last change, from compiling to the kernel, microseconds.
    pub took_us: u64,
    /// How often other programs changed our rules or sets and they were restored, since the start.
    #[serde(default)]
    pub drifts: u64,
    /// Lines written since the start.
    pub writes: u64,
    pub problems: Vec<String>,
}

impl PolicyStatus {
    /// The initial status.
    #[must_use]
    pub fn new(backend: String) -> Self {
        Self { backend, ..Self::default() }
    }
}

//! What is said of policy on this host.

use romana_statemachine::Revision;
use serde::{Deserialize, Serialize};

/// How policy is in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Which iptables.
    pub backend: String,
    /// The revision whose policies are in the kernel; `None`: not yet, or not any more.
    pub applied: Option<Revision>,
    /// Policies that concern this host.
    pub policies: usize,
    /// Sets that are ours.
    pub sets: usize,
    /// Rules that are ours.
    pub rules: usize,
    /// How long the last change took, from compiling to the kernel, microseconds.
    pub took_us: u64,
    /// How often another program had changed our rules or sets, and they were restored, since the start.
    #[serde(default)]
    pub drifts: u64,
    /// Lines written since the start.
    pub writes: u64,
    /// What is not as wanted.
    pub problems: Vec<String>,
}

impl PolicyStatus {
    /// Nothing is done yet.
    #[must_use]
    pub fn new(backend: String) -> Self {
        Self { backend, ..Self::default() }
    }
}

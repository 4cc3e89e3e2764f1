//! Policy enforcement on a host: compiles the view of the cluster into kernel rules and sets.
//!
//! ```text
//!   view, attachments ──► compile (pure, incremental) ──► Filter ──► diff (pure) ──► ipset, iptables-restore
//!                                                                     ▲ actual: ipset save, iptables-save
//! ```
//! The semantics of a policy are defined by `romana_statemachine::policy::evaluate`; the compiled
//! rules give the same verdicts (`tests/policy.rs`). Sets hold addresses, chains hold rules:
//! adding, removing or changing an endpoint changes a few set members; changing a policy replaces
//! its own chains in one transaction.
//!
//! ## Choices
//! - Established connections continue when a policy starts to forbid them; those of a
//!   removed endpoint are deleted.
//! - Allowed packets of endpoints here are accepted in FORWARD, whatever rules follow; traffic of the host
//!   itself continues to the host's own rules.
//! - Until the identity of a container is known, it neither sends nor receives.
//!
//! Reading order: [`model`], `names`, `base`, `chains`, [`inputs`], `ip_sets`, [`compile`], [`diff`], [`gate`], [`enforce`].

mod base;
mod chains;
pub mod compile;
pub mod counters;
mod delta;
pub mod diff;
mod drift;
pub mod enforce;
pub mod gate;
pub mod inputs;
mod ip_sets;
pub mod model;
pub mod names;
pub mod options;
pub mod packet_filter;
mod status;

pub use status::PolicyStatus;

//! Policy on a host: from what is known of the cluster to rules and sets in the kernel.
//!
//! ```text
//!   view, attachments ──► compile (pure, incremental) ──► Filter ──► diff (pure) ──► ipset, iptables-restore
//!                                                                     ▲ actual: ipset save, iptables-save
//! ```
//! What a policy means is defined by `romana_statemachine::policy::evaluate`; the compiled rules give the
//! same verdicts (`tests/policy.rs`). Sets hold who, chains hold what: an endpoint that comes, goes or
//! changes is a few set members; a policy that changes is its own chains, replaced in one transaction.
//!
//! ## Choices
//! - Established connections stay when a policy begins to forbid them; those of an endpoint that goes are
//!   forgotten with it.
//! - What is allowed of endpoints here is accepted in FORWARD, whatever comes after; what hosts send and
//!   receive goes on to the host's own rules.
//! - Before it is known what a container is, nothing leaves or reaches it.
//!
//! Reading order: [`model`], `names`, `base`, `chains`, [`world`], `members`, [`compile`], [`diff`], [`gate`], [`enforce`].

mod base;
mod chains;
pub mod compile;
pub mod counters;
pub mod diff;
mod drift;
pub mod enforce;
pub mod gate;
mod members;
pub mod model;
pub mod names;
pub mod options;
pub mod packet_filter;
mod status;
mod touched;
pub mod world;

pub use status::PolicyStatus;

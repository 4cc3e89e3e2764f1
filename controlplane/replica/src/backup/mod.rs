//! # Backup, restore, recovery
//!
//! The format is defined in `romana_statemachine::backup`; this module is about sources and destinations.
//!
//! ```text
//!   running replica ── state (a copy, O(1)) + history ──► take ──► GET /v1/backup
//!   directory of a dead one ── offline ─────────────────► take ──► recover: romanad recover --out FILE
//!   FILE ──► romanad --restore FILE ──────────────────┐
//!   POST /v1/restore ──► romanad --await-restore ─────┴─► restore ──► an empty data directory, filled
//! ```
//!
//! ## Laws
//! 1. A backup is the state at one revision and the history up to that revision, taken from one running
//!    replica.
//! 2. A restore creates a new cluster: it has a new id and a `Restored` event, and allocates no fresh addresses
//!    until every host has reported what runs there, or an operator lifts the hold.
//! 3. A restore never writes into a directory that holds anything else. A directory that was filled only partly
//!    does not start.
//! 4. Recovery reads the directory of a survivor and changes nothing in it.

pub mod file;
mod offline;
pub mod recover;
mod restore;
pub mod take;
#[cfg(test)]
mod tests;

pub use offline::{Salvage, SalvageError};
pub use restore::{RestoreError, UPLOAD, is_claimed, restore};

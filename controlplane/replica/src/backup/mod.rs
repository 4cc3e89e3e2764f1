//! # Backup, restore, recovery
//!
//! The format is `romana_statemachine::backup`; here is where its bytes come from and go to.
//!
//! ```text
//!   running replica ── state (a copy, O(1)) + history ──► take ──► GET /v1/backup
//!   directory of a dead one ── salvage ─────────────────► take ──► recover: romanad recover --out FILE
//!   FILE ──► romanad --restore FILE ──────────────────┐
//!   POST /v1/restore ──► romanad --await-restore ─────┴─► restore ──► an empty data directory, filled
//! ```
//!
//! ## Laws
//! 1. A backup is the state at one revision and the history up to that revision, from one replica,
//!    while everything goes on.
//! 2. A restore makes a new cluster: another id, a `Restored` event, and nothing fresh is allocated
//!    until every host has said what runs there, or an operator says to go on.
//! 3. A directory that holds anything is never restored into. One that was filled half way does not
//!    start.
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

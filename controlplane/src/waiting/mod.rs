//! # While there is no replica
//!
//! The API's address answers before a replica starts and after one ended: health checks are told what is waited
//! for, everybody else gets an error that says so.
//!
//! ```text
//!   server::run: room (on the disk) ─► restore (a backup, if asked for) ─► replica serves … until the disk is full ─┐
//!                  ▲  answers DiskFull      answers AwaitingRestore                                                 │
//!                  └────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```

pub(crate) mod restore;
pub(crate) mod room;

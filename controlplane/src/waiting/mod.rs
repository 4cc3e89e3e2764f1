//! # While there is no replica
//!
//! The API's address also answers before a replica starts and after one ended: health checks report what is awaited,
//! all other requests get an error that says so.
//!
//! ```text
//!   server::run: room (disk) ─► restore (a backup, if requested) ─► replica serves … until the disk is full ─┐
//!                  ▲  answers DiskFull      answers AwaitingRestore                                          │
//!                  └─────────────────────────────────────────────────────────────────────────────────────────┘
//! ```

pub(crate) mod restore;
pub(crate) mod room;

//! # What every long-running program shares
//!
//! So far: the log.

pub mod log;
pub mod repeats;

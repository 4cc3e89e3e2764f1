//! # What every long-running program shares
//!
//! So far: files at paths that users give, directories that are not shared, and the log.

pub mod file;
pub mod log;
pub mod owner;
pub mod repeats;

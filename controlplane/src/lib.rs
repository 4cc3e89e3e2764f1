//! Under construction.

pub mod history;
pub mod wal;

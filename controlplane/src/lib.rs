//! Under construction.

pub mod wal;

//! Under construction.

pub mod feed;
pub mod history;
pub mod raft;
pub mod wal;

//! # The control plane
//!
//! `romanad`: a replica that keeps the log, decides, and serves everybody else.
//!
//! ```text
//!   api ──propose──► raft ──► wal                 what was asked, durable
//!    ▲                │ apply (romana-statemachine)
//!    │                ├──► history                what happened, for good
//!    └──── feed ◄─────┘                           what happened, now
//! ```
//!
//! Reading order: [`server`] (wiring), `api::mod` and `api::addresses` (a request), then `raft`.

pub mod api;
pub mod audit;
pub mod backup;
pub mod bootstrap;
mod budget;
pub mod cluster_time;
pub mod config;
mod connection;
pub mod error;
pub mod feed;
pub mod join;
pub mod metrics;
pub mod raft;
pub mod retention;
pub mod server;
pub mod tasks;
mod waiting;

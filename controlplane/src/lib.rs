//! # The control plane
//!
//! `romanad`: the API of one replica, the leader tasks, and the daemon around them.
//!
//! ```text
//!   main ─► config ─► server ─┬─► waiting      no disk space, or no backup yet: answers with an error
//!                             ├─► Replica      romana_replica: consensus, state, history, feed
//!                             ├─► api          requests ─► proposals, reads, the feed
//!                             └─► tasks        leader tasks: versions, liveness, retention, …
//! ```
//!
//! The replica is implemented in `romana_replica`, its storage in `romana_storage`; neither depends on HTTP.
//!
//! Reading order: [`server`] (wiring), `api::mod` and `api::addresses` (a request), `tasks::mod` (a leader task).

pub mod api;
pub mod bootstrap;
mod budget;
pub mod capacity;
pub mod config;
mod connection;
pub mod error;
pub mod join;
pub mod kubernetes;
pub mod metrics;
pub mod server;
pub mod tasks;
mod waiting;

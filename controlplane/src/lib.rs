//! # The control plane
//!
//! `romanad`: the API of one replica, the tasks of the leader, and the program around them.
//!
//! ```text
//!   main ─► config ─► server ─┬─► waiting      no room on the disk, or no backup yet: it says so
//!                             ├─► Replica      romana_replica: decides, keeps, tells
//!                             ├─► api          requests ─► proposals, reads, the feed
//!                             └─► tasks        what the leader does by itself: versions, liveness, retention, …
//! ```
//!
//! What a replica is stands in `romana_replica`, what it keeps in `romana_storage`; neither knows HTTP.
//!
//! Reading order: [`server`] (wiring), `api::mod` and `api::addresses` (a request), `tasks::mod` (a leader task).

pub mod api;
pub mod bootstrap;
mod budget;
pub mod config;
mod connection;
pub mod error;
pub mod join;
pub mod metrics;
pub mod server;
pub mod tasks;
mod waiting;

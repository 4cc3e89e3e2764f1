//! # The client
//!
//! The client library of a Romana cluster, for CLI, agents, publisher and tests.
//!
//! ```text
//!   Client::allocate(…) ──► gather ──► POST /v1/batch ─┐
//!   Client::hosts() …  ──────────────────────────────► call ──► transport ──► a replica
//!   Follower::next()   ──► GET /v1/events, resumed ────┘  │
//!                                       servers (whom to ask) · retry (whether to ask again)
//! ```
//!
//! ## Laws
//! 1. [`Error::Unavailable`] and [`Error::Refused`] mean that nothing was committed; [`Error::Unknown`]
//!    means that it may have been.
//! 2. A command that must not be executed twice is never resent after it may have been committed.
//! 3. Every call ends by its deadline.
//! 4. Nothing that a server sends makes the client panic.
//! 5. An unfiltered [`Follower`] detects a gap, a duplicate or a forged record.
//!
//! ## Reading order
//! [`client`], `call`, then [`retry`](self) and `gather`, then [`follow`], [`mirror`] and `backup`; [`replay`] needs
//! no cluster. Not implemented: TLS (it belongs in `transport.rs`), caching of reads.

mod agents;
mod api;
pub mod audit;
mod backup;
mod call;
pub mod client;
mod config;
mod error;
pub mod follow;
mod gather;
pub mod mirror;
pub mod model;
mod ndjson;
mod query;
mod raw;
pub mod replay;
mod retry;
mod servers;
mod transport;

pub use api::Tokens;
pub use backup::{Download, Restoration};
pub use client::Client;
pub use config::{API_PORT, ClientConfig, Server};
pub use error::{ApiError, Cause, Error};
pub use follow::{FollowOptions, Follower, Item};
pub use query::Query;
pub use raw::{NoReply, RawReply};

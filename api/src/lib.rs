//! The contract between `romanad` and its HTTP clients: types only, no I/O.
//!
//! ```text
//!   statemachine (vocabulary) ◄── api ◄── controlplane (serves it)
//!                                  ▲
//!                                  └───── client, agent, CLI, tests (use it)
//! ```
//!
//! A type is here if it is the body of a request or answer and not already part of the vocabulary
//! ([`romana_statemachine`]). One module per resource of the API, as in `controlplane/src/api`.
//!
//! - **Request bodies** refuse unknown members: a misspelled member must not be
//!   ignored in favour of a default.
//! - **Answers** are parsed tolerantly: a client may be older or newer than its cluster.
//! - [`code`] maps error codes to HTTP statuses; [`header`] names the headers.
//!
//! With the feature `schema`, all types have a JSON Schema, from which `/v1/openapi.json` is generated. The
//! doc comments are its descriptions.

pub mod audit;
pub mod backup;
pub mod batch;
pub mod block;
pub mod cluster;
pub mod code;
pub mod endpoint;
pub mod error;
pub mod feed;
pub mod header;
pub mod health;
pub mod host;
pub mod kubernetes;
pub mod network;
pub mod page;
pub mod pod;
pub mod policy;
pub mod romana2;
pub mod routes;
pub mod settings;
pub mod snapshot;
pub mod tenant;
pub mod topology;
pub mod verdict;
pub mod vip;

pub use code::Code;
pub use error::{ApiError, ErrorAnswer};
pub use page::{Changed, ObjectOrChange, Page};

/// Default TCP port of `romanad`'s API.
pub const API_PORT: u16 = 9600;
/// Default TCP port for the traffic between replicas.
pub const PEER_PORT: u16 = 9601;

//! The contract between `romanad` and everybody who talks to it over HTTP: types only, no I/O.
//!
//! ```text
//!   statemachine (vocabulary) ◄── api ◄── controlplane (serves it)
//!                                  ▲
//!                                  └───── client, agent, CLI, tests (use it)
//! ```
//!
//! A type is here if it is the body of a request or of an answer and is not part of the vocabulary
//! ([`romana_statemachine`]) already. One module per noun of the API, as in `controlplane/src/api`.
//!
//! - **Bodies** refuse unknown members: a typing error must not be taken for a default.
//! - **Answers** are read tolerantly: a client may be older or newer than its cluster.
//! - [`code`] is the table from error codes to HTTP statuses; [`header`] names the headers.
//!
//! With the feature `schema`, all types have a JSON Schema, from which `/v1/openapi.json` is made. The doc comments
//! are its descriptions.

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
pub mod network;
pub mod page;
pub mod policy;
pub mod romana2;
pub mod routes;
pub mod settings;
pub mod snapshot;
pub mod tenant;
pub mod verdict;
pub mod vip;

pub use code::Code;
pub use error::{ApiError, ErrorAnswer};
pub use page::{Changed, Page};

/// TCP port that `romanad` serves its API on, unless told otherwise.
pub const API_PORT: u16 = 9600;
/// TCP port on which replicas talk to each other, unless told otherwise.
pub const PEER_PORT: u16 = 9601;

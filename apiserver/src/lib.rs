//! # The API server of Kubernetes
//!
//! What every program that follows it needs. Objects are not translated here.
//!
//! ```text
//!   Access (credentials) ─► Client ─► has_slices ─► follow, for each kind: a list, then its changes ─► Trouble
//!      ▲                                                                                                 │
//!      └───────────────────────────────────────── Pauses ◄───────────────────────────────────────────────┘
//! ```
//! A session is a client and what it follows. It ends at its first error; the next one reads the credentials again and
//! lists everything again, so that start, expired watch and outage are one code path.

mod access;
mod discovery;
mod follow;
mod pauses;
mod trouble;

pub use access::{Access, AccessError, Client};
pub use discovery::has_slices;
pub use follow::follow;
pub use pauses::Pauses;
pub use trouble::Trouble;

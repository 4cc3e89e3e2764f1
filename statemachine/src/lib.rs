//! # The state machine
//!
//! The data model and the rules of Romana. Everything that crosses a process boundary is defined here, once: names,
//! [`Command`]s, [`Event`]s, [`Refusal`]s, [`Record`]s and the snapshot. No I/O, no clock, no randomness, no hash-map
//! order: `no_std` turns most violations into compile errors.
//!
//! ```text
//!   Entry { at, commands }            one Raft log entry: what was waiting when it was proposed
//!        │
//!        ▼   per command
//!   decide(&State, &Command, now) ──► Err(Refusal)       an answer; nothing happened
//!        │
//!        ▼ Ok(events)
//!   evolve(&mut State, &Event)        cannot fail        folding events alone rebuilds the state
//!        │
//!        ▼
//!   Record { revision, index, at, actor, event, digest } history, feed, audit
//! ```
//!
//! ## Laws
//! 1. An address belongs to at most one name at any revision.
//! 2. The state is a function of the log: equal logs give equal digests.
//! 3. Every block lies in a prefix group in which its host has a place.
//! 4. `decide` depends only on the state, the command and the entry's time and term.
//! 5. `evolve` follows the event even where today's `decide` would choose differently.
//!
//! ## Reading order
//! The data model: [`command`], [`event`] and [`refusal`] (requests, changes, reasons for a refusal), with a file per
//! topic under each. The rules: `state` (invariants; dispatch in `state/decide` and `state/evolve`), then one topic
//! at a time: `ipam` beside `tests/scripts/ipam`.

#![no_std]

extern crate alloc;

mod address;
pub mod agent;
pub mod audit;
pub mod backup;
pub mod command;
mod display;
mod endpoint;
mod enrolment;
pub mod entry;
pub mod event;
pub mod finding;
mod hash;
mod hold;
mod host;
mod ipam;
mod labels;
pub mod lease;
pub mod limits;
mod members;
pub mod name;
mod plural;
pub mod policy;
mod prefix;
mod printable;
mod ranges;
pub mod refusal;
mod report;
mod reserve;
mod retention;
mod revision;
pub mod routes;
#[cfg(feature = "schema")]
pub mod schema;
mod settings;
mod snapshot;
mod source;
mod state;
mod tenant;
pub mod time;
mod topic;
pub mod topology;
mod validate;
pub mod version;
mod vip;

pub use command::{Command, Retention};
pub use entry::{Digest, Entry, Index, Millis, Position, Proposal, Record, Revision, Term};
pub use event::{Conflict, Event, Topic};
pub use hold::AllocationHold;
pub use host::Host;
pub use ipam::{Allocation, Block, GroupUsage, Owner};
pub use labels::Labels;
pub use members::Member;
pub use name::Actor;
pub use plural::{Plural, plural};
pub use prefix::parse as parse_cidr;
pub use printable::{Printable, escaped, escaped_json, escaped_lines, is_printable};
pub use refusal::Refusal;
pub use settings::{AgentSettings, Settings};
pub use snapshot::SnapshotError;
pub use state::{Answer, FollowError, Now, Outcome, State};
pub use tenant::Tenant;
pub use version::VERSION_MAX;
pub use vip::{Renewing, RouterKey, Vip, VipHolder, VipMove, VipPlacement};

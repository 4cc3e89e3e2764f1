//! # The state machine
//!
//! The vocabulary and the rules of Romana. Everything that crosses a process boundary is defined
//! here, once: names, [`Command`]s, [`Event`]s, [`Refusal`]s, [`Record`]s and the snapshot. No I/O,
//! no clock, no randomness, no hash order: `no_std` makes most of that a compile error.
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
//! 3. Every block lies in a prefix group in which its host has its place.
//! 4. `decide` looks at the state, the command and the entry's time and term; at nothing else.
//! 5. `evolve` follows the event even where today's `decide` would choose differently.
//!
//! ## Reading order
//! [`command`] and [`event`] (what can be asked, what can happen), `state` (dispatch and
//! invariants), then one topic: `ipam` beside `tests/scripts/ipam`.

#![no_std]

extern crate alloc;

pub mod address;
pub mod attachment;
pub mod audit;
pub mod backup;
mod cluster;
pub mod command;
mod display;
mod endpoint;
pub mod enrolment;
pub mod entry;
pub mod event;
mod hash;
mod host;
mod ipam;
pub mod limits;
pub mod name;
mod plural;
pub mod policy;
mod prefix;
mod printable;
mod ranges;
pub mod refusal;
pub mod routes;
mod settings;
mod snapshot;
mod state;
mod tenant;
pub mod time;
mod topic;
pub mod topology;
mod validate;
mod vip;

pub use attachment::{AgentSettings, Conflict};
pub use cluster::{Held, Member};
pub use command::{Command, Labels, Retention};
pub use entry::{Digest, Entry, Index, Millis, Position, Proposal, Record, Revision, Term};
pub use event::{Event, Topic};
pub use host::Host;
pub use ipam::{Allocation, Block, GroupUsage, Owner};
pub use name::Actor;
pub use plural::{Plural, plural};
pub use prefix::parse as parse_cidr;
pub use printable::{Printable, escaped, escaped_json, escaped_lines, is_printable};
pub use refusal::Refusal;
pub use settings::Settings;
pub use snapshot::SnapshotError;
pub use state::{Answer, FollowError, Now, Outcome, State, VERSION_MAX};
pub use tenant::Tenant;
pub use vip::{RouterKey, Vip, VipHolder};

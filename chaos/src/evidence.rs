//! What the clients saw: every call with its times and its outcome. The oracle reads nothing else
//! about them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use romana_client::audit::{Tenure, Verification};
use romana_statemachine::name::{AddressName, HostName};
use romana_statemachine::{Command, Digest, Millis, Record, Revision};
use serde_json::Value;

pub use crate::clock::{Clock, Nanos};
use crate::nemesis::Injected;

/// What a client asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    Command(Box<Command>),
    /// A linearizable read of an address by its name.
    Read(AddressName),
    /// A local read at a replica, by its place from 1: what it has, however old.
    Local(AddressName, u64),
    /// Who had an address, of the audit; the answer is who has it now.
    Who(IpAddr),
}

/// An address as an answer shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub name: AddressName,
    pub ip: IpAddr,
    pub host: HostName,
    /// Revision of its allocation.
    pub revision: Revision,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done, or read.
    Acked {
        /// Revision of the answer.
        revision: Revision,
        /// Whether anything changed, where the answer says so.
        changed: Option<bool>,
        /// The address: allocated by the command, or found by the read.
        held: Option<Held>,
    },
    /// It was refused: nothing happened.
    Refused {
        /// Code of the refusal.
        code: String,
    },
    /// Nobody took it: nothing happened.
    Unavailable,
    /// It may have happened.
    Unknown,
}

/// A call.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub client: usize,
    pub invoked: Nanos,
    /// When the answer was there, or hope was given up.
    pub returned: Nanos,
    pub ask: Ask,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether it may have been asked more than once (by the client library): then it may have happened as
    /// often.
    pub retried: bool,
}

impl Call {
    /// Whether it happened or may have happened.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        matches!(self.outcome, Outcome::Acked { .. } | Outcome::Unknown)
    }

    /// The command, unless it is a read.
    #[must_use]
    pub fn command(&self) -> Option<&Command> {
        match &self.ask {
            Ask::Command(command) => Some(command),
            Ask::Read(_) | Ask::Local(..) | Ask::Who(_) => None,
        }
    }
}

/// A replica's word about its own history at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub replica: u64,
    pub revision: Revision,
    pub digest: Digest,
}

/// What a replica's process took of the machine's memory at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resident {
    pub replica: u64,
    /// Which process: a replica that is started again is another one.
    pub process: u32,
    pub at: Nanos,
    /// So many bytes.
    pub bytes: u64,
}

/// What one replica says at the end.
#[derive(Clone, Debug, PartialEq)]
pub struct Testimony {
    pub replica: u64,
    /// Its whole history.
    pub records: Vec<Record>,
    /// Its live addresses …
    pub live: Vec<Held>,
    /// … and the revision at which it listed them.
    pub live_at: Revision,
    /// Its whole state, as it shows it.
    pub snapshot: Value,
}

/// What the follower that reconnects all the time saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// How often it connected.
    pub connections: u64,
    /// Digests of the state that it folded, one per revision from 1 on.
    pub digests: Vec<Digest>,
    /// What was wrong: gaps, duplicates, broken chains.
    pub faults: Vec<String>,
}

/// What a replica's exported history leads to, replayed offline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Its first record.
    pub first: Revision,
    /// Its last record.
    pub revision: Revision,
    /// Digest of the history there.
    pub digest: Digest,
    pub state_digest: Digest,
}

/// What one replica says about the past.
#[derive(Clone, Debug, PartialEq)]
pub struct Audited {
    pub replica: u64,
    /// Who held the addresses that were asked for.
    pub held: BTreeMap<IpAddr, Vec<Tenure>>,
    /// Its export up to where the histories were heard, or why it does not replay; `None`: it serves
    /// none.
    pub exported: Option<Result<Exported, String>>,
    /// What all replicas say about their histories, asked of this one; `None`: it does not serve that.
    pub verified: Option<Verification>,
}

/// A backup that was taken while it ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backed {
    pub replica: u64,
    pub revision: Revision,
    /// Digest of its history.
    pub digest: Digest,
    /// Live addresses in its state.
    pub live: Vec<(AddressName, IpAddr)>,
    /// What was wrong with it in itself.
    pub fault: Option<String>,
}

/// Everything the oracle judges by.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The time of day when the run began; `None`: no majority of the replicas' clocks was right.
    pub began: Option<Millis>,
    /// Calls of all clients, in any order.
    pub calls: Vec<Call>,
    /// Digests sampled while it ran.
    pub samples: Vec<Sample>,
    /// The replicas' words at the end.
    pub testimonies: Vec<Testimony>,
    /// What the followers saw.
    pub followed: Vec<Followed>,
    /// What the replicas say about the past.
    pub audited: Vec<Audited>,
    /// Backups, each whole or wrong.
    pub backups: Vec<Backed>,
    /// What was broken, and when.
    pub faults: Vec<Injected>,
    /// Memory of all replicas while it ran, in order of time.
    pub memory: Vec<Resident>,
}

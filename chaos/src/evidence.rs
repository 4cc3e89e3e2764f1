//! The evidence recorded during a run: every client call with its times and outcome, and the replicas' own
//! reports. The oracle uses nothing else.

use std::collections::BTreeMap;
use std::net::IpAddr;

use romana_client::audit::{Tenure, Verification};
use romana_statemachine::name::{AddressName, HostName};
use romana_statemachine::{Command, Digest, Millis, Record, Revision};
use serde_json::Value;

pub use crate::clock::{Clock, Nanos};
use crate::kubernetes::Asked;
use crate::nemesis::Injected;

/// A client's request.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    Command(Box<Command>),
    /// A linearizable read of an address by its name.
    Read(AddressName),
    /// A local read at a replica, by its place from 1: possibly stale.
    Local(AddressName, u64),
    /// An audit query of an address's holders; the outcome is the current holder.
    Who(IpAddr),
}

/// An address in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldAddress {
    pub name: AddressName,
    pub ip: IpAddr,
    pub host: HostName,
    /// Revision of its allocation.
    pub revision: Revision,
}

/// The outcome of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded.
    Acked {
        /// Revision of the answer.
        revision: Revision,
        /// Whether anything changed, if the answer says so.
        changed: Option<bool>,
        /// The address: allocated by the command, or found by the read.
        held: Option<HeldAddress>,
    },
    /// It was refused: nothing was committed.
    Refused { code: String },
    /// No replica accepted it: nothing was committed.
    Unavailable,
    /// It may have been committed.
    Unknown,
}

/// A call.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub client: usize,
    pub invoked: Nanos,
    /// Time of the answer, or of the timeout.
    pub returned: Nanos,
    pub ask: Ask,
    pub outcome: Outcome,
    /// Whether the client library may have sent it more than once: it may have been committed as often.
    pub retried: bool,
}

impl Call {
    /// Whether it was or may have been committed.
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

/// A replica's digest at some moment of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub replica: u64,
    pub revision: Revision,
    pub digest: Digest,
}

/// Resident memory of a replica's process at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resident {
    pub replica: u64,
    /// Process id, which changes with a restart.
    pub process: u32,
    pub at: Nanos,
    pub bytes: u64,
}

/// The final report of one replica.
#[derive(Clone, Debug, PartialEq)]
pub struct Testimony {
    pub replica: u64,
    /// Its whole history.
    pub records: Vec<Record>,
    /// Its live addresses …
    pub live: Vec<HeldAddress>,
    /// … and the revision of that list.
    pub live_at: Revision,
    /// Its whole state, as served.
    pub snapshot: Value,
}

/// What a reconnecting follower saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// Number of connections.
    pub connections: u64,
    /// Digests of the follower's state, one per revision from 1 on.
    pub digests: Vec<Digest>,
    /// Violations: gaps, duplicates, broken chains.
    pub faults: Vec<String>,
}

/// The result of replaying a replica's exported history offline.
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

/// The audit evidence from one replica.
#[derive(Clone, Debug, PartialEq)]
pub struct Audited {
    pub replica: u64,
    /// Holders of the addresses queried.
    pub held: BTreeMap<IpAddr, Vec<Tenure>>,
    /// Its export up to the last revision of the evidence, or why the replay failed; `None`: not supported.
    pub exported: Option<Result<Exported, String>>,
    /// The verification of all replicas' histories, requested from this one; `None`: not supported.
    pub verified: Option<Verification>,
}

/// A backup taken during the run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backed {
    pub replica: u64,
    pub revision: Revision,
    /// Digest of its history.
    pub digest: Digest,
    /// Live addresses in its state.
    pub live: Vec<(AddressName, IpAddr)>,
    /// An internal inconsistency, if any.
    pub fault: Option<String>,
}

/// Everything that the oracle judges by.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Wall-clock time at the start of the run; `None`: no majority of the replicas' clocks was correct.
    pub began: Option<Millis>,
    /// Calls of all clients, in any order.
    pub calls: Vec<Call>,
    /// Digests sampled during the run.
    pub samples: Vec<Sample>,
    /// The replicas' final reports.
    pub testimonies: Vec<Testimony>,
    /// What the followers saw.
    pub followed: Vec<Followed>,
    /// The audit evidence.
    pub audited: Vec<Audited>,
    /// Backups, valid or not.
    pub backups: Vec<Backed>,
    /// The injected faults with their times.
    pub faults: Vec<Injected>,
    /// Memory samples of all replicas, in order of time.
    pub memory: Vec<Resident>,
    /// What the log should have from Kubernetes at the end; `None`: no API server was followed.
    pub kubernetes: Option<Asked>,
}

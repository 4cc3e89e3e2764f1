//! Leases of VIPs: who may answer for an address, and until when. Pure: each side passes readings of its own monotonic
//! clock; they are never compared with those of another machine, and wall clocks play no part.
//!
//! ```text
//!   host                                leader
//!   ask ── renewal: number, held ─────► hear: what the host holds, and what it gave up
//!   │ counts from here                  a quorum confirms, since the renewal arrived, that it leads
//!   ▼                                   grant: records until when the host may answer
//!   answer ◄─ grants, releases ───────
//!   hold until ask + grant              places a VIP elsewhere once that is over, or was given up
//! ```
//! No two hosts answer for one address (P6), because
//! - a host counts a grant of length L from when it *sent* the renewal, and has the address off [`REMOVAL`] after the
//!   end, also if every process of Romana on it was stopped or killed. One gap: see [`REMOVAL`];
//! - the leader records [`fence`]`(L)`, counted from when the renewal *arrived*, before it answers, and proposes to
//!   place the VIP on another host only after that. While the proposal is under way, it grants the old host nothing;
//! - a proposal says since when the VIP has been where the leader saw it, and is refused if that is not so any more: one
//!   that is committed late does not undo what was decided, and granted, in between;
//! - an answer is only given after a quorum confirmed the leader, later than the renewal arrived: so a renewal that an
//!   old leader answers arrived before the term of the new one began. The new leader places no VIP before the longest
//!   grant is over that the old one may have given, counted from the start of its term;
//! - another agent of the same host counts as another host: once it is enrolled, the host's VIPs are placed again;
//! - renewals are numbered. A host that lists the addresses it holds has given up the others, and ignores answers to
//!   its earlier renewals from then on.

mod host;
mod leader;

use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::name::{HostName, InstanceId};

pub use host::{HostLeases, LeaseChanges};
pub use leader::{LeaderLeases, LeaseLeft};

/// The rates of the monotonic clocks of two machines differ by at most one part in this many: 5 %. NTP slews a clock by
/// 0.05 %, chrony by up to 8.3 % only while it corrects a large error; quartz differs by 0.01 %.
pub const DRIFT_PARTS: u32 = 20;

/// How long after the end of a grant an address may stay on a host at most. If all processes of the agent are killed at
/// once, only its lifetime in the kernel ends it: of 1 s at least, and the kernel looks at lifetimes once a second. Linux
/// 6.18 removes it 1.0 to 1.2 s after the last renewal, or up to 2.0 s if another address is added in that second. That is
/// covered only if 1.25 s of the grant are left when it is renewed: not with the default grant of 1 s.
pub const REMOVAL: Duration = Duration::from_millis(750);

/// How long the leader waits, by its own clock, before it gives an address to another host: longer than a host with a
/// slower clock answers under a grant.
#[must_use]
pub fn fence(grant: Duration) -> Duration {
    let longest = grant.saturating_add(REMOVAL);
    longest.saturating_add(longest / DRIFT_PARTS)
}

/// How often a host renews that holds VIPs, for grants of this length: three renewals may be lost.
#[must_use]
pub fn renew_every(grant: Duration) -> Duration {
    grant / 4
}

/// A host's request to go on answering for its VIPs; from a host without any, that it can have some.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VipRenewal {
    pub host: HostName,
    /// The instance of the agent. Only the one that is enrolled for the host is granted anything.
    pub instance: InstanceId,
    /// Identifies the run of the agent: a random number, another one after each start.
    pub run: u64,
    /// Number of the renewal in this run.
    pub sequence: u64,
    /// Addresses that the host answers for, or may answer for under answers that it has accepted. It has given up all
    /// others, and ignores answers to earlier renewals.
    pub held: Vec<IpAddr>,
    /// Subnets of its links: it can have VIPs in them.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::Cidr>"))]
    pub subnets: Vec<IpNet>,
}

/// The leader's answer to a [`VipRenewal`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VipAnswer {
    pub granted: Vec<VipGrant>,
    /// Addresses that the host is to give up now.
    pub released: Vec<IpAddr>,
}

/// Permission to answer for a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VipGrant {
    pub ip: IpAddr,
    /// For how long, milliseconds from when the renewal was sent.
    pub grant_ms: u64,
}

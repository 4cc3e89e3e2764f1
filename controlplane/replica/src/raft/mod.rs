//! # Consensus
//!
//! All code that uses openraft. The rest of the program sees a [`Replica`]: it commits proposals,
//! makes reads linearizable, and holds the state, the history and the feed.
//!
//! ```text
//!   propose ─► proposer ─► Raft ─► log (WAL) ─► quorum ─► machine: state, history, feed ─► outcomes
//!      │ (a follower forwards to the leader)  ▲
//!      ▼                                      │ append, vote, snapshot
//!   client ── call ─► server of the leader    network ◄──► server of the followers
//! ```
//!
//! ## Laws
//! 1. An acknowledged proposal is durable on a quorum and applied on this replica.
//! 2. An error says whether the proposal may have been committed. A request that may have been sent is never resent.
//! 3. Equal logs give equal states; a replica whose state differs from the others stops with a fault.
//! 4. The log is purged only after a durable snapshot and a durable history cover it.
//! 5. A replica's data belongs to one id in one cluster, permanently ([`crate::IdentityError`]).
//! 6. Nothing here blocks the runtime: disk I/O runs on other threads.
//!
//! Out of scope: HTTP, authorization, and TLS between replicas.
//!
//! ## Reading order
//! - the API of a replica: this file, `propose`, [`handles`] (one file per subject)
//! - storage under Raft: `store` · replica-to-replica protocol: `peer` · what a replica knows: `known`
//! - batching of callers: `proposer`, `reads` · membership: `members` · startup: `begin`

mod begin;
mod config;
mod fault;
mod handles;
mod known;
mod members;
mod peer;
mod propose;
mod proposer;
mod reads;
mod remedy;
mod status;
mod store;
#[cfg(test)]
mod tests;
mod topics;

use std::sync::Arc;
use std::time::Duration;

use romana_daemon::error::chain;
use romana_statemachine::State;
use romana_storage::history::History;
use romana_storage::platform::blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::{ReplicaConfig, StartError, Tuning};
pub use fault::FaultKind;
pub use handles::{Agents, Clocks, Evidence, Health, Leadership, Members, Reads, Snapshots, Vips};
pub use known::clocks::{ClocksStatus, WallClock};
pub use members::{Change, Membership, next_change};
pub use peer::facts::Facts;
pub use remedy::reseed;
pub use status::{
    ClusterStatus, MemberProblem, MemberStatus, ProposeError, ReadError, Role, TransferError,
};
pub(crate) use store::seed::{SeedError, seed};
pub(crate) use store::stored;
pub use topics::TopicRevisions;

use crate::audit::Audit;
use crate::feed::Feed;
use crate::metrics::{DiskTimes, PeerRefusals};
use fault::Fault;
use known::peers::Peers;
use known::view::View;
use peer::network::PeerPool;
use peer::service::PeerService;
use store::log::LogStore;

/// Longest wait for tasks at shutdown.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

/// One replica of the control plane. Clones are handles to the same replica.
#[derive(Clone)]
pub struct Replica(Arc<Shared>);

struct Shared {
    host: Arc<PeerService>,
    log: LogStore,
    links: PeerPool,
    reads: reads::Reads,
    peers: Peers,
    view: View,
    fault: Fault,
    stop: CancellationToken,
    tasks: TaskTracker,
    audit: Audit,
    refused: PeerRefusals,
}

impl Shared {
    fn id(&self) -> u64 {
        self.host.identity.id
    }

    fn with_state<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        self.host.machine.with_state(read)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Replica {
    /// Reads the local state under its lock. Keep it short, because applying entries waits for the lock. For longer
    /// reads use [`Self::state`].
    pub fn with_state<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        self.0.host.machine.with_state(read)
    }

    /// A copy of the local state, in O(1).
    #[must_use]
    pub fn state(&self) -> State {
        self.with_state(State::clone)
    }

    /// The feed of this replica.
    #[must_use]
    pub fn feed(&self) -> &Feed {
        self.0.host.machine.feed()
    }

    /// The history of this replica.
    #[must_use]
    pub fn history(&self) -> &History {
        self.0.host.machine.history()
    }

    /// Audit queries on the history of this replica.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        &self.0.audit
    }

    /// This replica's id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.host.identity.id
    }

    /// Id of the cluster.
    #[must_use]
    pub fn cluster_id(&self) -> String {
        self.0.host.identity.cluster_id.clone()
    }

    /// Disk latencies, for metrics.
    #[must_use]
    pub fn disk_times(&self) -> &DiskTimes {
        self.0.host.machine.times()
    }

    /// Counters of refused peer messages, for metrics.
    #[must_use]
    pub fn peer_refusals(&self) -> &PeerRefusals {
        &self.0.refused
    }

    /// Stops the replica: like a crash for the cluster, but with everything flushed to disk. Waiting callers
    /// get errors. Idempotent.
    pub async fn shutdown(self) {
        self.0.stop.cancel();
        self.0.links.clear();
        if let Err(error) = self.0.host.raft.shutdown().await {
            tracing::warn!(%error, "Raft did not stop cleanly");
        }
        self.0.tasks.close();
        if timeout(SHUTDOWN_MAX, self.0.tasks.wait()).await.is_err() {
            tracing::warn!("tasks of the replica are still running");
        }
        let (history, audit) = (self.history().clone(), self.audit().clone());
        let end = move || {
            audit.stop();
            history.sync()
        };
        let synced = blocking(end).await;
        if let Ok(Err(error)) = synced {
            tracing::error!(error = %chain(&error), "cannot make the history durable");
        }
    }
}

//! This replica's view of the cluster, derived from Raft's metrics, as a watchable value.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use romana_daemon::error::chain;
use romana_statemachine::Term;
use romana_storage::wal::{Wal, WalError};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::raft::fault::Fault;
use crate::raft::store::machine::Raft;
use crate::raft::store::types::Metrics;

/// Pause before a retry, unless leadership changes first.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A snapshot of the view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::raft) struct Seen {
    pub(in crate::raft) term: Term,
    pub(in crate::raft) leader: Option<u64>,
    /// The term in which this replica leads.
    pub(in crate::raft) leads: Option<Term>,
    /// Peer addresses of all members.
    pub(in crate::raft) members: BTreeMap<u64, String>,
    pub(in crate::raft) voters: BTreeSet<u64>,
    /// Whether a majority has confirmed the leader recently ([`crate::raft::known::quorum`]).
    pub(in crate::raft) confirmed: bool,
}

impl Seen {
    /// The leader, if a majority has confirmed it.
    pub(in crate::raft) fn confirmed_leader(&self) -> Option<u64> {
        self.leader.filter(|_| self.confirmed)
    }
}

/// The current view, to read and to watch. Clones share it.
#[derive(Clone)]
pub(in crate::raft) struct View {
    seen: Arc<watch::Sender<Seen>>,
    recovered: Arc<AtomicBool>,
}

impl View {
    /// Initial view: the members are those of the command line.
    pub(in crate::raft) fn new(initial: &BTreeMap<u64, String>) -> Self {
        let seen = Seen { members: initial.clone(), ..Seen::default() };
        Self { seen: Arc::new(watch::Sender::new(seen)), recovered: Arc::default() }
    }

    pub(in crate::raft) fn get(&self) -> Seen {
        self.seen.borrow().clone()
    }

    pub(in crate::raft) fn watch(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    pub(in crate::raft) fn is_member(&self, id: u64) -> bool {
        self.seen.borrow().members.contains_key(&id)
    }

    pub(in crate::raft) fn knows_nobody(&self) -> bool {
        self.seen.borrow().members.is_empty()
    }

    pub(in crate::raft) fn leader(&self) -> Option<u64> {
        self.seen.borrow().leader
    }

    pub(in crate::raft) fn peer(&self, id: u64) -> Option<String> {
        self.seen.borrow().members.get(&id).cloned()
    }

    /// Whether this replica has applied everything that it acknowledged before its restart.
    pub(in crate::raft) fn recovered(&self) -> bool {
        self.recovered.load(Ordering::Acquire)
    }

    pub(in crate::raft) fn set_recovered(&self) {
        self.recovered.store(true, Ordering::Release);
        self.seen.send_modify(|_| ());
    }

    /// Sets the leader that a majority confirmed, or `None`.
    pub(in crate::raft) fn confirm(&self, leader: Option<u64>) {
        self.seen.send_if_modified(|seen| {
            let confirmed = leader.is_some() && leader == seen.leader;
            let changed = confirmed != seen.confirmed;
            seen.confirmed = confirmed;
            changed
        });
    }

    /// Marks this replica as not leading, regardless of Raft's metrics.
    fn resign(&self) {
        self.seen.send_if_modified(|seen| seen.leads.take().is_some());
    }

    fn update(&self, metrics: &Metrics) {
        let membership = &metrics.membership_config;
        self.seen.send_if_modified(|seen| {
            let leads =
                metrics.state == ServerState::Leader && metrics.current_leader == Some(metrics.id);
            let members: BTreeMap<u64, String> =
                membership.nodes().map(|(id, member)| (*id, member.peer.clone())).collect();
            let now = Seen {
                term: Term(metrics.current_term),
                leader: metrics.current_leader,
                leads: leads.then_some(Term(metrics.current_term)),
                members: if members.is_empty() { seen.members.clone() } else { members },
                voters: membership.voter_ids().collect(),
                confirmed: seen.confirmed
                    && (seen.leader, seen.term)
                        == (metrics.current_leader, Term(metrics.current_term)),
            };
            let changed = now != *seen;
            if changed {
                if now.leader != seen.leader || now.term != seen.term {
                    tracing::info!(
                        term = now.term.get(),
                        leader = now.leader,
                        "leadership changed"
                    );
                }
                *seen = now;
            }
            changed
        });
    }
}

/// Follows Raft's metrics until `stop`. Sets `fault` when Raft stops by itself, and stops Raft when
/// there is a fault: a replica that cannot be trusted must not vote.
pub(in crate::raft) async fn observe(
    raft: Raft,
    view: View,
    (wal, fault): (Wal, Fault),
    stop: CancellationToken,
) {
    let mut metrics = raft.metrics();
    loop {
        let failed = {
            let metrics = metrics.borrow_watched();
            view.update(&metrics);
            metrics.running_state.as_ref().err().map(ToString::to_string)
        };
        if let Some(why) = failed {
            if let Some(error) = wal.failed() {
                log_stopped(&fault, &error);
            } else if !stop.is_cancelled() {
                fault.set(format!("Raft has stopped: {why}"));
            }
            view.resign();
            return;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = any_fault(&wal, &fault) => {
                view.resign();
                if let Err(error) = raft.shutdown().await {
                    tracing::warn!(%error, "Raft did not stop cleanly");
                }
                return;
            }
            changed = metrics.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// Waits for a fault. A stopped WAL counts as one: Raft notices it only at its next write.
async fn any_fault(wal: &Wal, fault: &Fault) {
    tokio::select! {
        _ = fault.wait() => {}
        error = wal.wait_failed() => log_stopped(fault, &error),
    }
}

fn log_stopped(fault: &Fault, error: &WalError) {
    fault.set_error(format!("the log has stopped: {}", chain(error)), error);
}

/// Waits briefly, or until leadership changes. `false` when the deadline has passed.
pub(in crate::raft) async fn pause(news: &mut watch::Receiver<Seen>, deadline: Instant) -> bool {
    if Instant::now() + RETRY_PAUSE >= deadline {
        return false;
    }
    // Timeout or change: retry in both cases.
    _ = timeout(RETRY_PAUSE, news.changed()).await;
    true
}

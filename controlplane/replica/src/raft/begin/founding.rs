//! Founding a cluster: one replica initializes Raft, and the first leader proposes the initial state.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use romana_statemachine::{Command, Proposal, Term, VERSION_MAX};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::raft::store::machine::Raft;
use crate::raft::store::types::Member;
use crate::raft::{Facts, Replica};

/// Founding delay per replica, in order of id: the first replica is elected without a contest, and if it is down,
/// the next one founds the cluster.
const FOUND_STAGGER: Duration = Duration::from_millis(400);
const INITIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a new cluster waits for members that have not started, before it begins with the oldest behaviour
/// version.
const STARTERS_PATIENCE: Duration = Duration::from_secs(2);
const FACTS_TIMEOUT: Duration = Duration::from_millis(500);
const FACTS_PAUSE: Duration = Duration::from_millis(50);

/// Founds the cluster if this replica has no log. All replicas begin with the same first entry.
pub(in crate::raft) async fn found(raft: Raft, id: u64, initial: BTreeMap<u64, String>) {
    if initial.is_empty() {
        // This replica joins an existing cluster.
        return;
    }
    let rank = u32::try_from(initial.keys().filter(|other| **other < id).count()).unwrap_or(0);
    let mut metrics = raft.metrics();
    let heard = async {
        loop {
            if metrics.borrow_watched().last_log_index.is_some() || metrics.changed().await.is_err()
            {
                return;
            }
        }
    };
    tokio::select! {
        () = heard => return,
        () = sleep(FOUND_STAGGER * rank) => {}
    }
    let members: BTreeMap<u64, Member> =
        initial.into_iter().map(|(id, peer)| (id, Member { peer })).collect();
    match raft.is_initialized().await {
        Ok(false) => match raft.initialize(members).await {
            Ok(()) => tracing::info!(id, "founding the cluster"),
            // Another replica founded it first.
            Err(error) => tracing::debug!(%error, "not founding the cluster"),
        },
        Ok(true) => {}
        Err(error) => tracing::debug!(%error, "stopped before founding the cluster"),
    }
}

/// Proposes the initial state of a new cluster, if this replica leads and the state is empty.
pub(in crate::raft) async fn propose_initial(
    mut leadership: watch::Receiver<Option<Term>>,
    replica: impl Fn() -> Option<Replica>,
    mut proposals: Vec<Proposal>,
) {
    loop {
        if leadership.wait_for(Option::is_some).await.is_err() {
            return;
        }
        let Some(replica) = replica() else { return };
        if replica.reads().linearize(Instant::now() + INITIAL_TIMEOUT).await.is_err() {
            continue;
        }
        if replica.with_state(|state| state.revision()) > 0 {
            return;
        }
        if !all_know_newest(&replica, Instant::now() + STARTERS_PATIENCE).await {
            proposals.retain(|proposal| !matches!(proposal.command, Command::RaiseVersion(_)));
        }
        let deadline = Instant::now() + INITIAL_TIMEOUT;
        match replica.propose(proposals.clone(), deadline).await {
            Ok(outcomes) => {
                for (proposal, outcome) in proposals.iter().zip(outcomes) {
                    if let Err(refusal) = outcome.result
                        && !refusal.is_raised_already()
                    {
                        let command = &proposal.command;
                        tracing::error!(%command, %refusal, "initial command refused");
                    }
                }
                return;
            }
            Err(error) => tracing::warn!(%error, "initial commands not proposed yet"),
        }
    }
}

/// Whether every member's program knows the newest version. A cluster that is upgraded before anything was stored
/// looks like a new one. If a member does not know it, or does not answer in time, a leader task raises the version
/// later.
async fn all_know_newest(replica: &Replica, deadline: Instant) -> bool {
    loop {
        let facts = replica.members().facts(FACTS_TIMEOUT).await;
        let newest = |facts: &Facts| facts.version_max >= VERSION_MAX;
        if facts.values().flatten().any(|facts| !newest(facts)) {
            return false;
        }
        if facts.values().all(Result::is_ok) {
            return true;
        }
        if Instant::now() + FACTS_TIMEOUT > deadline {
            return false;
        }
        sleep(FACTS_PAUSE).await;
    }
}

//! Agent heartbeats: kept in the leader's memory; the other replicas forward those they receive.
//!
//! Not replicated: heartbeats are short-lived, and a new leader relearns them within a second.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use romana_statemachine::agent::{Heartbeat, HeartbeatAge, RefusedAgent};
use romana_statemachine::name::{HostName, InstanceId};
use romana_statemachine::{State, version};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::raft::peer::message::PeerRequest;
use crate::raft::peer::network::PeerPool;
use crate::raft::peer::service::PeerService;

/// How often heartbeats are forwarded.
const PASS_EVERY: Duration = Duration::from_millis(250);
const PASS_TIMEOUT: Duration = Duration::from_secs(1);
/// An older heartbeat belongs to a host that is gone.
const KEPT: Duration = Duration::from_secs(2 * 86_400);
/// A refused agent retries each second: one that has been silent for this long is gone.
const REFUSED_KEPT: Duration = Duration::from_secs(10);

/// The last heartbeat of each host, and when it arrived.
#[derive(Debug, Default)]
pub(in crate::raft) struct Pulse {
    heard: Mutex<BTreeMap<HostName, (Heartbeat, Instant)>>,
    /// Heartbeats to forward.
    waiting: Mutex<BTreeMap<HostName, Heartbeat>>,
    /// Refused agents (their host already has another one), by instance, and when they were refused.
    refused: Mutex<BTreeMap<InstanceId, (RefusedAgent, Instant)>>,
    /// Refused agents to report to the leader.
    refused_waiting: Mutex<BTreeMap<InstanceId, RefusedAgent>>,
}

impl Pulse {
    /// Stores heartbeats, as the leader.
    pub(in crate::raft) fn hear(&self, heartbeats: impl IntoIterator<Item = Heartbeat>) {
        let now = Instant::now();
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        for heartbeat in heartbeats {
            heard.insert(heartbeat.host.clone(), (heartbeat, now));
        }
    }

    /// All known heartbeats, by host.
    pub(in crate::raft) fn heard(&self) -> Vec<HeartbeatAge> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|_, (_, at)| at.elapsed() < KEPT);
        let said = heard.values().map(|(heartbeat, at)| {
            let silent_ms = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
            HeartbeatAge { heartbeat: heartbeat.clone(), silent_ms }
        });
        said.collect()
    }

    /// Queues an agent that was refused here, to be reported to the leader.
    pub(in crate::raft) fn wait_refused(&self, agent: RefusedAgent) {
        let mut waiting = self.refused_waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(agent.instance.clone(), agent);
    }

    /// Stores refused agents, as the leader.
    pub(in crate::raft) fn refuse(&self, agents: impl IntoIterator<Item = RefusedAgent>) {
        let now = Instant::now();
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.extend(agents.into_iter().map(|agent| (agent.instance.clone(), (agent, now))));
    }

    /// Agents that were refused recently.
    pub(in crate::raft) fn refused(&self) -> Vec<RefusedAgent> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.retain(|_, (_, at)| at.elapsed() < REFUSED_KEPT);
        refused.values().map(|(agent, _)| agent.clone()).collect()
    }

    pub(in crate::raft) fn wait(&self, heartbeat: Heartbeat) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(heartbeat.host.clone(), heartbeat);
    }

    fn take(&self) -> Vec<Heartbeat> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *waiting).into_values().collect()
    }

    fn take_refused(&self) -> Vec<RefusedAgent> {
        let mut waiting = self.refused_waiting.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *waiting).into_values().collect()
    }
}

/// Forwards heartbeats to the leader until `stop`. A lost one is replaced by the next, a second later.
pub(in crate::raft) async fn pass_on(
    host: Arc<PeerService>,
    links: PeerPool,
    stop: CancellationToken,
) {
    let mut clock = interval(PASS_EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = clock.tick() => {}
        }
        let (heartbeats, refused) = (host.pulse.take(), host.pulse.take_refused());
        let at = host.machine.with_state(State::version);
        let Some(leader) = host.view.leader().filter(|_| at >= version::HEARTBEATS) else {
            continue;
        };
        if leader == host.identity.id {
            host.pulse.hear(heartbeats);
            host.pulse.refuse(refused);
        } else if let Some(peer) = host.view.peer(leader) {
            let heartbeats =
                (!heartbeats.is_empty()).then_some(PeerRequest::Heartbeats(heartbeats));
            let refused = (at >= version::ENROLMENT && !refused.is_empty())
                .then_some(PeerRequest::Refused(refused));
            for ask in heartbeats.into_iter().chain(refused) {
                let deadline = Instant::now() + PASS_TIMEOUT;
                if let Err(error) = links.to(leader, &peer).call(ask, deadline).await {
                    tracing::debug!(%error, "cannot forward heartbeats to the leader");
                }
            }
        }
    }
}

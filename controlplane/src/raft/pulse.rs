//! What agents say each second: kept in the leader's memory, passed on to it by the others.
//!
//! Not in the log: it is true for a moment, and a new leader hears it anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use romana_statemachine::attachment::{Heard, Heartbeat};
use romana_statemachine::name::HostName;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::message::{Ask, Reply};
use super::network::Links;
use super::server::Host;
use super::{ReadError, Replica};

/// How often heartbeats are passed on.
const PASS_EVERY: Duration = Duration::from_millis(250);
const PASS_TIMEOUT: Duration = Duration::from_secs(1);
/// The version of behaviour that knows heartbeats.
const VERSION: u16 = 3;
/// What is so old is of a host that is gone.
const KEPT: Duration = Duration::from_secs(2 * 86_400);

/// The last heartbeat of each host, and when it came.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    heard: Mutex<BTreeMap<HostName, (Heartbeat, Instant)>>,
    /// To be passed on.
    waiting: Mutex<BTreeMap<HostName, Heartbeat>>,
}

impl Pulse {
    /// Takes heartbeats in, as the leader.
    pub(super) fn hear(&self, heartbeats: impl IntoIterator<Item = Heartbeat>) {
        let now = Instant::now();
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        for heartbeat in heartbeats {
            heard.insert(heartbeat.host.clone(), (heartbeat, now));
        }
    }

    /// All that was heard, by host.
    pub(super) fn heard(&self) -> Vec<Heard> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|_, (_, at)| at.elapsed() < KEPT);
        let said = heard.values().map(|(heartbeat, at)| {
            let silent_ms = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
            Heard { heartbeat: heartbeat.clone(), silent_ms }
        });
        said.collect()
    }

    fn wait(&self, heartbeat: Heartbeat) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(heartbeat.host.clone(), heartbeat);
    }

    fn take(&self) -> Vec<Heartbeat> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *waiting).into_values().collect()
    }
}

/// Passes heartbeats on to the leader until `stop`. What is lost is said again a second later.
pub(super) async fn pass_on(host: Arc<Host>, links: Links, stop: CancellationToken) {
    let mut clock = interval(PASS_EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = clock.tick() => {}
        }
        let heartbeats = host.pulse.take();
        let known = host.machine.with_state(romana_statemachine::State::version) >= VERSION;
        let Some(leader) = host.view.leader().filter(|_| known && !heartbeats.is_empty()) else {
            continue;
        };
        if leader == host.identity.id {
            host.pulse.hear(heartbeats);
        } else if let Some(peer) = host.view.peer(leader) {
            let ask = Ask::Heartbeats(heartbeats);
            let deadline = Instant::now() + PASS_TIMEOUT;
            if let Err(error) = links.to(leader, &peer).call(ask, deadline).await {
                tracing::debug!(%error, "heartbeats were lost");
            }
        }
    }
}

impl Replica {
    /// Takes an agent's heartbeat, and passes it on to the leader soon.
    pub fn heartbeat(&self, heartbeat: Heartbeat) {
        self.0.host.pulse.wait(heartbeat);
    }

    /// What this replica has heard as the leader.
    #[must_use]
    pub fn heard(&self) -> Vec<Heard> {
        self.0.host.pulse.heard()
    }

    /// What the leader has heard; nothing while the cluster does not know heartbeats.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`]: the leader does not say.
    pub async fn heard_by_leader(&self, deadline: Instant) -> Result<Vec<Heard>, ReadError> {
        if self.with_state(romana_statemachine::State::version) < VERSION {
            return Ok(Vec::new());
        }
        let unavailable = |why: &str| ReadError::Unavailable { why: why.into() };
        let seen = self.0.view.get();
        let leader = seen.leader.ok_or_else(|| unavailable("no leader is known"))?;
        if leader == self.id() {
            return Ok(self.heard());
        }
        let peer = seen.members.get(&leader).ok_or_else(|| unavailable("no leader is known"))?;
        match self.0.links.to(leader, peer).call(Ask::Heard, deadline).await {
            Ok(Reply::Heard(Some(heard))) => Ok(heard),
            Ok(_) => Err(unavailable("the leader has just changed")),
            Err(error) => Err(unavailable(&error.to_string())),
        }
    }
}

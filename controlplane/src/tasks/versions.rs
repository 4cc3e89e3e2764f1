//! Raises the behaviour version when every member's program, and every live agent, supports the next one.
//!
//! This completes a rolling upgrade: replicas are replaced one by one while the old version is in force. When the
//! last one is replaced, the leader activates the new version through the log, for all replicas at the same entry.
//! Older agents would not understand the decisions made under it, and would stop at the first event that they must
//! not skip; an operator who cannot wait for them uses `romana cluster raise-version --force`.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use romana_replica::{Facts, ProposeError};
use romana_statemachine::agent::{AGENT_INFO, HeartbeatAge};
use romana_statemachine::command::RaiseVersion;
use romana_statemachine::name::HostName;
use romana_statemachine::{Command, Term, VERSION_MAX};
use tokio::time::Instant;

use super::{LeaderContext, Pass};

/// Polling interval while there is a version to raise to.
const PERIOD: Duration = Duration::from_secs(1);
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Agents send a heartbeat each second: after this time a new leader has heard all of them.
const HEARING: Duration = Duration::from_secs(4);
/// An agent that is silent for longer is gone.
const SILENT: Duration = Duration::from_secs(10);

/// The task that raises the version.
#[derive(Debug, Default)]
pub struct Versions(Mutex<Told>);

/// What was logged and seen since this replica leads.
#[derive(Debug, Default)]
struct Told {
    /// The term in which it leads, and since when.
    led: Option<(Term, Instant)>,
    obstacle: Option<Obstacle>,
}

/// What prevents the next version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// A member's program is too old.
    Member {
        id: u64,
        /// The newest version that it supports.
        knows: u16,
    },
    /// A member did not report its version.
    Silent { id: u64 },
    /// A host's agent is too old.
    Agent {
        host: HostName,
        /// The newest version that it supports.
        knows: u16,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member { id, knows } => write!(f, "replica {id} knows version {knows} only"),
            Self::Silent { id } => write!(f, "replica {id} does not answer"),
            Self::Agent { host, knows } => {
                write!(f, "the agent of host {host} knows version {knows} only")
            }
        }
    }
}

/// The first obstacle to version `next`. Agents that have been silent for long are ignored.
#[must_use]
pub fn obstacle(
    next: u16,
    facts: &BTreeMap<u64, io::Result<Facts>>,
    agents: &[HeartbeatAge],
) -> Option<Obstacle> {
    let of_member = |(id, facts): (&u64, &io::Result<Facts>)| match facts {
        Ok(facts) if facts.version_max >= next => None,
        Ok(facts) => Some(Obstacle::Member { id: *id, knows: facts.version_max }),
        Err(_) => Some(Obstacle::Silent { id: *id }),
    };
    let of_agent = |heard: &HeartbeatAge| {
        let (host, knows) = (heard.heartbeat.host.clone(), heard.heartbeat.knows());
        let speaks = Duration::from_millis(heard.silent_ms) < SILENT;
        (speaks && knows < next).then_some(Obstacle::Agent { host, knows })
    };
    facts.iter().find_map(of_member).or_else(|| agents.iter().find_map(of_agent))
}

impl Versions {
    /// Whether this leader has led long enough to have heard all live agents.
    fn has_heard(&self, context: &LeaderContext) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (term, since) = *told.led.get_or_insert_with(|| (context.term, Instant::now()));
        if term != context.term {
            told.led = Some((context.term, Instant::now()));
            return false;
        }
        since.elapsed() >= HEARING
    }

    /// Logs a new obstacle once.
    fn tell(&self, next: u16, obstacle: Option<Obstacle>) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.obstacle == obstacle {
            return;
        }
        if let Some(why) = &obstacle {
            tracing::info!(next, %why, "version not raised yet");
        }
        told.obstacle = obstacle;
    }

    /// Raises the version as far as all members and agents support it.
    async fn raise(&self, context: &LeaderContext) -> Result<(), ProposeError> {
        let (current, with_agents) = context.replica.with_state(|state| {
            let mut hosts = state.hosts();
            (state.version(), hosts.any(|host| host.info.contains_key(AGENT_INFO)))
        });
        if current >= VERSION_MAX || with_agents && !self.has_heard(context) {
            return Ok(());
        }
        let facts = context.replica.members().facts(ASK_TIMEOUT).await;
        let known = context.replica.agents().heard();
        let agents: Vec<HeartbeatAge> = context.replica.with_state(|state| {
            let there = |heard: &HeartbeatAge| state.host(&heard.heartbeat.host).is_some();
            known.into_iter().filter(there).collect()
        });
        for next in current + 1..=VERSION_MAX {
            let obstacle = obstacle(next, &facts, &agents);
            self.tell(next, obstacle.clone());
            if obstacle.is_some() || !raise_to(next, context).await? {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Proposes a version. Returns whether it is in force.
async fn raise_to(next: u16, context: &LeaderContext) -> Result<bool, ProposeError> {
    let command = Command::RaiseVersion(RaiseVersion { version: next });
    let outcomes = context.propose([command]).await?;
    match outcomes.into_iter().next().map(|outcome| outcome.result) {
        // The founder of a new cluster raises the version as well: the second proposal is refused as already done.
        Some(Err(refusal)) if refusal.is_raised_already() => Ok(true),
        Some(Err(refusal)) => {
            tracing::warn!(%refusal, "cannot raise the version");
            Ok(false)
        }
        _ => {
            tracing::info!(version = next, "version raised");
            Ok(true)
        }
    }
}

impl Pass for Versions {
    type Error = ProposeError;

    const NAME: &'static str = "versions";
    const PERIOD: Duration = PERIOD;

    fn pass<'a>(&'a self, context: &'a LeaderContext) -> BoxFuture<'a, Result<(), ProposeError>> {
        Box::pin(self.raise(context))
    }
}

#[cfg(test)]
mod tests {
    use romana_statemachine::Revision;

    use romana_statemachine::agent::Heartbeat;

    use super::*;

    #[test]
    fn who_does_not_know_a_version_keeps_the_cluster_from_it() {
        let knows = |version_max| Ok(Facts::of(version_max));
        let heard = |host: &str, version: &str, silent_ms| HeartbeatAge {
            heartbeat: Heartbeat {
                host: host.into(),
                version: version.into(),
                revision: Revision(1),
                applied: None,
                problems: Vec::new(),
            },
            silent_ms,
        };
        let said = |facts: [io::Result<Facts>; 2], agents: &[HeartbeatAge]| {
            let facts = (1..).zip(facts).collect();
            obstacle(5, &facts, agents).map(|why| why.to_string())
        };
        let all = || [knows(5), knows(6)];
        assert_eq!(said(all(), &[]), None);
        assert_eq!(said([knows(5), knows(4)], &[]).unwrap(), "replica 2 knows version 4 only");
        let silent = Err(io::Error::other("no answer"));
        assert_eq!(said([silent, knows(5)], &[]).unwrap(), "replica 1 does not answer");
        let new = heard("h1", "0.2.0+log.5", 900);
        assert_eq!(said(all(), std::slice::from_ref(&new)), None);
        let old = |silent_ms| [new.clone(), heard("h2", "0.2.0+log.4", silent_ms)];
        let why = "the agent of host h2 knows version 4 only";
        assert_eq!(said(all(), &old(900)).unwrap(), why);
        assert_eq!(said(all(), &old(60_000)), None, "it is gone");
        let first = heard("h3", "0.1.0", 1);
        let why = "the agent of host h3 knows version 3 only";
        assert_eq!(said(all(), &[first]).unwrap(), why, "it does not say");
        let own = heard("h4", &Heartbeat::version_of("1.0.0-rc.1"), 1);
        assert_eq!(own.heartbeat.knows(), VERSION_MAX);
    }
}

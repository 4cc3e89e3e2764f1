//! Decides which agent acts for the host. The log names one instance. While that one sends heartbeats, others
//! are refused; once it has been silent, another takes over.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use romana_client::{Client, Error};
use romana_statemachine::command::EnrolAgent;
use romana_statemachine::name::{HostName, InstanceId};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::config::Config;
use crate::state_dir::StateDir;

/// Heartbeats are sent every second: an agent that missed one is quiet.
const QUIET: Duration = Duration::from_secs(2);

/// How long a confirmation stays valid: a refused heartbeat tells when another agent takes over.
const SURE: Duration = Duration::from_secs(600);

/// Whether this agent is the accepted one of its host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum EnrolmentState {
    /// The control plane was not asked yet.
    #[default]
    Unknown,
    /// The cluster does not support instance names yet (version 4 of the log).
    Unsupported,
    Accepted,
    /// Another agent is.
    Refused {
        /// The other agent's instance.
        by: String,
    },
}

/// This agent's enrolment.
#[derive(Debug)]
pub struct Enrolment {
    pub host: HostName,
    pub instance: InstanceId,
    /// Name of the machine, for messages.
    pub machine: String,
    /// After this silence of another agent, this one takes over.
    takeover_after: Duration,
    state: watch::Sender<EnrolmentState>,
    /// Notified when a heartbeat is refused.
    pub refused: Notify,
    /// When the log last confirmed this agent.
    named: Mutex<Option<Instant>>,
    /// Which other agent is quiet, and since when this one has observed that.
    quiet: Mutex<Option<(String, Instant)>>,
}

impl Enrolment {
    /// The initial state, before the control plane was asked.
    #[must_use]
    pub fn new(config: &Config, state_dir: &StateDir) -> Self {
        let (host, instance) = (config.host.clone(), state_dir.instance.clone());
        let takeover_after = config.takeover_after;
        let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let (state, refused) = (watch::Sender::default(), Notify::new());
        Self {
            host,
            instance,
            machine,
            takeover_after,
            state,
            refused,
            quiet: Mutex::default(),
            named: Mutex::default(),
        }
    }

    /// A receiver of changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<EnrolmentState> {
        self.state.subscribe()
    }

    /// Asks the control plane to accept this agent, also as the successor of a silent one.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub async fn ask(&self, client: &Client) -> Result<(), String> {
        if self.is_sure() {
            return Ok(());
        }
        let enrol = |replaces| {
            let (host, instance) = (self.host.clone(), self.instance.clone());
            client.enrol_agent(EnrolAgent { host, instance, replaces })
        };
        let refusal = match enrol(None).await {
            Err(Error::Refused(refusal)) if refusal.code == "HostHasAgent" => refusal,
            // The cluster or the replica does not support enrolment yet.
            Err(Error::Refused(refusal))
                if refusal.code == "VersionTooLow" || refusal.status == 400 =>
            {
                self.set_state(EnrolmentState::Unsupported);
                return Ok(());
            }
            done => {
                done.map_err(|error| error.to_string())?;
                self.speaks();
                return Ok(());
            }
        };
        let other = refusal.details["instance"].as_str().unwrap_or_default().to_owned();
        if self.is_silent(client, &other).await? {
            tracing::warn!(other, "taking over from another agent of this host that is silent");
            enrol(Some(other.into())).await.map_err(|error| error.to_string())?;
            self.speaks();
            return Ok(());
        }
        let why = format!("{}. {}", refusal.message, refusal.hint);
        self.set_state(EnrolmentState::Refused { by: other });
        Err(why)
    }

    /// Whether the other agent has been quiet for a while, as observed by this one throughout: a new leader
    /// has not received any heartbeats yet, and a leader that was paused considers all agents silent.
    /// Heartbeats of this agent are refused, so those that arrive are the other's.
    async fn is_silent(&self, client: &Client, other: &str) -> Result<bool, String> {
        let heard = client.heartbeats().await.map_err(|error| error.to_string())?;
        let last = heard.items.iter().find(|heard| heard.heartbeat.host == self.host);
        let is_quiet = last.is_none_or(|last| Duration::from_millis(last.silent_ms) >= QUIET);
        let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_quiet {
            *quiet = None;
            return Ok(false);
        }
        let before = quiet.take().filter(|(name, _)| name == other);
        let (_, since) = quiet.insert(before.unwrap_or_else(|| (other.to_owned(), Instant::now())));
        Ok(since.elapsed() >= self.takeover_after)
    }

    fn speaks(&self) {
        *self.named.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.set_state(EnrolmentState::Accepted);
    }

    /// Whether the log confirmed this agent recently, and no heartbeat has been refused since.
    fn is_sure(&self) -> bool {
        let named = *self.named.lock().unwrap_or_else(PoisonError::into_inner);
        *self.state.borrow() == EnrolmentState::Accepted
            && named.is_some_and(|at| at.elapsed() < SURE)
    }

    /// Resets the confirmation: the host was registered again, and has no agent.
    pub fn forget(&self) {
        *self.named.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn set_state(&self, state: EnrolmentState) {
        self.state.send_if_modified(|now| {
            let changed = *now != state;
            *now = state;
            changed
        });
    }

    /// Handles a refused heartbeat: another agent has taken over, or had done so before.
    pub fn refuse(&self, by: &str) {
        self.set_state(EnrolmentState::Refused { by: by.to_owned() });
        self.refused.notify_one();
    }
}

impl EnrolmentState {
    /// Whether this agent may report for its host.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        matches!(self, Self::Accepted | Self::Unsupported)
    }

    /// The problem to report, if any.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let Self::Refused { by } = self else { return None };
        Some(format!(
            "another agent, {by}, speaks for this host: stop one of the two, or choose another --hostname"
        ))
    }
}

//! Which agent speaks for the host. The log names one; this one is refused while it names another that is
//! heard, and takes its place when that has been silent.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use romana_client::{Client, Error};
use romana_statemachine::command::EnrolAgent;
use romana_statemachine::name::{HostName, InstanceId};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::config::Config;
use crate::state_dir::StateDir;

/// Heartbeats come each second: an agent that has missed one is quiet.
const QUIET: Duration = Duration::from_secs(2);

/// How long it need not be asked again: heartbeats tell when another agent takes the place.
const SURE: Duration = Duration::from_secs(600);

/// Whether this agent speaks for its host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// The log was not asked yet.
    #[default]
    Unknown,
    /// The cluster is of before agents had names (version 4 of the log).
    Unnamed,
    /// It does.
    Speaks,
    /// Another one does.
    Refused {
        /// Which.
        by: String,
    },
}

/// This agent's part in it.
#[derive(Debug)]
pub struct Enrolment {
    /// The host.
    pub host: HostName,
    /// What this agent calls itself.
    pub instance: InstanceId,
    /// The name of the machine, for people.
    pub machine: String,
    /// After so much quiet of another agent this one takes its place.
    takeover_after: Duration,
    standing: watch::Sender<Standing>,
    /// A heartbeat was refused.
    pub refused: Notify,
    /// When the log named this agent last.
    named: Mutex<Option<Instant>>,
    /// Which other one is quiet, and since when this one sees that.
    quiet: Mutex<Option<(String, Instant)>>,
}

impl Enrolment {
    /// Of an agent that has not asked yet.
    #[must_use]
    pub fn new(config: &Config, state_dir: &StateDir) -> Self {
        let (host, instance) = (config.host.clone(), state_dir.instance.clone());
        let takeover_after = config.takeover_after;
        let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let (standing, refused) = (watch::Sender::default(), Notify::new());
        Self {
            host,
            instance,
            machine,
            takeover_after,
            standing,
            refused,
            quiet: Mutex::default(),
            named: Mutex::default(),
        }
    }

    /// How it stands, as it changes.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Asks the log to name this agent; also in the place of one that has been silent.
    ///
    /// # Errors
    /// Why it is not named.
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
            // A cluster, or a replica, that does not know of this yet.
            Err(Error::Refused(refusal))
                if refusal.code == "VersionTooLow" || refusal.status == 400 =>
            {
                self.stand(Standing::Unnamed);
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
            tracing::warn!(
                other,
                "another agent has spoken for this host and is silent: taking its place"
            );
            enrol(Some(other.into())).await.map_err(|error| error.to_string())?;
            self.speaks();
            return Ok(());
        }
        let why = format!("{}. {}", refusal.message, refusal.hint);
        self.stand(Standing::Refused { by: other });
        Err(why)
    }

    /// Whether the other agent has been quiet for a while, as this one has seen all the time: a leader that is new
    /// has heard nobody yet, and one that was stopped thinks that all are silent. Heartbeats of this agent are
    /// refused, so those that are heard are the other's.
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
        self.stand(Standing::Speaks);
    }

    /// Whether the log has named this agent lately, and no heartbeat was refused since.
    fn is_sure(&self) -> bool {
        let named = *self.named.lock().unwrap_or_else(PoisonError::into_inner);
        *self.standing.borrow() == Standing::Speaks && named.is_some_and(|at| at.elapsed() < SURE)
    }

    /// The host is new in the log, and has no agent there.
    pub fn forget(&self) {
        *self.named.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn stand(&self, standing: Standing) {
        self.standing.send_if_modified(|now| {
            let changed = *now != standing;
            *now = standing;
            changed
        });
    }

    /// Takes in that a heartbeat was refused: another agent has taken this one's place, or had it.
    pub fn refuse(&self, by: &str) {
        self.stand(Standing::Refused { by: by.to_owned() });
        self.refused.notify_one();
    }
}

impl Standing {
    /// Whether this agent may say what its host runs.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        matches!(self, Self::Speaks | Self::Unnamed)
    }

    /// What people should know of it.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let Self::Refused { by } = self else { return None };
        Some(format!(
            "another agent, {by}, speaks for this host: stop one of the two, or choose another --host"
        ))
    }
}

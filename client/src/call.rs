//! Calls: which replica is asked, and what its silence and its answers mean. Clients and what gathers proposals for
//! them stand on it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::Response;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, sleep_until};

use crate::config::{ClientConfig, Server};
use crate::error::{Cause, Error};
use crate::model::ClusterStatus;
use crate::retry::{Backoff, Heard, Nature, Verdict, judge};
use crate::servers::Servers;
use crate::transport::{Ask, Fault, Reply, Transport, read_pieces, read_reply};

/// A way to the cluster, call by call. Clones share connections and what is known of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Core {
    transport: Transport,
    servers: Arc<Mutex<Servers>>,
    config: Arc<ClientConfig>,
}

impl Core {
    /// Connects when first used.
    pub(crate) fn new(config: ClientConfig) -> Result<Self, Error> {
        if config.servers.is_empty() {
            return Err(Error::config("no server is given; write http://HOST:9600"));
        }
        let servers = Servers::new(config.servers.clone(), rand::random::<u16>().into());
        Ok(Self {
            transport: Transport::new(&config.actor, config.timeout)?,
            servers: Arc::new(Mutex::new(servers)),
            config: Arc::new(config),
        })
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.config.timeout
    }

    /// The default timeout of an attempt.
    pub(crate) fn one_attempt(&self) -> Duration {
        self.config.attempt_timeout
    }

    /// Timeout of one attempt.
    pub(crate) fn attempt_timeout(&self) -> Duration {
        self.config.patience.unwrap_or(self.config.attempt_timeout)
    }

    pub(crate) fn servers(&self) -> MutexGuard<'_, Servers> {
        // No critical section leaves the list inconsistent, so poisoning is ignored.
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn call(&self, ask: Ask, nature: Nature) -> Result<Reply, Error> {
        self.call_until(&ask, nature, self.deadline()).await.map(|answered| answered.reply)
    }

    /// Retries until there is an answer, a retry is unsafe, or the deadline has passed. Another replica is
    /// tried at once; the back-off applies when all have failed.
    pub(crate) async fn call_until(
        &self,
        ask: &Ask,
        nature: Nature,
        deadline: Instant,
    ) -> Result<Answered, Error> {
        let mut trouble = Trouble::default();
        let mut backoff = Backoff::new();
        loop {
            let now = Instant::now();
            self.refresh_if_due(now);
            let server = self.servers().choose(nature != Nature::Read, now);
            let attempt_deadline = match nature {
                Nature::Once => deadline,
                Nature::Read | Nature::Idempotent => match self.config.patience {
                    Some(patience) => now + patience,
                    None => deadline.min(now + self.config.attempt_timeout),
                },
            };
            let attempt = self.transport.exchange(&server, ask, attempt_deadline).await;
            let wait = match judge(attempt, nature) {
                Verdict::Answer(reply) => {
                    self.servers().worked(&server);
                    return Ok(Answered { reply, doubt: trouble.doubt() });
                }
                Verdict::Fail(error) => return Err(in_doubt(error, trouble.doubt().as_deref())),
                Verdict::Again { why, source, maybe, heard, wait } => {
                    tracing::debug!(%server, why, maybe, "attempt failed");
                    trouble.add((maybe, heard), format!("{server}: {why}"), source);
                    wait
                }
            };
            let now = Instant::now();
            let another = {
                let mut servers = self.servers();
                servers.failed(&server, now);
                servers.is_one_ready(now)
            };
            if another && now < deadline {
                continue;
            }
            let next = now + backoff.next(wait, rand::random());
            if next >= deadline {
                return Err(trouble.into_error());
            }
            sleep_until(next).await;
        }
    }

    /// Opens a stream from any replica: waits for the head, the caller reads the body.
    pub(crate) async fn open(&self, ask: &Ask) -> Result<(Server, Response<Incoming>), Error> {
        self.open_within(ask, self.attempt_timeout()).await
    }

    /// [`Self::open`] with a longer timeout, for answers that the replica has to prepare.
    pub(crate) async fn open_within(
        &self,
        ask: &Ask,
        within: Duration,
    ) -> Result<(Server, Response<Incoming>), Error> {
        let now = Instant::now();
        self.refresh_if_due(now);
        let server = self.servers().choose(false, now);
        let deadline = now + within;
        let attempt = match self.transport.open(&server, ask, deadline).await {
            Ok(response) if response.status().is_success() => {
                self.servers().worked(&server);
                return Ok((server, response));
            }
            Ok(response) => read_reply(response, deadline).await,
            Err(fault) => Err(fault),
        };
        match judge(attempt, Nature::Read) {
            Verdict::Fail(error) => Err(error),
            Verdict::Answer(_) => Err(Error::protocol("the status changed")),
            Verdict::Again { why, source, .. } => {
                self.servers().failed(&server, Instant::now());
                Err(Error::Unavailable { why: format!("{server}: {why}"), source })
            }
        }
    }

    /// Reads an answer whose size grows with the cluster. The timeout of an attempt applies to each chunk.
    pub(crate) async fn fetch(&self, ask: &Ask) -> Result<Bytes, Error> {
        let (deadline, mut backoff) = (self.deadline(), Backoff::new());
        loop {
            let error = match self.fetch_once(ask).await {
                Err(error @ Error::Unavailable { .. }) => error,
                done => return done,
            };
            let pause = backoff.next(None, rand::random());
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            sleep(pause).await;
        }
    }

    async fn fetch_once(&self, ask: &Ask) -> Result<Bytes, Error> {
        let (server, response) = self.open(ask).await?;
        read_pieces(response.into_body(), self.attempt_timeout()).await.map_err(|fault| {
            self.servers().failed(&server, Instant::now());
            Error::Unavailable { why: format!("{server}: {}", fault.why()), source: fault.cause() }
        })
    }

    /// Refreshes the list of replicas in the background, if it is old or a replica has failed.
    fn refresh_if_due(&self, now: Instant) {
        if !self.servers().claim_refresh(now) {
            return;
        }
        let core = self.clone();
        tokio::spawn(async move {
            let server = core.servers().choose(false, Instant::now());
            if let Err(error) = core.refresh(&server).await {
                tracing::debug!(%server, why = error.why(), "cluster not refreshed");
            }
        });
    }

    async fn refresh(&self, server: &Server) -> Result<(), Fault> {
        let deadline = Instant::now() + self.config.attempt_timeout;
        let reply = self.transport.exchange(server, &Ask::get("/v1/cluster"), deadline).await?;
        if let Ok(cluster) = parse::<ClusterStatus>(&reply.body)
            && (200..300).contains(&reply.status)
        {
            self.servers().learned(&cluster, Instant::now());
        }
        Ok(())
    }
}

/// An answer, and whether an earlier attempt may have been committed.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) reply: Reply,
    /// Why an earlier attempt of the same call may have been committed, if so. The answer is
    /// that of the last attempt only.
    pub(crate) doubt: Option<String>,
}

/// A refusal of a later attempt does not tell whether an earlier one was committed.
pub(crate) fn in_doubt(error: Error, doubt: Option<&str>) -> Error {
    match (error, doubt) {
        (Error::Refused(refusal), Some(doubt)) => Error::Unknown {
            why: format!(
                "an earlier attempt may have happened ({doubt}), and the one after it was refused"
            ),
            source: Some(std::sync::Arc::new(*refusal)),
        },
        (error, _) => error,
    }
}

/// The most informative failure among the attempts of one call; the last one of equals.
#[derive(Default)]
struct Trouble {
    why: String,
    source: Option<Cause>,
    /// Whether it may have been committed, and how much was received.
    weight: (bool, Heard),
}

impl Trouble {
    fn add(&mut self, weight: (bool, Heard), why: String, source: Option<Cause>) {
        if weight >= self.weight {
            (self.weight, self.why, self.source) = (weight, why, source);
        }
    }

    /// Why an attempt may have been committed; `None`: none was.
    fn doubt(&self) -> Option<String> {
        self.weight.0.then(|| self.why.clone())
    }

    fn into_error(self) -> Error {
        let Self { why, source, weight: (maybe, _) } = self;
        match maybe {
            true => Error::Unknown { why, source },
            false => Error::Unavailable { why, source },
        }
    }
}

/// Parses a JSON object, which every answer except that of a batch is. (serde would
/// accept a list for a struct as well.)
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Error::protocol("it is not a JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| Error::protocol(error.to_string()))
}

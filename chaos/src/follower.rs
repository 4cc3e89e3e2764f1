//! A follower that frequently disconnects and resumes at another replica. It applies records to a state
//! machine, which detects gaps, duplicates and broken chains.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use hyper::Method;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use romana_statemachine::{Digest, Record, Revision, State};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use crate::evidence::Followed;
use crate::http::Connection;

/// Maximum lifetime of a connection before the follower closes it.
const LIFE_MS_MAX: u64 = 1500;
/// Connection timeout.
const PATIENCE: Duration = Duration::from_millis(500);
/// A target that is never reached: follow until told where to stop.
const FOR_EVER: u64 = u64::MAX;

/// A running follower.
#[derive(Debug)]
pub struct Follower {
    until: Arc<AtomicU64>,
    task: JoinHandle<Followed>,
}

impl Follower {
    /// Starts following from the first record.
    #[must_use]
    pub fn start(apis: Vec<SocketAddr>, seed: u64) -> Self {
        let until = Arc::new(AtomicU64::new(FOR_EVER));
        let task = tokio::spawn(follow(apis, SmallRng::seed_from_u64(seed), Arc::clone(&until)));
        Self { until, task }
    }

    /// Follows until `revision` is reached, then returns what it saw.
    ///
    /// # Errors
    /// It does not get there within `patience`.
    pub async fn finish(self, revision: Revision, patience: Duration) -> Result<Followed> {
        self.until.store(revision.get(), Ordering::Relaxed);
        let abort = self.task.abort_handle();
        match tokio::time::timeout(patience, self.task).await {
            Ok(followed) => followed.context("the follower"),
            Err(elapsed) => {
                abort.abort();
                Err(elapsed)
                    .with_context(|| format!("a follower never came to revision {revision}"))
            }
        }
    }
}

async fn follow(apis: Vec<SocketAddr>, mut rng: SmallRng, until: Arc<AtomicU64>) -> Followed {
    let mut state = State::new();
    let mut followed = Followed::default();
    while state.revision() < until.load(Ordering::Relaxed) && followed.faults.is_empty() {
        let api = apis[rng.random_range(0..apis.len())];
        let life = Duration::from_millis(rng.random_range(1..=LIFE_MS_MAX));
        if let Err(fault) = one_life(api, life, &mut state, &mut followed, &until).await {
            followed.faults.push(format!("{fault} (replica {api})"));
        }
        // Do not spin while replicas are down.
        sleep(Duration::from_millis(10)).await;
    }
    followed
}

/// One connection. Errors are violations; a lost connection is not.
async fn one_life(
    api: SocketAddr,
    life: Duration,
    state: &mut State,
    followed: &mut Followed,
    until: &AtomicU64,
) -> Result<(), String> {
    let end = Instant::now() + life;
    let Ok(mut connection) = Connection::open(api, PATIENCE).await else { return Ok(()) };
    let path = format!("/v1/events?from={}", state.revision());
    let answer = connection.send(Method::GET, &path, "application/x-ndjson", None);
    let Ok(Ok(response)) = timeout_at(end, answer).await else { return Ok(()) };
    match response.status().as_u16() {
        200 => {}
        // A replica that lags behind this follower may answer that; one that has lost history must not.
        410 => return Err(format!("the history after {} is gone", state.revision())),
        _ => return Ok(()),
    }
    followed.connections += 1;
    let mut body = response.into_body();
    let mut buffer = BytesMut::new();
    while let Ok(Some(Ok(frame))) = timeout_at(end, body.frame()).await {
        if let Some(data) = frame.data_ref() {
            buffer.extend_from_slice(data);
        }
        while let Some(at) = buffer.iter().position(|byte| *byte == b'\n') {
            if state.revision() >= until.load(Ordering::Relaxed) {
                return Ok(());
            }
            let line = buffer.split_to(at);
            buffer.advance(1);
            take_line(&line, state, &mut followed.digests)?;
        }
    }
    Ok(())
}

fn take_line(line: &[u8], state: &mut State, digests: &mut Vec<Digest>) -> Result<(), String> {
    // An error is the feed's last line: whether it was justified shows at the next connection.
    let other: [&[u8]; 2] = [b"{\"bookmark\"", b"{\"error\""];
    if line.is_empty() || other.iter().any(|start| line.starts_with(start)) {
        return Ok(());
    }
    let record: Record =
        serde_json::from_slice(line).map_err(|error| format!("a line is no record: {error}"))?;
    state.follow(&record).map_err(|error| error.to_string())?;
    digests.push(state.digest());
    Ok(())
}

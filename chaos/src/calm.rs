//! Quiet moments of a run that follows a Kubernetes API server: no object changes, nothing is broken, and the log must
//! come to have exactly what the API server has.

use std::time::Duration;

use anyhow::{Context, Result};
use romana_statemachine::State;
use tokio::time::{Instant, sleep};

use crate::cluster::Cluster;
use crate::final_state::{history, sample};
use crate::kubernetes::{Asked, differences};

/// Time for the log to come to it: a session that failed is followed by another one within five seconds, and its lists
/// take as long as the machine is busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// Interval between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Differences in a report.
const SHOWN_MAX: usize = 10;

/// Waits until the log has what is asked for. Returns the differences that stay, or why the log cannot be read.
pub(crate) async fn settled(cluster: &Cluster, asked: &Asked) -> Option<String> {
    let (start, mut state) = (Instant::now(), State::new());
    loop {
        let mut found = match catch_up(cluster, &mut state).await {
            Ok(()) => differences(&state, asked),
            Err(error) => vec![format!("{error:#}")],
        };
        if found.is_empty() {
            return None;
        }
        if start.elapsed() > PATIENCE {
            let more = found.len().saturating_sub(SHOWN_MAX);
            found.truncate(SHOWN_MAX);
            return Some(format!("after {PATIENCE:?}: {}; {more} more", found.join("; ")));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Folds the records that the first replica has got since.
async fn catch_up(cluster: &Cluster, state: &mut State) -> Result<()> {
    let replica = cluster.replicas().first().context("there is no replica")?;
    let said = sample(replica.id, replica.api).await.context("a replica does not answer")?;
    for record in history(replica.api, state.revision(), said.revision).await? {
        state.follow(&record)?;
    }
    Ok(())
}

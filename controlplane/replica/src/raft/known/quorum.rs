//! Whether the cluster has a leader: true only while a majority confirms it. Raft itself keeps reporting the last
//! leader when that is dead, and a leader without followers keeps reporting itself.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::raft::known::view::View;
use crate::raft::reads::{ROUND_MAX, Reads};

/// How often the leader is asked to confirm that a majority follows it.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// Pause after a failed request.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Asks the current leader for its read index, as readers do: it answers only after a majority confirmed it. A change
/// of leader ends the pause early.
pub(in crate::raft) async fn confirm(reads: Reads, view: View) {
    let mut news = view.watch();
    loop {
        let asked_of = view.leader();
        let begun = Instant::now();
        let answer = timeout(ROUND_MAX, reads.index()).await;
        let confirmed = matches!(answer, Ok(Ok(_))).then_some(asked_of).flatten();
        view.confirm(confirmed);
        let pause = if confirmed.is_some() { ASK_EVERY } else { ASK_AGAIN };
        tokio::select! {
            () = sleep(pause.saturating_sub(begun.elapsed())) => {}
            _ = leader_changes(&mut news, view.leader()) => {}
        }
    }
}

async fn leader_changes(
    news: &mut tokio::sync::watch::Receiver<crate::raft::known::view::Seen>,
    leader: Option<u64>,
) {
    // The view lives as long as this task.
    if news.wait_for(|seen| seen.leader != leader).await.is_err() {
        std::future::pending().await
    }
}

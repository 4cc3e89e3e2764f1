//! Whether somebody leads: known only while a majority confirms it. Raft itself goes on calling the last leader
//! leader when it is dead, and a leader that has lost its followers goes on calling itself so.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::raft::known::view::View;
use crate::raft::reads::{ROUND_MAX, Reads};

/// How often the leader is asked whether a majority still follows it.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// Pause after an answer that was none.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Asks the leader, whoever that is, as readers do: it answers after it has heard from a majority. News of another
/// leader cut the pause short.
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

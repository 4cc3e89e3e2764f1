//! Linearizable reads: finds the read index, up to which this replica must have applied to include every write that
//! was acknowledged before the read began.
//!
//! The leader answers after a quorum has confirmed that it still leads. Readers that wait at the same time share one
//! round; a reader never joins a round that began before the reader arrived.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};

/// Readers that may wait for a round.
const QUEUE: usize = 16_384;
/// Rounds in flight.
const IN_FLIGHT: usize = 4;
/// Longest duration of a round.
pub(super) const ROUND_MAX: Duration = Duration::from_secs(1);

type Answer = Result<u64, String>;

/// Batches requests for the read index. Clones share it.
#[derive(Clone)]
pub(super) struct Reads {
    waiters: mpsc::Sender<oneshot::Sender<Answer>>,
}

impl Reads {
    /// Starts the task that batches readers. `round` asks the leader once. The task ends with the last clone.
    pub(super) fn start(
        round: impl Fn() -> BoxFuture<'static, Answer> + Send + Sync + 'static,
    ) -> Self {
        let (waiters, queue) = mpsc::channel(QUEUE);
        tokio::spawn(run(queue, round));
        Self { waiters }
    }

    /// The read index, or why it is unknown.
    pub(super) async fn index(&self) -> Answer {
        let (waiter, answer) = oneshot::channel();
        self.waiters.try_send(waiter).map_err(|_| "too many reads wait".to_string())?;
        answer.await.unwrap_or_else(|_| Err("this replica is stopping".into()))
    }
}

async fn run(
    mut queue: mpsc::Receiver<oneshot::Sender<Answer>>,
    round: impl Fn() -> BoxFuture<'static, Answer>,
) {
    let mut flights = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = flights.next() => {}
            first = queue.recv(), if flights.len() < IN_FLIGHT => {
                let Some(first) = first else { break };
                let mut waiters = vec![first];
                while let Ok(waiter) = queue.try_recv() {
                    waiters.push(waiter);
                }
                let asked = round();
                flights.push(async move {
                    let answer = asked.await;
                    for waiter in waiters {
                        _ = waiter.send(answer.clone());
                    }
                });
            }
        }
    }
    while flights.next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn readers_that_wait_share_a_round() {
        let rounds = Arc::new(AtomicU64::new(0));
        let open = Arc::new(Semaphore::new(0));
        let (counted, opened) = (Arc::clone(&rounds), Arc::clone(&open));
        let reads = Reads::start(move || {
            let number = counted.fetch_add(1, Ordering::SeqCst);
            let opened = Arc::clone(&opened);
            Box::pin(async move {
                drop(opened.acquire().await);
                Ok(number)
            })
        });
        let readers = (0..500).map(|_| reads.index());
        let answers = tokio::join!(join_all(readers), async { open.add_permits(1) }).0;
        assert!(answers.iter().all(Result::is_ok));
        assert!(rounds.load(Ordering::SeqCst) <= IN_FLIGHT as u64 + 1);
    }
}

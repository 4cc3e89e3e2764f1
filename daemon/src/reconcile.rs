//! The reconciliation loop: a pass compares actual with desired state and changes what differs. It is
//! level-triggered: a pass keeps no state except caches, so first start, normal operation, restart
//! and repair share one code path.
//!
//! ```text
//!   pass ─► problems ─► status, metrics, log
//!    ▲                        │
//!    └── wake, timer, back-off ◄┘
//! ```

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::problems::Problems;

/// When a pass runs without being woken.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Interval after a successful pass; `None`: run only when woken.
    pub period: Option<Duration>,
    /// Back-off after the first failed pass, doubled after each further one …
    pub retry: Duration,
    pub retry_max: Duration,
}

/// The result of a pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// Problems that the pass could not resolve, as messages.
    pub problems: Vec<String>,
    pub next: Next,
}

/// When the next pass runs, unless it is woken before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Next {
    /// After the period.
    #[default]
    Period,
    /// After this time.
    In(Duration),
    /// After the back-off, as the pass failed.
    Retry,
}

impl Pass {
    /// A failed pass, with the reason.
    #[must_use]
    pub fn failed(why: String) -> Self {
        Self { problems: vec![why], next: Next::Retry }
    }
}

/// A reconciler of some state.
pub trait Reconcile: Send {
    /// Name of the part under which its problems are reported.
    const PART: &'static str;

    /// Stable code of its problems, in CamelCase; empty: none.
    const CODE: &'static str = "";

    /// Whether a pass is cancelled at the stop. Otherwise the stop waits for it.
    const DROPPED_AT_STOP: bool = false;

    /// Compares actual with desired state and changes what differs.
    fn pass(&mut self) -> impl Future<Output = Pass> + Send;

    /// Returns when there is a reason for a pass. It is cancelled when the interval is over: state it
    /// has received must be in `self`.
    fn wake(&mut self) -> impl Future<Output = ()> + Send;
}

/// Runs passes until `stop`.
pub async fn run<R: Reconcile>(
    mut reconciler: R,
    schedule: Schedule,
    problems: Problems,
    stop: CancellationToken,
) {
    let mut failures = 0_u32;
    while !stop.is_cancelled() {
        let pass = tokio::select! {
            () = stop.cancelled(), if R::DROPPED_AT_STOP => return,
            pass = reconciler.pass() => pass,
        };
        let Pass { problems: found, next } = pass;
        problems.replace(R::PART, R::CODE, found);
        failures = if next == Next::Retry { failures.saturating_add(1) } else { 0 };
        let pause = schedule.pause(next, failures);
        tokio::select! {
            () = stop.cancelled() => {}
            // Timeout or wake-up: run a pass either way.
            _ = timeout(pause, reconciler.wake()) => {}
        }
    }
}

impl Schedule {
    fn pause(&self, next: Next, failures: u32) -> Duration {
        match next {
            Next::In(pause) => pause,
            Next::Period => self.period.unwrap_or(Duration::MAX),
            Next::Retry => {
                let factor = 1 << failures.saturating_sub(1).min(16);
                self.retry.saturating_mul(factor).min(self.retry_max)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{Notify, mpsc};

    use super::*;

    const SCHEDULE: Schedule = Schedule {
        period: Some(Duration::from_secs(30)),
        retry: Duration::from_secs(1),
        retry_max: Duration::from_secs(8),
    };

    #[test]
    fn failures_back_off_up_to_a_bound() {
        let pauses = [1, 2, 3, 4, 5, u32::MAX].map(|n| SCHEDULE.pause(Next::Retry, n).as_secs());
        assert_eq!(pauses, [1, 2, 4, 8, 8, 8]);
        assert_eq!(SCHEDULE.pause(Next::Period, 0).as_secs(), 30);
        assert_eq!(SCHEDULE.pause(Next::In(Duration::from_secs(7)), 3).as_secs(), 7);
        let woken_only = Schedule { period: None, ..SCHEDULE };
        assert_eq!(woken_only.pause(Next::Period, 0), Duration::MAX);
    }

    /// Fails a given number of times, and reports the result of each pass.
    struct Flaky {
        failures: usize,
        wake: Arc<Notify>,
        passed: mpsc::UnboundedSender<Next>,
    }

    impl Reconcile for Flaky {
        const PART: &'static str = "flaky";

        async fn pass(&mut self) -> Pass {
            let pass = match self.failures.checked_sub(1) {
                Some(left) => {
                    self.failures = left;
                    Pass::failed("it is broken".into())
                }
                None => Pass::default(),
            };
            self.passed.send(pass.next).unwrap();
            pass
        }

        async fn wake(&mut self) {
            self.wake.notified().await;
        }
    }

    #[tokio::test]
    async fn news_does_not_wait_and_problems_go_when_they_are_solved() {
        let (passed, mut passes) = mpsc::unbounded_channel();
        let (wake, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let problems = Problems::default();
        let flaky = Flaky { failures: 1, wake: Arc::clone(&wake), passed };
        let never = Duration::MAX;
        let schedule = Schedule { period: None, retry: never, retry_max: never };
        let running = tokio::spawn(run(flaky, schedule, problems.clone(), stop.clone()));
        assert_eq!(passes.recv().await.unwrap(), Next::Retry);
        wake.notify_one();
        assert_eq!(passes.recv().await.unwrap(), Next::Period);
        wake.notify_one();
        // The problem was present until the pass before this one.
        assert_eq!(passes.recv().await.unwrap(), Next::Period);
        assert_eq!(problems.all(), Vec::<String>::new());
        stop.cancel();
        running.await.unwrap();
    }
}

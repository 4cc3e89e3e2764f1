//! Closed-loop load: each caller sends a request, waits for the answer, and repeats.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Duration before counting starts.
const WARM_UP: Duration = Duration::from_secs(1);

/// A caller.
pub(super) trait Caller: Send + 'static {
    /// Sends one request and waits for the answer.
    fn call(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// The results.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Figures {
    /// Calls per second.
    pub(super) rate: f64,
    /// Median latency, microseconds.
    pub(super) p50_us: u64,
    /// 99th percentile, microseconds.
    pub(super) p99_us: u64,
    /// Maximum, microseconds.
    pub(super) max_us: u64,
}

/// Runs all callers for the warm-up and `measure`. Only calls that begin and end within `measure` count. An
/// error of any caller fails the benchmark: a rate that includes failures is meaningless.
pub(super) async fn drive<C: Caller>(callers: Vec<C>, measure: Duration) -> Result<Figures> {
    let start = Instant::now() + WARM_UP;
    let end = start + measure;
    let mut tasks = JoinSet::new();
    for mut caller in callers {
        tasks.spawn(async move {
            let mut latencies = Histogram::<u64>::new(3).context("a histogram")?;
            loop {
                let asked = Instant::now();
                if asked >= end {
                    return Ok::<_, anyhow::Error>(latencies);
                }
                caller.call().await?;
                let answered = Instant::now();
                if asked >= start && answered <= end {
                    let micros = (answered - asked).as_micros();
                    latencies.record(u64::try_from(micros).unwrap_or(u64::MAX))?;
                }
            }
        });
    }
    let mut all = Histogram::<u64>::new(3).context("a histogram")?;
    while let Some(done) = tasks.join_next().await {
        all.add(done.context("a caller")??).context("add histograms")?;
    }
    Ok(Figures {
        rate: all.len() as f64 / measure.as_secs_f64(),
        p50_us: all.value_at_quantile(0.5),
        p99_us: all.value_at_quantile(0.99),
        max_us: all.max(),
    })
}

/// The median by rate (of an even number, the lower one).
pub(super) fn median(mut rounds: Vec<Figures>) -> Figures {
    rounds.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let middle = rounds.len().saturating_sub(1) / 2;
    rounds.get(middle).copied().unwrap_or_default()
}

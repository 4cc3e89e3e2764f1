//! Waiting for something that is to come, with a bound.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::{Instant, sleep};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until something is so.
///
/// # Errors
/// It is not so within `patience`.
pub async fn until(
    what: &str,
    patience: Duration,
    mut so: impl AsyncFnMut() -> bool,
) -> Result<()> {
    let start = Instant::now();
    while !so().await {
        ensure!(start.elapsed() < patience, "not within {patience:?}: {what}");
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

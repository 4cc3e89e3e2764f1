//! Waits for a condition with a timeout.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::{Instant, sleep};

/// Poll interval.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until a condition holds.
///
/// # Errors
/// It does not hold within `patience`.
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

//! Samples the memory of the replicas' processes during a run, as reported by the kernel.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::bench::report::resident_bytes;
use crate::cluster::Lives;
use crate::evidence::{Clock, Resident};

/// Sampling interval.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Samples all replicas periodically.
#[derive(Debug)]
pub(crate) struct Watcher {
    over: watch::Sender<bool>,
    task: JoinHandle<Vec<Resident>>,
}

impl Watcher {
    pub(crate) fn start(lives: Lives, clock: Clock) -> Self {
        let (over, mut end) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut seen = Vec::new();
            while timeout(LOOK_EVERY, end.wait_for(|over| *over)).await.is_err() {
                for (replica, process) in lives.all() {
                    let (at, bytes) = (clock.now(), resident_bytes(Some(process)));
                    // A process that has exited has no memory, and is not compared.
                    if bytes > 0 {
                        seen.push(Resident { replica, process, at, bytes });
                    }
                }
            }
            seen
        });
        Self { over, task }
    }

    pub(crate) async fn finish(self) -> Result<Vec<Resident>> {
        self.over.send_replace(true);
        self.task.await.context("the watcher of memory")
    }
}

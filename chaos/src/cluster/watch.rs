//! Observes a cluster from outside: readiness, leader, logs.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use hyper::Method;
use serde_json::Value;

use super::Cluster;
use crate::http;

/// Timeout of one status query.
const ASK: Duration = Duration::from_millis(500);

impl Cluster {
    /// Waits until every replica that is up answers `/readyz`.
    ///
    /// # Errors
    /// One is not ready within `patience`, or exited.
    pub async fn wait_ready(&mut self, patience: Duration) -> Result<()> {
        let start = Instant::now();
        for at in 0..self.replicas.len() {
            while self.replicas[at].is_up() {
                let api = self.replicas[at].api;
                let answer = http::once(api, Method::GET, "/readyz", None, ASK).await;
                if answer.is_ok_and(|answer| answer.status == 200) {
                    break;
                }
                let id = self.replicas[at].id;
                if start.elapsed() > patience {
                    bail!("replica {id} is not ready after {patience:?}");
                }
                if let [crash, ..] = &self.crashes()[..] {
                    bail!("while waiting for replica {id}: {crash}\n{}", self.log_tails(40));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// The leader's place, according to the first replica that answers.
    pub async fn leader(&self) -> Option<usize> {
        for replica in self.replicas.iter().filter(|replica| replica.is_up() && !replica.paused) {
            let Ok(answer) = http::once(replica.api, Method::GET, "/v1/cluster", None, ASK).await
            else {
                continue;
            };
            if let Some(leader) = answer.body.get("leader").and_then(Value::as_u64) {
                return self.replicas.iter().position(|replica| replica.id == leader);
            }
        }
        None
    }

    /// Waits for a leader.
    ///
    /// # Errors
    /// There is none within `patience`.
    pub async fn wait_leader(&self, patience: Duration) -> Result<usize> {
        let start = Instant::now();
        loop {
            if let Some(at) = self.leader().await {
                return Ok(at);
            }
            ensure!(start.elapsed() < patience, "no leader after {patience:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The last lines of every log, for a failure report.
    #[must_use]
    pub fn log_tails(&self, lines: usize) -> String {
        let mut text = String::new();
        for (at, replica) in self.replicas.iter().enumerate() {
            let log = std::fs::read(self.log_path(at)).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let all: Vec<&str> = log.lines().collect();
            let from = all.len().saturating_sub(lines);
            text.push_str(&format!("--- replica {} (last {lines} lines)\n", replica.id));
            for line in &all[from..] {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }
}

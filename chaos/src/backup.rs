//! Takes backups from the replicas in turn during the run.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::BodyExt;
use hyper::Method;
use romana_statemachine::backup::{BackupError, Check, Checked, Reader};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::evidence::Backed;
use crate::http::Connection;

/// Interval between backups.
const EVERY: Duration = Duration::from_millis(700);
/// Timeout of a backup, and of each part of it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The result of a backup request.
enum Taken {
    Whole(Box<Checked>),
    /// No complete backup: the replica was down, or stopped.
    Broken,
    Wrong(BackupError),
}

/// The task that takes backups.
pub(crate) struct BackupTask {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<Backed>>,
}

impl BackupTask {
    pub(crate) fn start(targets: Vec<(u64, SocketAddr)>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut all = Vec::new();
            for &(replica, api) in targets.iter().cycle() {
                if flag.load(Ordering::Relaxed) {
                    break;
                }
                match timeout(PATIENCE * 2, take(api)).await {
                    Ok(Taken::Whole(checked)) => all.push(backed(replica, &checked)),
                    Ok(Taken::Wrong(error)) => {
                        let fault = Some(error.to_string());
                        all.push(Backed { replica, fault, ..Backed::default() });
                    }
                    Ok(Taken::Broken) | Err(_) => {}
                }
                sleep(EVERY).await;
            }
            all
        });
        Self { stop, task }
    }

    pub(crate) async fn finish(self) -> Result<Vec<Backed>> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.context("the task that takes backups")
    }
}

fn backed(replica: u64, checked: &Checked) -> Backed {
    let live = checked.state.ipam().addresses_after(None);
    Backed {
        replica,
        revision: checked.header.revision,
        digest: checked.header.digest,
        live: live.map(|held| (held.name, held.ip)).collect(),
        fault: None,
    }
}

/// Takes a backup of a replica's state, with every check.
async fn take(api: SocketAddr) -> Taken {
    let Ok(mut connection) = Connection::open(api, PATIENCE).await else { return Taken::Broken };
    let path = "/v1/backup?consistency=local";
    let asked = connection.send(Method::GET, path, "application/octet-stream", None).await;
    let Ok(response) = asked else { return Taken::Broken };
    if !response.status().is_success() {
        return Taken::Broken;
    }
    let mut body = response.into_body();
    let (mut reader, mut check) = (Reader::new(), Check::new());
    loop {
        let data = match timeout(PATIENCE, body.frame()).await {
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            Ok(None) => break,
            // The replica stopped.
            Ok(Some(Err(_))) | Err(_) => return Taken::Broken,
        };
        reader.push(&data);
        let parts = std::iter::from_fn(|| reader.part().transpose());
        let checked: Result<(), BackupError> =
            parts.into_iter().try_for_each(|part| check.part(&part?));
        if let Err(error) = checked {
            return Taken::Wrong(error);
        }
    }
    match reader.finish().map(|_| ()).and_then(|()| check.finish()) {
        Ok(checked) => Taken::Whole(Box::new(checked)),
        Err(error) => Taken::Wrong(error),
    }
}

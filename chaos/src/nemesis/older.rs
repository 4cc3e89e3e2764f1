//! Restores a replica's data directory to an earlier state, like a snapshot of a virtual machine. The replica
//! must detect that, report it with the remedy, and not participate; then a new member replaces it. Never
//! combined with another fault, as the others must have what it lost.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hyper::Method;
use rand::RngExt;

use super::members::replace;
use super::{Kind, Needs, Sort, nobody, one, present_victim};
use crate::cluster::Cluster;
use crate::http;
use crate::wait::until;

const PATIENCE: Duration = Duration::from_secs(40);
const ASK: Duration = Duration::from_millis(500);
/// Entries that the replica must apply after the copy was taken, so that it loses at least these.
const FORGOTTEN: u64 = 20;
/// Time until other members have stored how far the replica was.
const KNOWN_AFTER: Duration = Duration::from_millis(2500);

/// One replica, often the leader.
pub(super) const OLDER: Kind = Kind {
    name: "older-copy",
    about: "the data directory of a replica is put back to an older copy while it is down",
    sort: Sort::Members,
    needs: Needs::NOTHING,
    begin: |cluster, id, rng| {
        Box::pin(async move {
            let Some(at) = present_victim(cluster, rng).await else { return Ok(nobody(id)) };
            cluster.kill(at)?;
            let (data, kept) = (cluster.data_dir(at), cluster.dir().join(format!("kept-{id}")));
            copy(&data, &kept).context("a copy of its data")?;
            cluster.start_replica(at)?;
            cluster.wait_ready(PATIENCE).await?;
            forget(cluster, at).await?;
            if rng.random_bool(0.5) {
                lead(cluster, at).await;
            }
            tokio::time::sleep(KNOWN_AFTER).await;
            cluster.kill(at)?;
            empty(&data).context("its data")?;
            copy(&kept, &data).context("the copy put back")?;
            fs::remove_dir_all(&kept)?;
            cluster.start_replica(at)?;
            refuses(cluster, at).await?;
            cluster.kill(at)?;
            replace(cluster, at).await?;
            let mut hit = one(cluster, id, at);
            hit.told.push_str(", refused and replaced");
            Ok(hit)
        })
    },
    end: |_, _| Box::pin(async { Ok(()) }),
};

/// Removes the content of a directory, but not the directory: a disk may be mounted on it.
fn empty(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { fs::remove_dir_all(&path)? } else { fs::remove_file(&path)? }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let to = to.join(path.file_name().context("a name")?);
        if path.is_dir() { copy(&path, &to)? } else { _ = fs::copy(&path, to)? }
    }
    Ok(())
}

/// A replica's own revision.
async fn revision(cluster: &Cluster, at: usize) -> Option<u64> {
    let api = cluster.replicas()[at].api;
    let path = "/v1/digest?consistency=local";
    let answer = http::once(api, Method::GET, path, None, ASK).await.ok()?;
    answer.body["revision"].as_u64()
}

/// Waits until it has applied enough entries that the copy lacks.
async fn forget(cluster: &Cluster, at: usize) -> Result<()> {
    let before = std::cell::Cell::new(None);
    until("a replica that applies more", PATIENCE, async || {
        let now = revision(cluster, at).await;
        let first = before.get().or(now);
        before.set(first);
        first.zip(now).is_some_and(|(first, now)| now >= first + FORGOTTEN)
    })
    .await
}

/// Tries to make it the leader.
async fn lead(cluster: &Cluster, at: usize) {
    let (api, id) = (cluster.replicas()[at].api, cluster.replicas()[at].id);
    let body = serde_json::json!({"to": id});
    _ = http::once(api, Method::POST, "/v1/cluster/transfer", Some(&body), ASK).await;
}

/// Checks that it reports the problem and the remedy, and never becomes ready.
async fn refuses(cluster: &mut Cluster, at: usize) -> Result<()> {
    let start = Instant::now();
    let cure = format!("romana cluster replace {}", cluster.replicas()[at].id);
    loop {
        let api = cluster.replicas()[at].api;
        if let Ok(answer) = http::once(api, Method::GET, "/readyz", None, ASK).await {
            ensure!(answer.status != 200, "a replica is ready on an older copy of its data");
            if answer.code() == "OlderCopy" {
                let said = answer.body.to_string();
                ensure!(said.contains(&cure), "it does not say what to do: {said}");
                return Ok(());
            }
        }
        if start.elapsed() > PATIENCE {
            bail!("a replica does not notice that its data is an older copy");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

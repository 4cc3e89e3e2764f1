//! Damages files while a replica is down. The replica must then either work correctly, or refuse to
//! start and name the file or the remedy; then a new member replaces it. Never combined with another
//! fault, as damaged data is lost.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hyper::Method;
use rand::RngExt;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;

use super::members::replace;
use super::{Kind, Needs, Sort, nobody, one, victim};
use crate::cluster::Cluster;
use crate::http;

/// How long a replica may take to be ready, or to refuse.
const PATIENCE: Duration = Duration::from_secs(40);
const ASK: Duration = Duration::from_millis(500);
/// Limit of damaged bytes.
const BYTES_MAX: u64 = 64;

/// Damages one file of one replica.
pub(super) const DAMAGE: Kind = Kind {
    name: "damage",
    about: "bytes of a file of a replica are changed, or its end is lost, while it is down",
    sort: Sort::Members,
    needs: Needs::NOTHING,
    begin: |cluster, id, rng| {
        Box::pin(async move {
            let Some(at) = victim(cluster, rng).await else { return Ok(nobody(id)) };
            cluster.kill(at)?;
            let mut hit = one(cluster, id, at);
            let file = damage(&cluster.data_dir(at), rng)?;
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let log_from = fs::metadata(cluster.log_path(at)).map_or(0, |log| log.len());
            cluster.start_replica(at)?;
            if starts(cluster, at).await? {
                hit.told.push_str(&format!(", {name}: goes on"));
                return Ok(hit);
            }
            if let Some(said) = unexplained(cluster, at, log_from, &file)? {
                bail!(
                    "with a damaged {} a replica ended and did not say why: {said}",
                    file.display()
                );
            }
            hit.told.push_str(&format!(", {name}: refused and replaced"));
            replace(cluster, at).await?;
            Ok(hit)
        })
    },
    end: |_, _| Box::pin(async { Ok(()) }),
};

/// The replica's last output, if it names neither the file nor the remedy.
fn unexplained(cluster: &Cluster, at: usize, from: u64, file: &Path) -> Result<Option<String>> {
    let said = fs::read(cluster.log_path(at)).context("its log")?;
    let said = String::from_utf8_lossy(said.get(usize::try_from(from)?..).unwrap_or_default());
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let cure = format!("romana cluster replace {}", cluster.replicas()[at].id);
    Ok((!said.contains(&stem) && !said.contains(&cure)).then(|| said.into_owned()))
}

/// Damages one non-empty file. Returns its path.
fn damage(dir: &Path, rng: &mut SmallRng) -> Result<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir)?.collect::<Result<Vec<_>, _>>()? {
            let metadata = entry.metadata()?;
            match () {
                () if metadata.is_dir() => open.push(entry.path()),
                () if metadata.len() > 0 => files.push((entry.path(), metadata.len())),
                () => {}
            }
        }
    }
    files.sort();
    let (path, len) = files.into_iter().choose(rng).context("there is no file")?;
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    // Preallocated files are empty at the end, so damage the beginning.
    let at = rng.random_range(0..len.min(1 << 20));
    if rng.random_bool(0.2) {
        file.set_len(at)?;
    } else {
        let count = rng.random_range(1..=BYTES_MAX.min(len - at));
        let mut bytes = vec![0; usize::try_from(count)?];
        file.read_exact_at(&mut bytes, at)?;
        bytes.iter_mut().for_each(|byte| *byte ^= rng.random_range(1..=u8::MAX));
        file.write_all_at(&bytes, at)?;
    }
    file.sync_all()?;
    Ok(path)
}

/// Whether it becomes ready, rather than exits.
async fn starts(cluster: &mut Cluster, at: usize) -> Result<bool> {
    let start = Instant::now();
    cluster.expect_end(at, true);
    let ready = loop {
        let api = cluster.replicas()[at].api;
        let answer = http::once(api, Method::GET, "/readyz", None, ASK).await;
        if answer.is_ok_and(|answer| answer.status == 200) {
            break true;
        }
        if cluster.settle_end(at) {
            break false;
        }
        if start.elapsed() > PATIENCE {
            bail!("a damaged replica neither gets ready nor ends");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    cluster.expect_end(at, false);
    Ok(ready)
}

//! Memory pressure on one replica: its page cache is reclaimed, and if that is
//! not enough the kernel kills it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use rand::RngExt;

use super::{Hit, Kind, Needs, Sort, nobody, one, revive, victim};
use crate::cluster::Cluster;

/// Mount points of memory control groups (version 1 and 2).
const GROUPS: [(&str, &str); 2] =
    [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];

/// Limits the memory of one replica.
pub(super) const MEMORY: Kind = Kind {
    name: "memory",
    about: "a replica may use no more memory than it has; the kernel may end it",
    sort: Sort::Process,
    needs: Needs::NOTHING,
    begin: |cluster, id, rng| {
        Box::pin(async move {
            let Some(at) = victim(cluster, rng).await else { return Ok(nobody(id)) };
            let pid = cluster.replicas()[at].pid().context("it runs")?;
            squeeze(id, pid, rng.random_range(1..24) << 20)?;
            cluster.expect_end(at, true);
            Ok(one(cluster, id, at))
        })
    },
    end: |cluster, hit| Box::pin(async move { relax(cluster, hit) }),
};

/// Whether memory control groups are available, and can be created.
pub(super) fn possible() -> bool {
    let Ok((group, limit)) = group(0) else { return false };
    let made = fs::create_dir(&group).is_ok() && group.join(limit).exists();
    _ = fs::remove_dir(&group);
    made
}

fn group(id: u64) -> Result<(PathBuf, &'static str)> {
    let found = GROUPS.iter().find(|(root, limit)| {
        // In version 2, only child groups have this file.
        fs::exists(format!("{root}/{limit}")).unwrap_or(false)
            || fs::read_to_string(format!("{root}/cgroup.controllers"))
                .is_ok_and(|all| all.contains("memory"))
    });
    let (root, limit) = found.context("there is no control group for memory")?;
    let name = format!("romana-chaos-{}-{id:x}", std::process::id());
    Ok((PathBuf::from(root).join(name), limit))
}

/// Limits the process to this many additional bytes.
fn squeeze(id: u64, pid: u32, bytes: u64) -> Result<()> {
    let (group, limit) = group(id)?;
    fs::create_dir(&group).with_context(|| format!("make {}", group.display()))?;
    // Existing memory remains charged to the previous group, so only additional memory counts.
    fs::write(group.join(limit), bytes.to_string()).context("limit its memory")?;
    fs::write(group.join("cgroup.procs"), pid.to_string()).context("move it to the group")
}

fn relax(cluster: &mut Cluster, hit: &Hit) -> Result<()> {
    if hit.places.is_empty() {
        return Ok(());
    }
    let (group, limit) = group(hit.id)?;
    let unlimited = if limit == "memory.max" { "max" } else { "-1" };
    fs::write(group.join(limit), unlimited).context("give it memory again")?;
    let root = group.parent().context("a root")?;
    for pid in fs::read_to_string(group.join("cgroup.procs"))?.lines() {
        // The process may exit at this moment.
        _ = fs::write(root.join("cgroup.procs"), pid);
    }
    _ = fs::remove_dir(&group);
    for &at in &hit.places {
        // An exit was caused by this fault.
        cluster.settle_end(at);
        cluster.expect_end(at, false);
    }
    revive(cluster, hit)
}

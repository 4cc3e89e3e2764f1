//! A replica that has hardly any memory left: its page cache goes, and if that is not enough the kernel ends it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use rand::RngExt;

use super::{Hit, Kind, Needs, Sort, nobody, one, revive, victim};
use crate::cluster::Cluster;

/// Where control groups of memory are (version 1, or 2).
const GROUPS: [(&str, &str); 2] =
    [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];

/// Of one replica.
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

/// Whether there are control groups for memory here, and we may make one.
pub(super) fn possible() -> bool {
    let Ok((group, limit)) = group(0) else { return false };
    let made = fs::create_dir(&group).is_ok() && group.join(limit).exists();
    _ = fs::remove_dir(&group);
    made
}

fn group(id: u64) -> Result<(PathBuf, &'static str)> {
    let found = GROUPS.iter().find(|(root, limit)| {
        // Version 2 has the file in groups only.
        fs::exists(format!("{root}/{limit}")).unwrap_or(false)
            || fs::read_to_string(format!("{root}/cgroup.controllers"))
                .is_ok_and(|all| all.contains("memory"))
    });
    let (root, limit) = found.context("there is no control group for memory")?;
    let name = format!("romana-chaos-{}-{id:x}", std::process::id());
    Ok((PathBuf::from(root).join(name), limit))
}

/// From now on it gets so many bytes more.
fn squeeze(id: u64, pid: u32, bytes: u64) -> Result<()> {
    let (group, limit) = group(id)?;
    fs::create_dir(&group).with_context(|| format!("make {}", group.display()))?;
    // What it has stays with the group that it came from: that is not counted here.
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
        // It may end at this moment.
        _ = fs::write(root.join("cgroup.procs"), pid);
    }
    _ = fs::remove_dir(&group);
    for &at in &hit.places {
        // What ended was ended by this.
        cluster.settle_end(at);
        cluster.expect_end(at, false);
    }
    revive(cluster, hit)
}

//! The nemesis: breaks the cluster by a plan drawn from a seed, one fault at a time, and repairs
//! what it broke before it breaks the next thing.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep, sleep_until};

use crate::cluster::Cluster;
use crate::history::{Clock, Nanos};
use crate::partition::Partition;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 of the leader.
    KillLeader,
    /// kill -9 of a random replica.
    Kill,
    /// kill -9 of all replicas at once.
    KillAll,
    /// SIGSTOP of a random replica, often the leader; SIGCONT later.
    Pause,
    /// A clean stop and start of a random replica.
    Restart,
    /// Power cut of a random replica, often the leader: un-fsynced data is lost.
    Power,
    /// Power cut of all replicas at once.
    PowerAll,
    /// A random replica, often the leader, is cut off from its peers.
    Partition,
    /// The next replica that runs the previous program is stopped, and goes on with the present one.
    Upgrade,
}

impl Fault {
    /// All kinds, with the names by which options and reports call them.
    pub const ALL: [(&'static str, Self); 9] = [
        ("kill-leader", Self::KillLeader),
        ("kill", Self::Kill),
        ("kill-all", Self::KillAll),
        ("pause", Self::Pause),
        ("restart", Self::Restart),
        ("power", Self::Power),
        ("power-all", Self::PowerAll),
        ("partition", Self::Partition),
        ("upgrade", Self::Upgrade),
    ];

    /// Whether it needs the power-cut shim.
    #[must_use]
    pub fn needs_power(self) -> bool {
        matches!(self, Self::Power | Self::PowerAll)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(_, fault)| fault == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().find(|(name, _)| *name == text).map(|(_, fault)| *fault).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!("{text:?} is no fault; there are {}", names.join(", "))
        })
    }
}

/// What to break and how often.
#[derive(Clone, Debug)]
pub struct NemesisOptions {
    /// Which faults.
    pub faults: Vec<Fault>,
    /// From one fault to the next.
    pub interval: Duration,
    /// The seed.
    pub seed: u64,
}

/// A fault that was injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injected {
    /// Which.
    pub fault: Fault,
    /// What it hit, for people: `replica 2`, `all`.
    pub hit: String,
    /// When it was injected, on the run's clock …
    pub from: Nanos,
    /// … and when it was repaired.
    pub until: Nanos,
}

/// What was broken: for the report.
#[derive(Clone, Debug, Default)]
pub struct Damage {
    /// Faults injected, in order.
    pub faults: Vec<Injected>,
    /// Replicas that ended although nobody ended them.
    pub crashes: Vec<String>,
}

/// Breaks things until `end`. The last fault may still be in force: `heal` ends it.
///
/// # Errors
/// A fault cannot be injected (a tool is missing, a process cannot be started).
pub async fn torment(
    cluster: &mut Cluster,
    options: &NemesisOptions,
    clock: Clock,
    end: Instant,
) -> Result<Damage> {
    let mut damage = Damage::default();
    if options.faults.is_empty() {
        sleep_until(end).await;
        damage.crashes = cluster.crashes();
        return Ok(damage);
    }
    let mut rng = SmallRng::seed_from_u64(options.seed ^ 0x6e65_6d65_7369_7300);
    let partition = match options.faults.contains(&Fault::Partition) {
        true => Some(Partition::new().context("partitions need root and nft")?),
        false => None,
    };
    let mut next = Instant::now() + options.interval;
    while next < end {
        sleep_until(next).await;
        damage.crashes.extend(cluster.crashes());
        if !damage.crashes.is_empty() {
            // A law is broken already, and what else would break says less than this.
            return Ok(damage);
        }
        let fault = options.faults[rng.random_range(0..options.faults.len())];
        let dwell = options.interval.mul_f64(rng.random_range(0.05..0.6));
        let from = clock.now();
        let hit = match inject(fault, cluster, partition.as_ref(), &mut rng).await {
            Ok(hit) => hit,
            Err(error) => {
                // It cannot be hit when it has just ended by itself: then that is the news.
                damage.crashes.extend(cluster.crashes());
                return if damage.crashes.is_empty() { Err(error) } else { Ok(damage) };
            }
        };
        sleep(dwell).await;
        if let Some(partition) = &partition {
            partition.heal()?;
        }
        cluster.heal()?;
        damage.faults.push(Injected { fault, hit, from, until: clock.now() });
        next += options.interval;
    }
    sleep_until(end).await;
    damage.crashes.extend(cluster.crashes());
    cluster.heal()?;
    Ok(damage)
}

async fn inject(
    fault: Fault,
    cluster: &mut Cluster,
    partition: Option<&Partition>,
    rng: &mut SmallRng,
) -> Result<String> {
    let count = cluster.replicas().len();
    let all: Vec<usize> = (0..count).collect();
    let mut at = rng.random_range(0..count);
    let leader_too = rng.random_bool(0.5);
    if fault == Fault::KillLeader || leader_too {
        // No leader just now: any replica will do.
        at = cluster.leader().await.unwrap_or(at);
    }
    match fault {
        Fault::KillLeader | Fault::Kill => cluster.kill(at)?,
        Fault::KillAll => all.iter().try_for_each(|&at| cluster.kill(at))?,
        Fault::Pause => cluster.pause(at)?,
        Fault::Restart => cluster.stop(at).await?,
        Fault::Upgrade => {
            at = cluster.outdated().unwrap_or(at);
            cluster.stop(at).await?;
            cluster.set_old(at, false);
        }
        Fault::Power => cluster.cut_power(&[at]).await?,
        Fault::PowerAll => cluster.cut_power(&all).await?,
        Fault::Partition => {
            partition.context("there is no packet filter")?.cut(cluster, &[at])?;
        }
    }
    let hit_all = matches!(fault, Fault::KillAll | Fault::PowerAll);
    Ok(if hit_all { "all".into() } else { format!("replica {}", cluster.replicas()[at].id) })
}

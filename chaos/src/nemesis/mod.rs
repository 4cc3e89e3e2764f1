//! The nemesis: injects faults by a plan drawn from a seed, and repairs them.
//!
//! ```text
//!   seed ──► plan (pure): what, when, how long; now and then two at once ──► inject: begin … end … begin …
//! ```
//! A kind of fault is a file in `nemesis/` and a line in [`KINDS`]. The victim is chosen when the fault
//! begins, by the plan's dice: the leader is not known earlier.

pub(crate) mod abuse;
mod api_server;
mod clock;
mod damage;
mod disk;
mod forged;
mod kill;
mod links;
mod members;
mod memory;
mod older;
mod pause;
mod plan;
mod power;
mod restart;
mod slow_links;
mod transfer;
mod upgrade;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::LocalBoxFuture;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep_until};

use crate::clock::{Clock, Nanos};
use crate::cluster::{Cluster, find_kube_apiserver};
pub use plan::{Strike, plan};

/// All kinds of faults.
pub const KINDS: &[&Kind] = &[
    &kill::LEADER,
    &kill::ONE,
    &kill::ALL,
    &pause::PAUSE,
    &restart::ONE,
    &restart::ROLLING,
    &transfer::TRANSFER,
    &upgrade::UPGRADE,
    &power::ONE,
    &power::ALL,
    &disk::SLOW,
    &disk::BROKEN,
    &disk::FULL,
    &links::PARTITION,
    &links::LEADER,
    &links::ONE_WAY,
    &links::BRIDGE,
    &links::LOSS,
    &slow_links::SLOW_LINKS,
    &clock::JUMP,
    &clock::DRIFT,
    &clock::LIE,
    &memory::MEMORY,
    &members::REPLACE,
    &members::GROW,
    &damage::DAMAGE,
    &forged::FORGED,
    &older::OLDER,
    &abuse::ABUSE,
    &api_server::KILL,
    &api_server::PAUSE,
    &api_server::CUT,
];

/// What a fault affects. Concurrent faults affect different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Process,
    Network,
    Disk,
    Clock,
    /// Nothing is broken; external input is hostile.
    Hostile,
    /// The Kubernetes API server, which the replicas follow.
    Kubernetes,
    /// Membership or data of replicas: never combined with another fault.
    Members,
}

impl Sort {
    const ALL: [(&'static str, Self); 7] = [
        ("process", Self::Process),
        ("network", Self::Network),
        ("disk", Self::Disk),
        ("clock", Self::Clock),
        ("hostile", Self::Hostile),
        ("kubernetes", Self::Kubernetes),
        ("members", Self::Members),
    ];

    /// The name in options.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, sort)| *sort == self).map_or("", |(name, _)| name)
    }
}

/// Requirements of a kind of fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The shim for disk and clock faults.
    pub shim: bool,
    pub namespaces: bool,
    pub small_disks: bool,
    /// An older program.
    pub previous: bool,
    /// A Kubernetes API server that the replicas follow.
    pub kubernetes: bool,
}

impl Needs {
    /// No requirements.
    pub const NOTHING: Self = Self {
        shim: false,
        namespaces: false,
        small_disks: false,
        previous: false,
        kubernetes: false,
    };
    /// The shim.
    pub const SHIM: Self = Self { shim: true, ..Self::NOTHING };
    /// Namespaces.
    pub const NAMESPACES: Self = Self { namespaces: true, ..Self::NOTHING };
    /// Small disks.
    pub const SMALL_DISKS: Self = Self { small_disks: true, ..Self::NOTHING };
    /// An older program.
    pub const PREVIOUS: Self = Self { previous: true, ..Self::NOTHING };
    /// An API server.
    pub const KUBERNETES: Self = Self { kubernetes: true, ..Self::NOTHING };

    /// Union of the requirements of several faults.
    #[must_use]
    pub fn of(faults: &[Fault]) -> Self {
        faults.iter().map(|fault| fault.0.needs).fold(Self::NOTHING, |all, one| Self {
            shim: all.shim || one.shim,
            namespaces: all.namespaces || one.namespaces,
            small_disks: all.small_disks || one.small_disks,
            previous: all.previous || one.previous,
            kubernetes: all.kubernetes || one.kubernetes,
        })
    }
}

/// The victims of a fault: what is needed to repair and report it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hit {
    pub places: Vec<usize>,
    /// For reports: `replica 2`, `all`.
    pub told: String,
    /// Distinguishes concurrent faults.
    pub id: u64,
}

type Begin = for<'a> fn(&'a mut Cluster, u64, &'a mut SmallRng) -> LocalBoxFuture<'a, Result<Hit>>;
type End = for<'a> fn(&'a mut Cluster, &'a Hit) -> LocalBoxFuture<'a, Result<()>>;

/// A kind of fault.
#[derive(Debug)]
pub struct Kind {
    /// The name in options and reports.
    pub name: &'static str,
    /// One-line description.
    pub about: &'static str,
    pub sort: Sort,
    pub needs: Needs,
    /// Injects the fault. The number becomes [`Hit::id`].
    begin: Begin,
    /// Repairs the fault.
    end: End,
}

/// A kind of fault, referred to by name.
#[derive(Clone, Copy)]
pub struct Fault(&'static Kind);

impl Fault {
    /// Its definition.
    #[must_use]
    pub fn kind(self) -> &'static Kind {
        self.0
    }

    /// Parses a list of kinds, sorts (`network`), `all` (everything but an upgrade and what needs an API server), or
    /// `none`.
    ///
    /// # Errors
    /// A name is unknown.
    pub fn list(text: &str) -> Result<Vec<Self>, String> {
        let mut found: Vec<Self> = Vec::new();
        for word in text.split(',').filter(|word| !word.is_empty() && *word != "none") {
            let sort = Sort::ALL.iter().find(|(name, _)| *name == word).map(|(_, sort)| *sort);
            let fits = |kind: &&&'static Kind| {
                let Needs { previous, kubernetes, .. } = kind.needs;
                !previous && (word == "all" && !kubernetes || sort == Some(kind.sort))
            };
            let some: Vec<Self> = KINDS.iter().filter(fits).map(|kind| Self(kind)).collect();
            let some = if some.is_empty() { vec![word.parse()?] } else { some };
            found.extend(
                some.into_iter().filter(|fault| !found.contains(fault)).collect::<Vec<_>>(),
            );
        }
        Ok(found)
    }
}

/// The faults whose requirements are met on this machine.
#[must_use]
pub fn possible(faults: &[Fault]) -> Vec<Fault> {
    let root = rustix::process::geteuid().is_root();
    let api_server = Needs::of(faults).kubernetes && find_kube_apiserver().is_ok();
    let can = |fault: &&Fault| {
        let Needs { namespaces, small_disks, previous, kubernetes, .. } = fault.kind().needs;
        let memory = fault.kind().name != memory::MEMORY.name || memory::possible();
        !previous && memory && (root || !namespaces && !small_disks) && (api_server || !kubernetes)
    };
    faults.iter().filter(can).copied().collect()
}

impl PartialEq for Fault {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Fault {}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        KINDS.iter().find(|kind| kind.name == text).map(|kind| Self(kind)).ok_or_else(|| {
            let kinds = KINDS.iter().map(|kind| kind.name);
            let sorts = Sort::ALL.iter().map(|(name, _)| *name);
            let names: Vec<&str> = kinds.chain(sorts).chain(["all", "none"]).collect();
            format!("{text:?} is no fault; there are {}", names.join(", "))
        })
    }
}

/// Options of the nemesis.
#[derive(Clone, Debug)]
pub struct NemesisOptions {
    pub faults: Vec<Fault>,
    /// Interval between faults.
    pub interval: Duration,
    pub duration: Duration,
    pub seed: u64,
}

/// An injected fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injected {
    pub fault: Fault,
    /// The victims, for reports: `replica 2`, `all`.
    pub hit: String,
    /// When it was injected, on the run's clock …
    pub from: Nanos,
    /// … and when it was repaired.
    pub until: Nanos,
}

/// What happened, for the report.
#[derive(Clone, Debug, Default)]
pub struct Damage {
    /// Injected faults, in order of their repair.
    pub faults: Vec<Injected>,
    /// Replicas that exited although no fault explains it.
    pub crashes: Vec<String>,
}

/// A fault in force.
struct ActiveFault {
    strike: Strike,
    hit: Hit,
    from: Nanos,
}

/// Injects faults by the seed's plan, and repairs them.
///
/// # Errors
/// A fault cannot be injected or repaired (a tool is missing, a process cannot be started).
pub async fn inject(
    cluster: &mut Cluster,
    options: &NemesisOptions,
    clock: Clock,
) -> Result<Damage> {
    let start = Instant::now();
    let mut damage = Damage::default();
    let mut active: Vec<ActiveFault> = Vec::new();
    let mut strikes = plan(options).into_iter().peekable();
    loop {
        let ending = active.iter().map(|one| one.strike.until).min();
        let beginning = strikes.peek().map(|strike| strike.from);
        let Some(next) = ending.into_iter().chain(beginning).min() else { break };
        sleep_until(start + next).await;
        damage.crashes.extend(cluster.crashes());
        if !damage.crashes.is_empty() {
            // A law is broken already; further faults would only obscure it.
            repair(cluster, active).await;
            return Ok(damage);
        }
        let done = match strikes.next_if(|strike| Some(strike.from) == Some(next)) {
            Some(strike) => begin(cluster, strike, clock, &mut active).await,
            None => end(cluster, next, clock, &mut active, &mut damage).await,
        };
        if let Err(error) = done {
            // Injection fails if the victim has just crashed: report the crash instead.
            damage.crashes.extend(cluster.crashes());
            return if damage.crashes.is_empty() { Err(error) } else { Ok(damage) };
        }
    }
    sleep_until(start + options.duration).await;
    damage.crashes.extend(cluster.crashes());
    Ok(damage)
}

async fn begin(
    cluster: &mut Cluster,
    strike: Strike,
    clock: Clock,
    active: &mut Vec<ActiveFault>,
) -> Result<()> {
    let kind = strike.fault.kind();
    let mut rng = SmallRng::seed_from_u64(strike.dice);
    let from = clock.now();
    let hit = (kind.begin)(cluster, strike.dice, &mut rng).await;
    let hit = hit.with_context(|| format!("the fault {}", kind.name))?;
    tracing::info!(fault = kind.name, hit = hit.told, "begins");
    active.push(ActiveFault { strike, hit, from });
    Ok(())
}

/// Repairs what can be repaired.
async fn repair(cluster: &mut Cluster, active: Vec<ActiveFault>) {
    for ActiveFault { strike, hit, .. } in active {
        if let Err(error) = (strike.fault.kind().end)(cluster, &hit).await {
            tracing::warn!(fault = %strike.fault, error = format!("{error:#}"), "is not repaired");
        }
    }
}

async fn end(
    cluster: &mut Cluster,
    now: Duration,
    clock: Clock,
    active: &mut Vec<ActiveFault>,
    damage: &mut Damage,
) -> Result<()> {
    let at = active.iter().position(|one| one.strike.until <= now).context("a strike")?;
    let ActiveFault { strike, hit, from } = active.remove(at);
    let fault = strike.fault;
    let repaired = (fault.kind().end)(cluster, &hit).await;
    repaired.with_context(|| format!("the repair of {fault}"))?;
    if active.is_empty() {
        cluster.heal()?;
    }
    tracing::info!(fault = fault.kind().name, hit = hit.told, "ends");
    damage.faults.push(Injected { fault, hit: hit.told, from, until: clock.now() });
    Ok(())
}

/// A running replica: the leader, or any other with probability 1/2.
async fn victim(cluster: &Cluster, rng: &mut SmallRng) -> Option<usize> {
    let leader_too = rng.random_bool(0.5);
    let running = (0..cluster.replicas().len()).filter(|at| cluster.replicas()[*at].is_running());
    let any = running.choose(rng)?;
    if leader_too {
        return Some(leader(cluster).await.unwrap_or(any));
    }
    Some(any)
}

/// A replica that runs the current program: some faults do not apply to older ones.
async fn present_victim(cluster: &Cluster, rng: &mut SmallRng) -> Option<usize> {
    victim(cluster, rng).await.filter(|_| cluster.outdated().is_none())
}

/// The leader, if it is running.
async fn leader(cluster: &Cluster) -> Option<usize> {
    cluster.leader().await.filter(|at| cluster.replicas()[*at].is_running())
}

/// A hit on one replica.
fn one(cluster: &Cluster, id: u64, at: usize) -> Hit {
    Hit { places: vec![at], told: format!("replica {}", cluster.replicas()[at].id), id }
}

/// A hit on no replica, if there was no suitable one.
fn nobody(id: u64) -> Hit {
    Hit { places: Vec::new(), told: String::from("nobody"), id }
}

/// Recovers the victims: resumes the paused, starts those that are down.
fn revive(cluster: &mut Cluster, hit: &Hit) -> Result<()> {
    hit.places.iter().try_for_each(|at| cluster.revive(*at))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_told_apart() {
        let kinds = KINDS.iter().map(|kind| kind.name);
        let names: Vec<&str> = kinds.chain(Sort::ALL.map(|(name, _)| name)).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        for kind in KINDS {
            assert_eq!(kind.name.parse::<Fault>().map(|fault| fault.kind().name), Ok(kind.name));
        }
        assert!("unheard-of".parse::<Fault>().is_err());
    }

    #[test]
    fn lists_name_kinds_and_sorts() {
        let names = |text: &str| -> Vec<String> {
            Fault::list(text).unwrap().iter().map(ToString::to_string).collect()
        };
        assert_eq!(names("kill,pause,kill"), ["kill", "pause"]);
        assert_eq!(names("clock"), ["clock-jump", "clock-drift", "clock-lie"]);
        assert_eq!(names("none"), Vec::<String>::new());
        let api_server = ["api-server-kill", "api-server-pause", "api-server-cut"];
        assert_eq!(names("kubernetes"), api_server);
        let all = names("all");
        assert_eq!(all.len(), KINDS.len() - 1 - api_server.len());
        assert!(!all.iter().any(|name| name == "upgrade" || api_server.contains(&name.as_str())));
    }
}

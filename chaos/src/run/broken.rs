//! The faulty part of a run: faults are injected and repaired; then the cluster recovers, and the log has what a
//! Kubernetes API server has, if one is followed.

use anyhow::{Context, Result, ensure};
use romana_statemachine::plural;

use super::{HEAL_PATIENCE, RunOptions};
use crate::calm::settled;
use crate::cluster::Cluster;
use crate::evidence::Clock;
use crate::kubernetes::{Asked, Count, Driver};
use crate::nemesis::{Damage, Injected, inject};
use crate::oracle::Violation;

/// What happened while faults were injected.
#[derive(Default)]
pub(super) struct Broken {
    pub(super) faults: Vec<Injected>,
    pub(super) violations: Vec<Violation>,
    /// What the API server has after the last fault, if one is followed: nothing changes it any more.
    pub(super) asked: Option<Asked>,
    /// For the report.
    pub(super) facts: Vec<(String, String)>,
}

/// Injects the faults of each part of the run, and heals the cluster.
pub(super) async fn broken(
    options: &RunOptions,
    cluster: &mut Cluster,
    clock: Clock,
) -> Result<Broken> {
    let driver = match options.follows_kubernetes() {
        true => {
            let objects = cluster.api_server()?.objects().await?;
            Some(Driver::start(objects, options.seed).await.context("objects of Kubernetes")?)
        }
        false => None,
    };
    let (mut broken, parts) = (Broken::default(), options.parts());
    let last = parts.len() - 1;
    for (number, part) in parts.into_iter().enumerate() {
        let damage = inject(cluster, &part, clock).await?;
        broken.violations.extend(healed(cluster, &damage).await);
        broken.faults.extend(damage.faults);
        if let Some(driver) = &driver {
            calm(cluster, driver, &mut broken, number == last).await?;
        }
        if !broken.violations.is_empty() {
            break;
        }
    }
    Ok(broken)
}

/// Lets no object change until the log has what the API server has.
async fn calm(
    cluster: &mut Cluster,
    driver: &Driver,
    broken: &mut Broken,
    is_last: bool,
) -> Result<()> {
    if !broken.violations.is_empty() {
        return Ok(());
    }
    cluster.api_server()?.wait_ready().await?;
    let mut quiet = driver.quiet().await?;
    let asked = quiet.asked().await.context("objects of Kubernetes")?;
    // Of the last part the law tells the differences.
    let differences = settled(cluster, &asked).await.filter(|_| !is_last);
    broken.violations.extend(differences.map(|what| Violation { law: "kubernetes", what }));
    let Count { done, others } = quiet.count();
    ensure!(
        done > 0 && done * 10 > others,
        "objects hardly changed: {done} requests done, {others} in vain"
    );
    let left = plural(asked.objects.len(), "object");
    let told = format!("{} requests, {others} in vain; {left} for the log", done + others);
    broken.facts = vec![(String::from("kubernetes"), told)];
    if is_last {
        driver.stop();
        broken.asked = Some(asked);
    }
    Ok(())
}

/// Checks after the last fault that the cluster recovers, and that no replica has crashed.
async fn healed(cluster: &mut Cluster, damage: &Damage) -> Vec<Violation> {
    let mut violations: Vec<Violation> =
        damage.crashes.iter().map(|what| Violation { law: "crash", what: what.clone() }).collect();
    if let Err(error) = cluster.heal() {
        violations.push(Violation { law: "heal", what: format!("{error:#}") });
    }
    if let Err(error) = cluster.wait_ready(HEAL_PATIENCE).await {
        violations.push(Violation { law: "heal", what: format!("{error:#}") });
    }
    violations
}

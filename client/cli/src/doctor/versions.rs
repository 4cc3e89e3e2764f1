//! Compares the versions of replicas and agents: one release apart works, more does not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use romana_client::Server;
use romana_statemachine::agent::HeartbeatAge;
use serde_json::Value;

use super::{Finding, bad, good, some, warning};
use crate::context::Context;

/// Time for a replica's version.
const WITHIN: Duration = Duration::from_secs(2);
/// Size limit of its answer.
const BYTES_MAX: usize = 64 << 10;

/// The versions of the replicas that tell them.
pub(super) async fn of_replicas(ctx: &Context, servers: &[Server]) -> Vec<(String, String)> {
    let asked = servers.iter().map(|server| async move {
        let answer = ctx.client.raw(server, "/status", BYTES_MAX, WITHIN).await.ok()?;
        let status: Value = serde_json::from_slice(&answer.body).ok()?;
        Some((server.to_string(), status["version"].as_str()?.to_owned()))
    });
    futures_util::future::join_all(asked).await.into_iter().flatten().collect()
}

/// The number of a release: major and minor.
fn release(version: &str) -> Option<(u64, u64)> {
    let mut numbers = version.split(['.', '-', '+']).map(str::parse::<u64>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Whether two releases work together: the same, or one apart.
fn fit(one: &str, other: &str) -> bool {
    match (release(one), release(other)) {
        (Some(one), Some(other)) => one.0 == other.0 && one.1.abs_diff(other.1) <= 1,
        _ => one == other,
    }
}

/// Differences between the versions of replicas and of agents.
pub(super) fn check(replicas: &[(String, String)], heard: &[HeartbeatAge]) -> Vec<Finding> {
    let mut by_version: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (server, version) in replicas {
        by_version.entry(version).or_default().insert(server);
    }
    for HeartbeatAge { heartbeat, .. } in heard.iter().filter(|it| !it.heartbeat.version.is_empty())
    {
        by_version.entry(&heartbeat.version).or_default().insert(heartbeat.host.as_str());
    }
    let versions: Vec<&str> = by_version.keys().copied().collect();
    let (Some(first), true) = (versions.first(), versions.len() > 1) else {
        let same = versions.first().map(|version| good("versions", format!("all run {version}")));
        return same.into_iter().collect();
    };
    let all: Vec<String> = by_version
        .iter()
        .map(|(version, who)| format!("{version}: {}", some(who.iter().copied())))
        .collect();
    let what = format!("several versions run: {}", all.join("; "));
    let far = versions.iter().any(|one| versions.iter().any(|other| !fit(one, other)));
    let finding = match far {
        true => {
            let what = format!("{what}; they are more than one release apart");
            bad("versions", what).remedy("upgrade release by release: replicas first, then agents")
        }
        false => {
            let remedy =
                format!("finish the upgrade of those with {first}, if one is not under way");
            warning("versions", what).remedy(remedy)
        }
    };
    vec![finding]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::{heard, tones};
    use crate::table::Tone;

    fn replica(name: &str, version: &str) -> (String, String) {
        (name.into(), version.into())
    }

    #[test]
    fn one_release_apart_is_an_upgrade_and_more_is_not() {
        let agent = |version: &str| {
            let mut heard = heard("h1", 0, None, &[]);
            heard.heartbeat.version = version.into();
            heard
        };
        let same = [replica("a", "0.2.0"), replica("b", "0.2.0")];
        assert_eq!(tones(&check(&same, &[agent("0.2.0")])), [Tone::Good]);
        let found = check(&[replica("a", "0.2.0"), replica("b", "0.3.1")], &[agent("0.2.0")]);
        assert_eq!(tones(&found), [Tone::Warning]);
        assert_eq!(found[0].what, "several versions run: 0.2.0: a, h1; 0.3.1: b");
        assert_eq!(tones(&check(&same, &[agent("0.4.0")])), [Tone::Bad]);
        assert_eq!(tones(&check(&same, &[agent("1.2.0")])), [Tone::Bad]);
        assert_eq!(tones(&check(&same, &[agent("dev")])), [Tone::Bad]);
        assert_eq!(check(&[], &[]), []);
    }
}

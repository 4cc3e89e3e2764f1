//! `romana doctor`: checks the health of the cluster, and of this host. Every check is printed; a failed check fails the
//! command. It explains an installation that does not work at all: what it cannot read is a finding as well.

mod clocks;
mod cluster;
mod cni;
mod digests;
mod groups;
mod hosts;
mod versions;

use std::path::PathBuf;

use clap::Args as ClapArgs;
use romana_api::network::Network;
use romana_client::model::ClusterStatus;
use romana_client::{Error, Server};
use romana_statemachine::Host;
use romana_statemachine::agent::HeartbeatAge;
use romana_statemachine::finding::{AGENT_PROBLEM, Severity};
use serde::{Serialize, Serializer};

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;
use crate::ipam;
use crate::table::{Table, Tone};
use digests::Digests;

/// Checks replicas, leader, lag, digests, versions, hosts, agents, free addresses, and the CNI configuration here.
#[derive(Debug, Default, ClapArgs)]
pub(crate) struct Command {
    /// Directory of network configurations on this host
    #[arg(long, default_value = cni::CONF_DIR, value_name = "DIR")]
    cni_conf_dir: PathBuf,
    /// Directory of CNI plugins on this host
    #[arg(long, default_value = cni::BIN_DIR, value_name = "DIR")]
    cni_bin_dir: PathBuf,
    /// Check the CNI configuration of this machine [default: if an agent runs here]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    local: Option<bool>,
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    #[serde(rename = "result", serialize_with = "result")]
    tone: Tone,
    check: &'static str,
    what: String,
    /// The remedy; empty if there is no problem.
    remedy: String,
}

/// The results of all checks.
#[derive(Debug, Serialize)]
pub(crate) struct Findings {
    items: Vec<Finding>,
}

/// The word for the result of a check.
fn word(tone: Tone) -> &'static str {
    match tone {
        Tone::Plain | Tone::Good => "ok",
        Tone::Warning => "warning",
        Tone::Bad => "bad",
    }
}

fn result<S: Serializer>(tone: &Tone, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(word(*tone))
}

impl Finding {
    fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: remedy.into(), ..self }
    }
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let (mut findings, unreachable) = of_cluster(ctx).await;
        findings.extend(self.here());
        report(ctx, findings)
            .map_err(|failure| if unreachable { Failure::Unreachable } else { failure })
    }

    /// Checks of this machine, if an agent runs here.
    fn here(&self) -> Vec<Finding> {
        let local = self.local.unwrap_or_else(cni::has_agent);
        if local { cni::check(&self.cni_conf_dir, &self.cni_bin_dir) } else { Vec::new() }
    }
}

/// All findings, for an archive.
pub(crate) async fn findings(ctx: &Context) -> Findings {
    let usual = Command {
        cni_conf_dir: cni::CONF_DIR.into(),
        cni_bin_dir: cni::BIN_DIR.into(),
        local: None,
    };
    let (mut items, _) = of_cluster(ctx).await;
    items.extend(usual.here());
    Findings { items }
}

/// Checks of the cluster, and whether no replica answers. An error is a finding, and ends only the checks that need what
/// could not be read.
async fn of_cluster(ctx: &Context) -> (Vec<Finding>, bool) {
    let cluster = match ctx.client.cluster().await {
        Ok(cluster) => as_its_leader_sees(ctx, cluster).await,
        Err(error) => return (cluster::unreachable(ctx, &error).await, true),
    };
    let mut findings = cluster::check(&cluster);
    let servers: Vec<Server> =
        cluster.members.iter().filter_map(|member| member.api.parse().ok()).collect();
    findings.extend(Digests::gather(ctx, &servers).await.findings());
    findings.extend(clocks::check(&cluster));
    let replicas = versions::of_replicas(ctx, &servers).await;
    if cluster.leader.is_none() {
        // Without one nothing else is readable, which the first finding says.
        findings.extend(versions::check(&replicas, &[]));
        return (findings, false);
    }
    findings.extend(of_state(ctx, &replicas).await);
    (findings, false)
}

/// Checks of hosts, agents, networks and addresses. `replicas`: their versions.
async fn of_state(ctx: &Context, replicas: &[(String, String)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let heard = heartbeats(ctx).await;
    let agents = heard.as_ref().map(|(heard, _)| heard.as_slice()).unwrap_or_default();
    findings.extend(versions::check(replicas, agents));
    match hosts_and_groups(ctx).await {
        Ok((hosts, networks)) => {
            findings.extend(hosts::check(&hosts, &networks));
            findings.extend(groups::check(&networks));
            if let Ok((heard, revision)) = &heard {
                findings.extend(hosts::agents(&hosts, heard, *revision));
            }
            findings.extend(check_addresses(ctx).await);
        }
        Err(error) => {
            let what = format!("hosts and networks cannot be read: {error}");
            findings.push(bad("reads", what).remedy("romana cluster status; try again"));
        }
    }
    findings.extend(heard.err().map(|why| {
        let what = format!("what the agents report cannot be read: {why}");
        bad("agents", what).remedy("romana cluster status; try again")
    }));
    findings
}

/// The cluster status from the leader, which also includes problems of its tasks.
async fn as_its_leader_sees(ctx: &Context, cluster: ClusterStatus) -> ClusterStatus {
    let leader = cluster.members.iter().find(|member| Some(member.id) == cluster.leader);
    let Some(server) = leader.and_then(|leader| leader.api.parse::<Server>().ok()) else {
        return cluster;
    };
    let seen = ctx.client.cluster_of(&server).await;
    seen.ok().filter(|seen| seen.leader == cluster.leader).unwrap_or(cluster)
}

fn good(check: &'static str, what: impl Into<String>) -> Finding {
    Finding { tone: Tone::Good, check, what: what.into(), remedy: String::new() }
}

fn warning(check: &'static str, what: impl Into<String>) -> Finding {
    Finding { tone: Tone::Warning, check, what: what.into(), remedy: String::new() }
}

fn bad(check: &'static str, what: impl Into<String>) -> Finding {
    Finding { tone: Tone::Bad, check, what: what.into(), remedy: String::new() }
}

fn report(ctx: &Context, items: Vec<Finding>) -> Result<(), Failure> {
    let failed = items.iter().any(|finding| finding.tone == Tone::Bad);
    ctx.out.show(&Answer::own(Findings { items }), |findings| {
        let mut table = Table::new(&["RESULT", "CHECK", "", "WHAT TO DO"], "nothing was checked");
        for finding in &findings.items {
            let Finding { tone, check, what, remedy } = finding.clone();
            table.toned(tone, vec![word(tone).into(), check.into(), what, remedy]);
        }
        table
    })?;
    if failed { Err(Failure::Found) } else { Ok(()) }
}

async fn hosts_and_groups(ctx: &Context) -> Result<(Vec<Host>, Vec<Network>), Failure> {
    Ok((ctx.client.hosts().await?.items, ipam::networks(ctx).await?))
}

/// The last heartbeats and the revision they are compared with; none from a replica that does not know them.
async fn heartbeats(
    ctx: &Context,
) -> Result<(Vec<HeartbeatAge>, romana_statemachine::Revision), Error> {
    match ctx.client.heartbeats().await {
        Ok(heard) => Ok((heard.items, heard.revision)),
        Err(Error::Refused(error)) if error.status == 404 => Ok(Default::default()),
        Err(error) => Err(error),
    }
}

/// Compares the log with the hosts' reports.
async fn check_addresses(ctx: &Context) -> Vec<Finding> {
    // Separate checks cover the restore and the agents.
    let elsewhere = ["AllocationHeld", AGENT_PROBLEM];
    let differences = match ipam::differences(ctx).await {
        Ok(differences) => differences.into_iter(),
        Err(error) => {
            let what = format!("the log and the hosts cannot be compared: {error}");
            return vec![bad("addresses", what).remedy("romana cluster status; try again")];
        }
    };
    let mut findings: Vec<Finding> = differences
        .filter(|found| !elsewhere.contains(&&*found.code))
        .map(|found| {
            let what = format!("{}: {}", found.subject, found.why);
            match found.severity {
                Severity::Error => bad("addresses", what).remedy(found.remedy),
                Severity::Warning => warning("addresses", what).remedy(found.remedy),
            }
        })
        .collect();
    if findings.is_empty() {
        findings.push(good("addresses", "the log and the hosts agree"));
    }
    findings
}

/// Names separated by commas, at most ten.
fn some<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN_MAX: usize = 10;
    let names: Vec<&str> = names.into_iter().collect();
    let shown = names.iter().take(SHOWN_MAX).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use romana_api::network::Group;
    use romana_statemachine::agent::Heartbeat;
    use romana_statemachine::{GroupUsage, Labels, Revision};

    use super::*;

    pub(super) fn heard(
        host: &str,
        silent_ms: u64,
        applied: Option<Revision>,
        problems: &[&str],
    ) -> HeartbeatAge {
        HeartbeatAge {
            heartbeat: Heartbeat {
                host: host.into(),
                version: "1".into(),
                revision: Revision(20_000),
                applied,
                problems: problems.iter().map(|problem| (*problem).to_owned()).collect(),
            },
            silent_ms,
        }
    }

    /// A network of 10.0.0.0/16 with groups of these names and numbers of addresses of 100.
    pub(super) fn network(name: &str, groups: &[(&str, u64)]) -> Network {
        let group = |(name, addresses): &(&str, u64)| Group {
            name: Some((*name).into()),
            assignment: Labels::from([((*name).into(), (*name).into())]),
            usage: GroupUsage {
                cidr: "10.0.0.0/18".parse().unwrap(),
                hosts: 1,
                blocks: 1,
                addresses: *addresses,
                cooling: 0,
                capacity: 100,
            },
        };
        Network {
            name: name.into(),
            cidr: "10.0.0.0/16".parse().unwrap(),
            block_mask: 29,
            tenants: Vec::new(),
            skip_first_last: false,
            groups: groups.iter().map(group).collect(),
        }
    }

    pub(super) fn tones(findings: &[Finding]) -> Vec<Tone> {
        findings.iter().map(|finding| finding.tone).collect()
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(some(["a", "b"]), "a, b");
        assert_eq!(some(["x"; 12]), format!("{} and 2 more", ["x"; 10].join(", ")));
    }
}

//! `romana doctor`: checks the health of the cluster. Every check is printed; a failed check fails the command.

mod clocks;
mod digests;

use std::collections::BTreeSet;

use clap::Args as ClapArgs;
use romana_api::network::Network;
use romana_client::model::ClusterStatus;
use romana_client::{Error, Server};
use romana_statemachine::agent::HeartbeatAge;
use romana_statemachine::command::HostState;
use romana_statemachine::finding::{AGENT_PROBLEM, Severity};
use romana_statemachine::name::HostName;
use romana_statemachine::{Host, Revision, plural};
use serde::{Serialize, Serializer};

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;
use crate::table::{Table, Tone};
use crate::{ipam, network};
use digests::Digests;

/// Checks replicas, leader, lag, digests, hosts and free addresses.
#[derive(Debug, ClapArgs)]
pub(crate) struct Command {}

/// Lag of a replica without a warning, entries.
const LAG_MAX: u64 = 1_000;

/// Time without a heartbeat before a warning, milliseconds; and lag of a kernel before a warning, revisions.
const SILENT_MS_MAX: u64 = 5_000;
const BEHIND_MAX: u64 = 10_000;
/// The remedy for a full group.
const MORE: &str = "add a network, or hosts in another group: romana topology plan FILE";

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
struct Findings {
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
        let cluster = as_its_leader_sees(ctx, ctx.client.cluster().await?).await;
        let mut findings = check_cluster(&cluster);
        let servers: Vec<Server> =
            cluster.members.iter().filter_map(|member| member.api.parse().ok()).collect();
        let seen = Digests::gather(ctx, &servers).await;
        findings.extend(seen.findings());
        findings.extend(clocks::check(&cluster));
        match hosts_and_groups(ctx).await {
            Ok((hosts, networks)) => {
                findings.extend(check_hosts(&hosts));
                findings.extend(check_groups(&networks));
                findings.extend(check_agents(ctx, &hosts).await?);
                findings.extend(check_addresses(ctx).await?);
            }
            Err(error) => {
                findings.push(bad("reads", format!("hosts and networks cannot be read: {error}")));
            }
        }
        report(ctx, findings)
    }
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

fn good(check: &'static str, what: String) -> Finding {
    Finding { tone: Tone::Good, check, what, remedy: String::new() }
}

fn warning(check: &'static str, what: String) -> Finding {
    Finding { tone: Tone::Warning, check, what, remedy: String::new() }
}

fn bad(check: &'static str, what: String) -> Finding {
    Finding { tone: Tone::Bad, check, what, remedy: String::new() }
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

fn check_cluster(cluster: &ClusterStatus) -> Vec<Finding> {
    let mut findings = Vec::new();
    let count = cluster.members.len();
    match cluster.leader {
        Some(id) => findings.push(good("leader", format!("replica {id}, term {}", cluster.term))),
        None => findings.push(
            bad("leader", String::from("there is none: no change is possible"))
                .remedy("start more than half of the replicas, and let them reach each other"),
        ),
    }
    if let Some(held) = &cluster.held {
        let hosts: Vec<&str> = held.hosts.iter().map(|host| host.as_str()).collect();
        let what = format!(
            "allocation is held since the restore, until there is a report from {} ({})",
            plural(held.waiting, "host"),
            hosts.join(", ")
        );
        let remedy = "start the agents there, or go on without them: romana cluster resume";
        findings.push(warning("restore", what).remedy(remedy));
    }
    let healthy = cluster.members.iter().filter(|member| member.healthy).count();
    let ids: Vec<String> =
        cluster.members.iter().filter(|m| !m.healthy).map(|m| m.id.to_string()).collect();
    if healthy == count {
        findings.push(good("members", format!("all {count} are healthy")));
    } else {
        let left = healthy.saturating_sub(count / 2 + 1);
        let what = format!("not healthy: {}; {left} more may fail", ids.join(", "));
        let remedy = "start them; one that lost its disk: romana cluster replace ID";
        findings.push(bad("members", what).remedy(remedy));
    }
    for member in &cluster.members {
        findings.extend(member.problems.iter().map(|problem| {
            let what = format!("replica {}: {} ({})", member.id, problem.what, problem.code);
            bad("members", what).remedy(&*problem.remedy)
        }));
    }
    if count < 3 || count.is_multiple_of(2) {
        let what = format!("there are {count}; 3 or 5 survive failures best");
        findings.push(warning("members", what).remedy("romana cluster add HOST:PORT"));
    }
    for member in cluster.members.iter().filter(|member| member.lag > LAG_MAX) {
        let what = format!("replica {} is {} behind", member.id, plural(member.lag, "entry"));
        findings.push(warning("lag", what).remedy("look at its disk and network"));
    }
    findings
}

async fn hosts_and_groups(ctx: &Context) -> Result<(Vec<Host>, Vec<Network>), Failure> {
    Ok((ctx.client.hosts().await?.items, ipam::networks(ctx).await?))
}

fn check_hosts(hosts: &[Host]) -> Vec<Finding> {
    let with = |state: HostState| -> Vec<&str> {
        let those = hosts.iter().filter(|host| host.state == state);
        those.map(|host| host.name.as_str()).collect()
    };
    let down = with(HostState::Down);
    let mut findings = Vec::new();
    if down.is_empty() {
        findings.push(good("hosts", format!("{} known, none is down", hosts.len())));
    } else {
        let remedy = "start romana-agent there; one that is gone: romana host remove NAME --force";
        findings.push(warning("hosts", format!("down: {}", down.join(", "))).remedy(remedy));
    }
    let draining = with(HostState::Draining);
    if !draining.is_empty() {
        findings.push(warning("hosts", format!("draining: {}", draining.join(", "))));
    }
    findings
}

/// Agents that are silent, behind, or report problems.
async fn check_agents(ctx: &Context, hosts: &[Host]) -> Result<Vec<Finding>, Failure> {
    let heard = match ctx.client.heartbeats().await {
        Ok(heard) => heard,
        Err(Error::Refused(error)) if error.status == 404 => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let known: BTreeSet<&HostName> = hosts.iter().map(|host| &host.name).collect();
    Ok(agents(&known, &heard.items, heard.revision))
}

fn agents(known: &BTreeSet<&HostName>, heard: &[HeartbeatAge], revision: Revision) -> Vec<Finding> {
    let heard = heard.iter().filter(|heard| known.contains(&heard.heartbeat.host));
    let (mut findings, mut count) = (Vec::new(), 0);
    for HeartbeatAge { heartbeat, silent_ms } in heard {
        count += 1;
        let host = &heartbeat.host;
        if *silent_ms > SILENT_MS_MAX {
            let what = format!("{host}: silent for {} s", silent_ms / 1000);
            findings.push(warning("agents", what).remedy(format!("start romana-agent on {host}")));
            continue;
        }
        let behind = revision.since(heartbeat.applied.unwrap_or_default());
        if behind > BEHIND_MAX {
            let what = format!("{host}: its kernel is {} behind", plural(behind, "revision"));
            let remedy = format!("romana-agent status, on {host}");
            findings.push(warning("agents", what).remedy(remedy));
        }
        let remedy = format!("romana-agent status, on {host}");
        let problems = heartbeat.problems.iter();
        findings.extend(
            problems.map(|why| warning("agents", format!("{host}: {why}")).remedy(remedy.clone())),
        );
    }
    if findings.is_empty() && count > 0 {
        findings.push(good("agents", format!("{count} are heard, all is well with them")));
    }
    findings
}

/// Compares the log with the hosts' reports.
async fn check_addresses(ctx: &Context) -> Result<Vec<Finding>, Failure> {
    // Separate checks cover the restore and the agents.
    let elsewhere = ["AllocationHeld", AGENT_PROBLEM];
    let differences = ipam::differences(ctx).await?.into_iter();
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
        findings.push(good("addresses", "the log and the hosts agree".into()));
    }
    Ok(findings)
}

fn check_groups(networks: &[Network]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut count = 0;
    for network in networks {
        for group in &network.groups {
            count += 1;
            let used = network::percent_used(&group.usage);
            let (cidr, name) = (group.usage.cidr, &network.name);
            let what = || format!("group {cidr} of {name} is {used}% full");
            match used {
                0..80 => {}
                80..95 => findings.push(warning("groups", what()).remedy(MORE)),
                _ => findings.push(bad("groups", what()).remedy(MORE)),
            }
        }
    }
    if findings.is_empty() {
        findings.push(good("groups", format!("all {count} have addresses left")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use romana_api::network::Group;
    use romana_client::model::{MemberProblem, MemberStatus};
    use romana_statemachine::agent::Heartbeat;
    use romana_statemachine::{GroupUsage, Labels};

    use super::*;

    pub(super) fn tones(findings: &[Finding]) -> Vec<Tone> {
        findings.iter().map(|finding| finding.tone).collect()
    }

    #[test]
    fn what_is_wrong_with_a_member_is_said_with_what_mends_it() {
        let problem = MemberProblem {
            code: "OlderCopy".into(),
            what: "an older copy".into(),
            remedy: "romana cluster replace 2".into(),
        };
        let member = MemberStatus { id: 2, problems: vec![problem], ..MemberStatus::default() };
        let cluster = ClusterStatus { members: vec![member], ..ClusterStatus::default() };
        let found = check_cluster(&cluster);
        let found = found.iter().find(|finding| finding.what.contains("OlderCopy")).unwrap();
        assert_eq!(found.what, "replica 2: an older copy (OlderCopy)");
        assert_eq!((found.tone, &*found.remedy), (Tone::Bad, "romana cluster replace 2"));
    }

    #[test]
    fn agents_are_silent_or_behind_or_complain() {
        let heard = |host: &str, silent_ms, applied, problems: &[&str]| HeartbeatAge {
            heartbeat: Heartbeat {
                host: host.into(),
                version: "1".into(),
                revision: Revision(20_000),
                applied,
                problems: problems.iter().map(|problem| (*problem).to_owned()).collect(),
            },
            silent_ms,
        };
        let hosts: [HostName; 4] = ["a", "b", "c", "d"].map(Into::into);
        let hosts = hosts.iter().collect();
        let all = [
            heard("a", 0, Some(Revision(20_000)), &[]),
            heard("b", SILENT_MS_MAX + 1, Some(Revision(20_000)), &["old"]),
            heard("c", 0, None, &["this host does not forward"]),
            heard("gone", 99_999, None, &[]),
        ];
        let said: Vec<String> = agents(&hosts, &all, Revision(20_000))
            .into_iter()
            .map(|finding| finding.what)
            .collect();
        let behind = "c: its kernel is 20000 revisions behind";
        assert_eq!(said, ["b: silent for 5 s", behind, "c: this host does not forward"]);
        assert_eq!(tones(&agents(&hosts, &all[..1], Revision(20_000))), [Tone::Good]);
        assert_eq!(agents(&hosts, &[], Revision(20_000)), []);
    }

    #[test]
    fn full_groups_are_found() {
        let cidr: ipnet::IpNet = "10.0.0.0/18".parse().unwrap();
        let usage = |addresses| GroupUsage {
            cidr,
            hosts: 1,
            blocks: 1,
            addresses,
            cooling: 0,
            capacity: 100,
        };
        let group = |used| Group { name: None, assignment: Labels::new(), usage: usage(used) };
        let network = |used| Network {
            name: "n".into(),
            cidr,
            block_mask: 29,
            tenants: Vec::new(),
            skip_first_last: false,
            groups: vec![group(used)],
        };
        assert_eq!(tones(&check_groups(&[network(10)])), [Tone::Good]);
        assert_eq!(tones(&check_groups(&[network(80)])), [Tone::Warning]);
        assert_eq!(tones(&check_groups(&[network(96)])), [Tone::Bad]);
    }
}

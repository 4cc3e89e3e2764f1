//! `/v1/ipam/check`: drift between the log and the agents' reports.

use std::collections::BTreeMap;

use romana_api::Page;
use romana_statemachine::agent::{AGENT_INFO, HeartbeatAge, RefusedAgent};
use romana_statemachine::finding::{AGENT_PROBLEM, Finding, Severity};
use romana_statemachine::name::{HostName, InstanceId};
use romana_statemachine::{Conflict, Host, Refusal, State, plural};

use super::call::Call;
use super::operation::{CONSISTENCY, Operation, Verb, handler, of};
use super::reply;
use crate::error::{Code, Failure};

pub(super) const OPERATIONS: &[Operation] = &[Operation::new(
    Verb::Get,
    "/v1/ipam/check",
    "ipam",
    "Differences between the log and the hosts, each with the reason and the remedy. Reads the \
     whole state.",
    &[(200, of::<Page<Finding>>)],
    handler!(check),
)
.query(&[CONSISTENCY])];

/// Silence after which the attachments of a host count as unverified.
const SILENT_MS: u64 = 30_000;

async fn check(call: Call) -> reply::Result {
    let state = call.state().await?;
    let heard = call.api.replica().agents().heard_by_leader(call.deadline).await;
    let heard = heard.map_err(|error| Failure::new(Code::Unavailable, error.to_string()))?;
    let revision = state.revision();
    let refused = call.api.replica().agents().refused(call.deadline).await;
    let refused = refused.map_err(|error| Failure::new(Code::Unavailable, error.to_string()))?;
    let checks = &call.api.budgets().checks;
    let items = call.work(checks, move |_| findings(&state, &heard, &refused)).await?;
    reply::whole(revision, items)
}

/// The findings, most severe first.
fn findings(state: &State, heard: &[HeartbeatAge], refused: &[RefusedAgent]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = inconsistent(state).collect();
    findings.extend(
        state.conflicts().flat_map(|(host, list)| list.iter().map(|one| conflict(host, one))),
    );
    findings.extend(state.address_findings());
    findings.extend(unverified(state, heard));
    findings.extend(heard.iter().flat_map(problems));
    findings.extend(refused.iter().map(|agent| second_agent(state, agent)));
    findings.extend(held(state));
    findings.sort();
    findings
}

fn inconsistent(state: &State) -> impl Iterator<Item = Finding> {
    state.validate().err().into_iter().flatten().map(|why| Finding {
        severity: Severity::Error,
        code: "Inconsistent".into(),
        subject: "the state".into(),
        why,
        remedy: "romana audit verify; then send its output and a backup to the developers".into(),
    })
}

fn conflict(host: &HostName, conflict: &Conflict) -> Finding {
    let Conflict { name, ip, why } = conflict;
    let remedy = match why {
        Refusal::AddressBlackedOut { cidr, .. } => format!("romana blackout remove {cidr}"),
        Refusal::VipAddressInUse { by, .. } => format!("give {by} another address"),
        _ => format!("restart {name} on {host}: it gets another address"),
    };
    Finding {
        severity: Severity::Error,
        code: why.code().into(),
        subject: format!("address {ip}"),
        why: format!("host {host} uses it for {name}, and the log cannot give it: {why}"),
        remedy,
    }
}

/// Hosts with addresses whose use no agent reports.
fn unverified<'a>(
    state: &'a State,
    heard: &'a [HeartbeatAge],
) -> impl Iterator<Item = Finding> + 'a {
    let heard: BTreeMap<&HostName, &HeartbeatAge> =
        heard.iter().map(|heard| (&heard.heartbeat.host, heard)).collect();
    state.hosts().filter_map(move |host| {
        let why = match heard.get(&host.name) {
            Some(heard) if heard.silent_ms < SILENT_MS => return None,
            Some(heard) => format!("its agent is silent for {} s", heard.silent_ms / 1000),
            None if host.info.contains_key(AGENT_INFO) => {
                "its agent has not been heard by the present leader".into()
            }
            None => "it has no agent".into(),
        };
        let addresses = state.ipam().host_addresses(&host.name).count();
        (addresses > 0).then(|| unverified_host(host, addresses, &why))
    })
}

fn unverified_host(host: &Host, addresses: usize, why: &str) -> Finding {
    let name = &host.name;
    Finding {
        severity: Severity::Warning,
        code: "AddressesUnverified".into(),
        subject: format!("host {name}"),
        why: format!("{why}: {} there may or may not be in use", plural(addresses, "address")),
        remedy: format!(
            "start romana-agent there; if it is gone for ever: romana host remove {name} --force"
        ),
    }
}

/// Problems that an agent reports and cannot repair: for example attachments whose link is gone.
fn problems(heard: &HeartbeatAge) -> impl Iterator<Item = Finding> + '_ {
    let heartbeat = &heard.heartbeat;
    let recent = heard.silent_ms < SILENT_MS;
    heartbeat.problems.iter().filter(move |_| recent).map(|problem| Finding {
        severity: Severity::Error,
        code: AGENT_PROBLEM.into(),
        subject: format!("host {}", heartbeat.host),
        why: problem.clone(),
        remedy: format!("see the log of romana-agent on {}", heartbeat.host),
    })
}

fn second_agent(state: &State, agent: &RefusedAgent) -> Finding {
    let RefusedAgent { host, instance, machine } = agent;
    let first = state.agent_of(host).map_or("none", InstanceId::as_str);
    Finding {
        severity: Severity::Error,
        code: "HostHasTwoAgents".into(),
        subject: format!("host {host}"),
        why: format!(
            "agent {instance} on machine {machine:?} says that it is {host}; {first} is, and the other is refused"
        ),
        remedy: "stop one of the two, or start it with the name of its own host (--hostname)"
            .into(),
    }
}

fn held(state: &State) -> Option<Finding> {
    let held = state.held()?;
    let hosts: Vec<&str> = held.waiting.iter().take(5).map(HostName::as_str).collect();
    let why = format!(
        "restored at revision {}, and not reported since by {}, such as {}",
        held.since,
        plural(held.waiting.len(), "host"),
        hosts.join(", ")
    );
    Some(Finding {
        severity: Severity::Error,
        code: "AllocationHeld".into(),
        subject: "allocation".into(),
        why,
        remedy: "start the agents there; or go on without them: romana cluster resume".into(),
    })
}

#[cfg(test)]
mod tests {
    use romana_statemachine::agent::Heartbeat;
    use romana_statemachine::{Entry, Index, Millis, Position, Proposal, Revision, Term};

    use super::*;

    fn state(lines: &[&str]) -> State {
        let mut state = State::new();
        let command = |line: &&str| serde_json::from_str(line).unwrap();
        let proposal = |line| Proposal { actor: "op".into(), command: command(line) };
        let entry = Entry { at: Millis(0), proposals: lines.iter().map(proposal).collect() };
        let (outcomes, _) = state.apply(Position { term: Term(1), index: Index(1) }, &entry);
        outcomes.into_iter().for_each(|outcome| _ = outcome.result.unwrap());
        state
    }

    fn heard(host: &str, silent_ms: u64) -> HeartbeatAge {
        let (host, version) = (host.into(), String::new());
        let heartbeat =
            Heartbeat { host, version, revision: Revision(1), applied: None, problems: Vec::new() };
        HeartbeatAge { heartbeat, silent_ms }
    }

    #[test]
    fn differences_are_found_and_told_with_a_remedy() {
        let state = state(&[
            r#"{"SetTopology": {"networks": [{"name": "n", "cidr": "10.0.0.0/30", "block_mask": 31}], "topologies": [{"networks": ["n"], "map": [{}]}]}}"#,
            r#"{"RaiseVersion": {"version": 2}}"#,
            r#"{"RaiseVersion": {"version": 3}}"#,
            r#"{"AddHost": {"name": "h1", "ip": "192.168.0.1", "info": {"agent": "1"}}}"#,
            r#"{"AddHost": {"name": "h2", "ip": "192.168.0.2"}}"#,
            r#"{"AllocateAddress": {"name": "a", "host": "h1", "tenant": "t", "segment": "s"}}"#,
            r#"{"AllocateAddress": {"name": "b", "host": "h2", "tenant": "t", "segment": "s"}}"#,
            r#"{"AllocateAddress": {"name": "c", "host": "h1", "tenant": "t", "segment": "s"}}"#,
            r#"{"AllocateAddress": {"name": "d", "host": "h2", "tenant": "t", "segment": "s"}}"#,
            r#"{"ReportAttachments": {"host": "h1", "revision": 9, "at": 0, "running": [{"name": "b", "ip": "10.0.0.2", "tenant": "t", "segment": "s"}], "kept": ["a", "c"]}}"#,
        ]);
        let said = |heard: &[HeartbeatAge]| -> Vec<String> {
            let found = findings(&state, heard, &[]);
            found.iter().map(|one| format!("{} {}", one.code, one.subject)).collect()
        };
        let conflict = "AddressNameInUse address 10.0.0.2";
        let (h1, h2) = ("AddressesUnverified host h1", "AddressesUnverified host h2");
        assert_eq!(said(&[]), [conflict, h1, h2]);
        assert_eq!(said(&[heard("h1", 0), heard("h2", SILENT_MS)]), [conflict, h2]);
        assert_eq!(said(&[heard("h1", 0), heard("h2", 0)]), [conflict]);
        assert!(findings(&state, &[], &[]).iter().all(|one| !one.remedy.is_empty()));
        // Problems that agents report, as long as they report them; and refused agents.
        let mut troubled = heard("h1", 0);
        troubled.heartbeat.problems.push("eth0 of container c has no host route".into());
        assert_eq!(said(&[troubled.clone(), heard("h2", 0)]), [conflict, "AgentProblem host h1"]);
        let old = HeartbeatAge { silent_ms: SILENT_MS, ..troubled };
        assert_eq!(said(&[old, heard("h2", 0)]), [conflict, h1]);
        let second = RefusedAgent { host: "h1".into(), instance: "b".into(), machine: "m".into() };
        let found = findings(&state, &[heard("h1", 0), heard("h2", 0)], &[second]);
        assert_eq!(found.last().map(|one| one.code.as_str()), Some("HostHasTwoAgents"));
    }

    /// Inconsistencies from before version 4, when more was accepted.
    #[test]
    fn what_two_have_and_nobody_can_have_is_found() {
        let state = state(&[
            r#"{"SetTopology": {"networks": [{"name": "n", "cidr": "10.0.0.0/30", "block_mask": 31}, {"name": "multi", "cidr": "224.0.0.0/8"}], "topologies": [{"networks": ["n", "multi"], "map": [{}]}]}}"#,
            r#"{"AddHost": {"name": "h1", "ip": "10.0.0.1"}}"#,
            r#"{"AddHost": {"name": "H1", "ip": "::ffff:192.168.0.1"}}"#,
            r#"{"AllocateAddress": {"name": "10.0.0.1", "host": "h1", "tenant": "t", "segment": "s", "network": "n"}}"#,
            r#"{"AllocateAddress": {"name": "web", "host": "h1", "tenant": "t", "segment": "s", "network": "n"}}"#,
        ]);
        let found = state.address_findings();
        let found: Vec<String> =
            found.iter().map(|one| format!("{} {}", one.code, one.subject)).collect();
        assert_eq!(
            found,
            [
                "AddressShared address 10.0.0.1",
                "AddressUnusable host H1",
                "NetworkMisplaced network multi",
                "AmbiguousName address 10.0.0.1",
                "HostInsideNetwork host h1",
                "HostsDifferInCase host H1",
            ]
        );
    }
}

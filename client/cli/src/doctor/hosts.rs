//! Checks hosts and their agents.

use std::collections::{BTreeMap, BTreeSet};

use romana_api::network::Network;
use romana_statemachine::agent::HeartbeatAge;
use romana_statemachine::command::{HostSource, HostState};
use romana_statemachine::name::HostName;
use romana_statemachine::{Host, Revision, plural};

use super::{Finding, bad, good, some, warning};

/// Time without a heartbeat before a warning, milliseconds; and lag of a kernel before a warning, revisions.
const SILENT_MS_MAX: u64 = 5_000;
const BEHIND_MAX: u64 = 10_000;

/// States of the hosts, and their places in the topology.
pub(super) fn check(hosts: &[Host], networks: &[Network]) -> Vec<Finding> {
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
        let remedy = "romana host up NAME ends it";
        findings
            .push(warning("hosts", format!("draining: {}", draining.join(", "))).remedy(remedy));
    }
    findings.extend(homeless(hosts, networks));
    findings
}

/// Hosts without a group: nothing there gets an address.
fn homeless(hosts: &[Host], networks: &[Network]) -> Option<Finding> {
    let those = hosts.iter().filter(|host| host.places.is_empty());
    let those: Vec<&str> = those.map(|host| host.name.as_str()).collect();
    if those.is_empty() || networks.is_empty() {
        return None;
    }
    let wanted: BTreeSet<String> = networks
        .iter()
        .flat_map(|network| &network.groups)
        .flat_map(|group| group.assignment.iter())
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let example = wanted.first().map_or("KEY=VALUE", String::as_str);
    let what =
        format!("no group of the topology takes {}: nothing there gets an address", some(those));
    let remedy = format!(
        "label them as a group asks, such as romana host label NAME {example} (a Kubernetes node: kubectl label node \
         NAME {example}); or romana topology update"
    );
    Some(bad("hosts", what).remedy(remedy))
}

/// Agents that are missing, silent, behind, or report problems.
pub(super) fn agents(hosts: &[Host], heard: &[HeartbeatAge], revision: Revision) -> Vec<Finding> {
    let known: BTreeMap<&HostName, &Host> = hosts.iter().map(|host| (&host.name, host)).collect();
    let heard: Vec<&HeartbeatAge> =
        heard.iter().filter(|heard| known.contains_key(&heard.heartbeat.host)).collect();
    let mut findings: Vec<Finding> = unheard(hosts, &heard).into_iter().collect();
    findings.extend(heard.iter().flat_map(|heard| agent(heard, revision)));
    if findings.is_empty() && !heard.is_empty() {
        findings.push(good("agents", format!("{} are heard, all is well with them", heard.len())));
    }
    findings
}

/// Nodes of Kubernetes without an agent. Other hosts may be without one: their operator knows.
fn unheard(hosts: &[Host], heard: &[&HeartbeatAge]) -> Option<Finding> {
    let heard: BTreeSet<&HostName> = heard.iter().map(|heard| &heard.heartbeat.host).collect();
    let nodes = hosts.iter().filter(|host| host.source == HostSource::Kubernetes);
    let those = nodes.filter(|host| !heard.contains(&host.name)).map(|host| host.name.as_str());
    let those: Vec<&str> = those.collect();
    if those.is_empty() {
        return None;
    }
    let what = format!("no agent is heard of {}: pods there get no network", some(those));
    let remedy = "kubectl -n kube-system get pods -o wide -l app.kubernetes.io/name=romana-agent; is its server \
                  (ROMANA_AGENT_SERVER) reachable from the node, and its hostname the node's name?";
    Some(bad("agents", what).remedy(remedy))
}

fn agent(heard: &HeartbeatAge, revision: Revision) -> Vec<Finding> {
    let HeartbeatAge { heartbeat, silent_ms } = heard;
    let host = &heartbeat.host;
    if *silent_ms > SILENT_MS_MAX {
        let what = format!("{host}: silent for {} s", silent_ms / 1000);
        let remedy = format!("start romana-agent on {host}; what runs there keeps its network");
        return vec![warning("agents", what).remedy(remedy)];
    }
    let remedy = format!("romana-agent status, on {host}");
    let mut findings = Vec::new();
    let behind = revision.since(heartbeat.applied.unwrap_or_default());
    if behind > BEHIND_MAX {
        let what = format!("{host}: its kernel is {} behind", plural(behind, "revision"));
        findings.push(warning("agents", what).remedy(&*remedy));
    }
    let problems = heartbeat.problems.iter();
    findings
        .extend(problems.map(|why| warning("agents", format!("{host}: {why}")).remedy(&*remedy)));
    findings
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use romana_statemachine::Labels;

    use super::*;
    use crate::doctor::tests::{heard, network, tones};
    use crate::table::Tone;

    fn host(name: &str, source: HostSource) -> Host {
        Host {
            name: name.into(),
            ip: IpAddr::from([10, 0, 0, 1]),
            addresses: Vec::new(),
            labels: Labels::new(),
            info: Labels::new(),
            source,
            state: HostState::Up,
            places: Vec::new(),
            added: Revision(1),
        }
    }

    #[test]
    fn agents_are_silent_or_behind_or_complain() {
        let hosts = ["a", "b", "c", "d"].map(|name| host(name, HostSource::Operator));
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
    fn a_node_without_an_agent_is_named() {
        let hosts = [host("n1", HostSource::Kubernetes), host("n2", HostSource::Kubernetes)];
        let all = [heard("n1", 0, Some(Revision(1)), &[])];
        let found = agents(&hosts, &all, Revision(1));
        assert_eq!(tones(&found), [Tone::Bad]);
        assert_eq!(found[0].what, "no agent is heard of n2: pods there get no network");
    }

    #[test]
    fn a_host_without_a_group_is_named_with_the_label_that_it_lacks() {
        let networks = [network("n", &[("rack", 0)])];
        let found = check(&[host("h1", HostSource::Operator)], &networks);
        assert_eq!(tones(&found), [Tone::Good, Tone::Bad]);
        assert!(found[1].what.starts_with("no group of the topology takes h1"), "{found:?}");
        assert!(found[1].remedy.contains("romana host label NAME rack=rack"), "{found:?}");
    }
}

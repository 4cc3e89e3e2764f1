//! Checks the replicas: whether any responds, leader, members, lag, and the problems that they report.

use std::time::Duration;

use romana_client::model::{ClusterStatus, MemberProblem};
use romana_client::{Error, RawReply, Server};
use romana_statemachine::plural;
use serde_json::Value;

use super::{Finding, bad, good, warning};
use crate::context::Context;

/// Lag of a replica without a warning, entries.
const LAG_MAX: u64 = 1_000;
/// Time for a replica to say why it does not serve.
const WITHIN: Duration = Duration::from_secs(3);
/// Size limit of that.
const BYTES_MAX: usize = 64 << 10;
/// How the code of a problem of the task that follows the API server begins.
const KUBERNETES: &str = "Kubernetes";

/// What each replica says if none tells the cluster's status.
pub(super) async fn unreachable(ctx: &Context, error: &Error) -> Vec<Finding> {
    let servers = ctx.client.servers();
    let asked = servers.iter().map(|server| async {
        let answer = ctx.client.raw(server, "/readyz", BYTES_MAX, WITHIN).await;
        answer.map_err(|error| romana_daemon::error::chain(&error))
    });
    let answers = futures_util::future::join_all(asked).await;
    let mut findings: Vec<Finding> =
        servers.iter().zip(answers).map(|(server, answer)| one(server, answer)).collect();
    let what = format!("no replica tells the cluster's status: {error}");
    let remedy = "start more than half of the replicas; -r names those of another cluster";
    findings.insert(0, bad("leader", what).remedy(remedy));
    findings
}

/// A replica that does not tell the cluster's status.
fn one(server: &Server, answer: Result<RawReply, String>) -> Finding {
    let reply = match answer {
        Ok(reply) => reply,
        Err(why) => {
            let remedy = format!(
                "is romanad started there, and is port {} open? systemctl status romanad, or kubectl -n kube-system \
                 get pods -o wide -l app.kubernetes.io/name=romanad",
                server.port()
            );
            // The message names the server.
            return bad("replica", why).remedy(remedy);
        }
    };
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    if body["waiting"] == true {
        let what = format!("{server} waits for a backup");
        return bad("replica", what).remedy("romana backup restore FILE -r URL,URL,URL");
    }
    if let Some(status) = text(&body["status"]) {
        return warning("replica", format!("{server}: {status}"));
    }
    match (text(&body["error"]["message"]), text(&body["error"]["hint"])) {
        (Some(why), hint) => {
            bad("replica", format!("{server}: {why}")).remedy(hint.unwrap_or_default())
        }
        (None, _) => {
            let what = format!("{server} answers with status {}, but is no romanad", reply.status);
            bad("replica", what).remedy("check -r/--rootURL: another program or a proxy is there")
        }
    }
}

/// Leader, members, lag, and problems.
pub(super) fn check(cluster: &ClusterStatus) -> Vec<Finding> {
    let mut findings = Vec::new();
    let count = cluster.members.len();
    match cluster.leader {
        Some(id) => findings.push(good("leader", format!("replica {id}, term {}", cluster.term))),
        None => findings.push(leaderless(cluster)),
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
        findings.extend(member.problems.iter().map(|found| problem(member.id, found)));
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

/// No leader: the majority is lost, or its members do not reach each other.
fn leaderless(cluster: &ClusterStatus) -> Finding {
    let (count, healthy) =
        (cluster.members.len(), cluster.members.iter().filter(|member| member.healthy).count());
    let needed = count / 2 + 1;
    let what = format!(
        "there is none: no change is possible; {healthy} of {count} replicas are healthy, {needed} are needed"
    );
    let silent = cluster.members.iter().filter(|member| !member.healthy);
    let silent: Vec<String> =
        silent.map(|member| format!("{} ({})", member.id, member.peer)).collect();
    let remedy = match silent.is_empty() {
        true => "wait for the election; if it does not end, check that they reach each other on their peer ports".into(),
        false => format!(
            "start more than half of the replicas, and let them reach each other: {}; if their disks are lost for good: \
             romanad recover, see Keep it running in README.md",
            silent.join(", ")
        ),
    };
    bad("leader", what).remedy(remedy)
}

fn problem(id: u64, problem: &MemberProblem) -> Finding {
    let MemberProblem { code, what, remedy } = problem;
    let check = if code.starts_with(KUBERNETES) { "kubernetes" } else { "members" };
    bad(check, format!("replica {id}: {what} ({code})")).remedy(&**remedy)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use romana_client::model::MemberStatus;

    use super::*;
    use crate::table::Tone;

    #[test]
    fn what_is_wrong_with_a_member_is_said_with_what_mends_it() {
        let problem = |code: &str| MemberProblem {
            code: code.into(),
            what: "an older copy".into(),
            remedy: "romana cluster replace 2".into(),
        };
        let problems = vec![problem("OlderCopy"), problem("KubernetesUnreachable")];
        let member = MemberStatus { id: 2, problems, ..MemberStatus::default() };
        let cluster = ClusterStatus { members: vec![member], ..ClusterStatus::default() };
        let found = check(&cluster);
        let own = found.iter().find(|finding| finding.what.contains("OlderCopy")).unwrap();
        assert_eq!(own.what, "replica 2: an older copy (OlderCopy)");
        assert_eq!((own.tone, &*own.remedy), (Tone::Bad, "romana cluster replace 2"));
        assert!(found.iter().any(|finding| finding.check == "kubernetes"), "{found:?}");
    }

    #[test]
    fn a_lost_majority_is_counted() {
        let member = |id, healthy| MemberStatus {
            id,
            healthy,
            peer: format!("10.0.0.{id}:9601"),
            ..MemberStatus::default()
        };
        let members = vec![member(1, true), member(2, false), member(3, false)];
        let cluster = ClusterStatus { members, ..ClusterStatus::default() };
        let found = leaderless(&cluster);
        assert!(found.what.ends_with("1 of 3 replicas are healthy, 2 are needed"), "{found:?}");
        assert!(found.remedy.contains("2 (10.0.0.2:9601), 3 (10.0.0.3:9601)"), "{found:?}");
        let all = ClusterStatus { members: vec![member(1, true)], ..ClusterStatus::default() };
        assert!(leaderless(&all).remedy.starts_with("wait for the election"));
    }

    #[test]
    fn every_answer_of_a_replica_is_explained() {
        let server: Server = "http://10.0.0.1:9600".parse().unwrap();
        let reply = |status, body: &'static str| RawReply {
            status,
            body: Bytes::from_static(body.as_bytes()),
            cut: false,
        };
        let error =
            r#"{"error":{"code":"OlderCopy","message":"an older copy","hint":"replace it"}}"#;
        for (answer, what, remedy) in [
            (
                Err("http://10.0.0.1:9600: it does not accept connections".into()),
                "does not accept",
                "port 9600",
            ),
            (Ok(reply(503, error)), "http://10.0.0.1:9600: an older copy", "replace it"),
            (
                Ok(reply(503, r#"{"status":"x","waiting":true}"#)),
                "waits for a backup",
                "backup restore",
            ),
            (Ok(reply(200, r#"{"status":"ready"}"#)), "http://10.0.0.1:9600: ready", ""),
            (Ok(reply(502, "<html>")), "status 502, but is no romanad", "--rootURL"),
        ] {
            let found = one(&server, answer);
            assert!(found.what.contains(what) && found.remedy.contains(remedy), "{found:?}");
        }
    }
}

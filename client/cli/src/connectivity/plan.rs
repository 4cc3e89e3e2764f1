//! What is checked between which ends, and what an outcome means. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::place::Place;
use super::probe::{Fault, Outcome, Target, Way};
use super::report::{Row, Verdict};

/// The port that the test's policy opens, and one that it does not.
pub(super) const OPEN: u16 = 7001;
pub(super) const CLOSED: u16 = 7002;

/// What an end is to the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Accepts connections from the client at the open port.
    Server,
    /// The same on another host.
    Peer,
    /// May connect.
    Client,
    /// May not.
    Stranger,
    /// The host of server, client and stranger.
    Host,
}

impl Role {
    /// Its name; also that of its segment.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Peer => "peer",
            Self::Client => "client",
            Self::Stranger => "stranger",
            Self::Host => "host",
        }
    }
}

/// An end of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) role: Role,
    /// Its name in the report.
    pub(super) name: String,
    pub(super) host: String,
    pub(super) ips: Vec<IpAddr>,
    pub(super) place: Place,
    /// The port at which it accepts connections.
    pub(super) port: u16,
    /// Whether a stranger of this test is refused there.
    pub(super) strict: bool,
}

/// A promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Promise {
    SameHost,
    OtherHost,
    HostToPod,
    PodToHost,
    Policy,
}

impl Promise {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::SameHost => "pod to pod, same host",
            Self::OtherHost => "pod to pod, other host",
            Self::HostToPod => "host to pod",
            Self::PodToHost => "pod to host",
            Self::Policy => "policy",
        }
    }
}

/// A connection to try. `from` and `to` are positions in the list of ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) promise: Promise,
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) target: Target,
    pub(super) allowed: bool,
}

/// All checks between these ends, in every family that both have.
pub(super) fn plan(ends: &[End]) -> Vec<Check> {
    let mut checks = Vec::new();
    for (from, source) in ends.iter().enumerate() {
        for (to, destination) in ends.iter().enumerate() {
            for ip in destination.ips.iter().filter(|ip| has_family_of(source, ip)) {
                for (promise, way, port, allowed) in between(source, destination) {
                    let target = Target { way, ip: *ip, port };
                    checks.push(Check { promise, from, to, target, allowed });
                }
            }
        }
    }
    checks.sort_by_key(|check| (check.promise, check.from, check.to, check.target));
    checks
}

fn has_family_of(end: &End, ip: &IpAddr) -> bool {
    end.ips.iter().any(|own| own.is_ipv4() == ip.is_ipv4())
}

/// The connections from one end to another.
fn between(from: &End, to: &End) -> Vec<(Promise, Way, u16, bool)> {
    let pods = if from.host == to.host { Promise::SameHost } else { Promise::OtherHost };
    let all = [Way::Tcp, Way::Udp, Way::Bulk, Way::Full];
    match (from.role, to.role) {
        (Role::Client, Role::Server | Role::Peer) => {
            let open = all.map(|way| (pods, way, to.port, true)).into_iter();
            open.chain([(Promise::Policy, Way::Tcp, CLOSED, false)]).collect()
        }
        (Role::Stranger, Role::Server | Role::Peer) if to.strict => {
            [Way::Tcp, Way::Udp].map(|way| (Promise::Policy, way, to.port, false)).to_vec()
        }
        (Role::Host, Role::Server) => vec![(Promise::HostToPod, Way::Tcp, to.port, true)],
        (Role::Client, Role::Host) => vec![(Promise::PodToHost, Way::Tcp, to.port, true)],
        _ => Vec::new(),
    }
}

/// The checks by the end that opens the connections.
pub(super) fn by_source(checks: &[Check]) -> BTreeMap<usize, Vec<Check>> {
    let mut by_source: BTreeMap<usize, Vec<Check>> = BTreeMap::new();
    for check in checks {
        by_source.entry(check.from).or_default().push(*check);
    }
    by_source
}

/// What a check promises, in words.
fn subject(check: &Check) -> String {
    let Target { way, ip, port } = check.target;
    let allowed = if check.allowed { "" } else { " is denied" };
    match way {
        Way::Tcp | Way::Udp => format!("{}/{port} to {ip}{allowed}", way.as_str()),
        Way::Bulk => format!("much data over tcp/{port} to {ip}"),
        Way::Full => format!("packets as large as the MTU to {ip}"),
    }
}

/// The rows for a connection that is allowed: whether it works, and whether the source address is kept.
/// `explained`: why not and what to do, if it does not work.
pub(super) fn judge_allowed(
    ends: &[End],
    check: &Check,
    outcome: &Outcome,
    explained: Option<(String, String)>,
) -> Vec<Row> {
    let row = |what: String, verdict, why: String, remedy: String| {
        row(ends, check, what, verdict, why, remedy)
    };
    let Some(fault) = outcome.fault else {
        let works = row(subject(check), Verdict::Ok, outcome.more.clone(), String::new());
        let kept = kept(ends, check, outcome).map(|(verdict, why, remedy)| {
            row("the source address is kept".into(), verdict, why, remedy)
        });
        return std::iter::once(works).chain(kept).collect();
    };
    let (why, remedy) = explained.unwrap_or_else(|| usual(fault, &outcome.more));
    vec![row(subject(check), Verdict::Failed, why, remedy)]
}

/// Whether a pod's address arrives as it is. One check for each pair is enough.
fn kept(ends: &[End], check: &Check, outcome: &Outcome) -> Option<(Verdict, String, String)> {
    let from = ends.get(check.from)?;
    if check.target.way != Way::Tcp || from.role == Role::Host {
        return None;
    }
    let seen = outcome.seen?;
    if from.ips.contains(&seen) {
        return Some((Verdict::Ok, format!("{seen} arrives"), String::new()));
    }
    let why = format!("{seen} arrives instead of the pod's own address: something translates it");
    let remedy = "iptables -t nat -S POSTROUTING: no rule may masquerade packets within the Romana networks; the \
                  agent's own (--nat) does not";
    Some((Verdict::Failed, why, remedy.into()))
}

/// The row for a connection that must be denied. `proven`: an allowed one between the same ends works, so silence means
/// that the policy denies it.
pub(super) fn judge_denied(
    ends: &[End],
    check: &Check,
    outcome: &Outcome,
    proven: bool,
    enforcing: Option<bool>,
) -> Row {
    let host = ends.get(check.to).map_or("", |to| &to.host);
    let (verdict, why, remedy) = match outcome.fault {
        Some(Fault::Unable) => {
            (Verdict::Failed, format!("it could not be tried: {}", outcome.more), String::new())
        }
        Some(_) if proven => (Verdict::Ok, String::new(), String::new()),
        Some(_) => {
            let why = "nothing arrives there at all, so this proves nothing";
            (Verdict::Skipped, why.into(), String::new())
        }
        None if enforcing == Some(false) => {
            let why = format!("it was accepted: the agent on {host} does not enforce policy");
            let remedy =
                "set policy = true in agent.toml (ROMANA_AGENT_POLICY), and restart romana-agent";
            (Verdict::Failed, why, remedy.into())
        }
        None => {
            let why = "it was accepted, although no policy allows it: policy is not enforced";
            let from = ends.get(check.from).and_then(|from| from.ips.first());
            let from = from.map(ToString::to_string).unwrap_or_default();
            let Target { way, ip, port } = check.target;
            let remedy = format!(
                "romana policy explain {from} {ip} {}/{port}; romana-agent status, on {host}; iptables -S FORWARD \
                 there: the jump to ROMANA-FORWARD must be first",
                way.protocol()
            );
            (Verdict::Failed, why.into(), remedy)
        }
    };
    row(ends, check, subject(check), verdict, why, remedy)
}

fn row(
    ends: &[End],
    check: &Check,
    what: String,
    verdict: Verdict,
    why: String,
    remedy: String,
) -> Row {
    let name = |at: usize| ends.get(at).map(|end| end.name.clone()).unwrap_or_default();
    Row {
        result: verdict,
        check: check.promise.as_str().into(),
        from: name(check.from),
        to: name(check.to),
        what,
        why,
        remedy,
    }
}

/// What a fault means if nothing more is known.
pub(super) fn usual(fault: Fault, more: &str) -> (String, String) {
    let (why, remedy) = match fault {
        Fault::Silence => {
            ("no answer", "look at the other host: run romana connectivity test there")
        }
        Fault::Refused => (
            "it is rejected",
            "a REJECT rule, or the test's program has ended: iptables-save, on both hosts",
        ),
        Fault::Unreachable => ("a router or host has no way there", "ip route get, on both hosts"),
        Fault::TooLong => {
            let why =
                "they do not arrive, and smaller ones do: a link on the way has a smaller MTU";
            (
                why,
                "set mtu in agent.toml (ROMANA_AGENT_MTU) to that of the smallest link on the way",
            )
        }
        Fault::Broken => (
            "the connection broke off",
            "checksum offloading and MTU of the hosts' links: ethtool -k, ip link",
        ),
        Fault::Unable => ("it could not be tried", "correct this first"),
    };
    let more = if more.is_empty() { String::new() } else { format!(" ({more})") };
    (format!("{why}{more}"), remedy.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connectivity::tests::end;

    fn ends() -> Vec<End> {
        vec![
            end(Role::Server, "h1", &["10.1.0.1", "fd00::1"]),
            end(Role::Client, "h1", &["10.1.0.2", "fd00::2"]),
            end(Role::Stranger, "h1", &["10.1.0.3"]),
            end(Role::Host, "h1", &["192.168.0.1"]),
            end(Role::Peer, "h2", &["10.1.8.1"]),
        ]
    }

    #[test]
    fn the_plan_has_every_promise_in_every_common_family() {
        let ends = ends();
        let text = |check: &Check| {
            let Check { promise, from, to, target, allowed } = check;
            let (from, to) = (&ends[*from].name, &ends[*to].name);
            let allowed = if *allowed { "" } else { " denied" };
            format!("{}: {from} > {to} {target}{allowed}", promise.as_str())
        };
        let plan: Vec<String> = plan(&ends).iter().map(text).collect();
        assert_eq!(
            plan,
            [
                "pod to pod, same host: client > server tcp/10.1.0.1/7001",
                "pod to pod, same host: client > server tcp/fd00::1/7001",
                "pod to pod, same host: client > server udp/10.1.0.1/7001",
                "pod to pod, same host: client > server udp/fd00::1/7001",
                "pod to pod, same host: client > server bulk/10.1.0.1/7001",
                "pod to pod, same host: client > server bulk/fd00::1/7001",
                "pod to pod, same host: client > server full/10.1.0.1/7001",
                "pod to pod, same host: client > server full/fd00::1/7001",
                "pod to pod, other host: client > peer tcp/10.1.8.1/7001",
                "pod to pod, other host: client > peer udp/10.1.8.1/7001",
                "pod to pod, other host: client > peer bulk/10.1.8.1/7001",
                "pod to pod, other host: client > peer full/10.1.8.1/7001",
                "host to pod: host > server tcp/10.1.0.1/7001",
                "pod to host: client > host tcp/192.168.0.1/7001",
                "policy: client > server tcp/10.1.0.1/7002 denied",
                "policy: client > server tcp/fd00::1/7002 denied",
                "policy: client > peer tcp/10.1.8.1/7002 denied",
                "policy: stranger > server tcp/10.1.0.1/7001 denied",
                "policy: stranger > server udp/10.1.0.1/7001 denied",
            ]
        );
    }

    fn reached(seen: &str) -> Outcome {
        Outcome { seen: Some(seen.parse().unwrap()), fault: None, more: String::new() }
    }

    #[test]
    fn an_allowed_connection_must_work_and_keep_its_source() {
        let ends = ends();
        let check = plan(&ends)[0];
        let verdicts = |outcome: &Outcome| -> Vec<Verdict> {
            judge_allowed(&ends, &check, outcome, None).iter().map(|row| row.result).collect()
        };
        assert_eq!(verdicts(&reached("10.1.0.2")), [Verdict::Ok, Verdict::Ok]);
        assert_eq!(verdicts(&reached("192.168.0.1")), [Verdict::Ok, Verdict::Failed]);
        for fault in [
            Fault::Silence,
            Fault::Refused,
            Fault::Unreachable,
            Fault::TooLong,
            Fault::Broken,
            Fault::Unable,
        ] {
            let rows = judge_allowed(&ends, &check, &Outcome::failed(fault, ""), None);
            assert!(rows.len() == 1 && rows[0].result == Verdict::Failed, "{rows:?}");
            assert!(!rows[0].why.is_empty() && !rows[0].remedy.is_empty(), "{rows:?}");
        }
    }

    #[test]
    fn silence_proves_a_denial_only_if_something_gets_through() {
        let ends = ends();
        let check = *plan(&ends).last().unwrap();
        let silence = Outcome::failed(Fault::Silence, "");
        let judge = |outcome: &Outcome, proven, enforcing| {
            judge_denied(&ends, &check, outcome, proven, enforcing)
        };
        assert_eq!(judge(&silence, true, Some(true)).result, Verdict::Ok);
        assert_eq!(judge(&silence, false, Some(true)).result, Verdict::Skipped);
        let unable = Outcome::failed(Fault::Unable, "no ip");
        assert_eq!(judge(&unable, true, None).result, Verdict::Failed);
        let open = judge(&reached("10.1.0.3"), true, Some(false));
        assert!(open.result == Verdict::Failed && open.why.contains("does not enforce policy"));
        let open = judge(&reached("10.1.0.3"), true, Some(true));
        assert!(
            open.remedy.contains("romana policy explain 10.1.0.3 10.1.0.1 udp/7001"),
            "{open:?}"
        );
    }
}

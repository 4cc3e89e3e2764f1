//! The base chains, which exist whatever the policies are and dispatch packets to them.
//!
//! ```text
//!   FORWARD ─► ROMANA-FORWARD   from or to a container's link with an address that is not its own: DROP
//!                               of an allowed connection: ROMANA-PASS
//!                               source closed out:        ROMANA-EGRESS ──┐  marked by a policy: back
//!                               destination closed in:    ROMANA-INGRESS ─┤  else: ROMANA-DENY-…, DROP
//!                               ROMANA-PASS: ACCEPT what is of an endpoint here; the rest is not ours
//!   INPUT ───► ROMANA-INPUT     the same for what endpoints send to this host, and ROMANA-HOST-IN
//!   OUTPUT ──► ROMANA-OUTPUT    the same for what this host sends to endpoints, and ROMANA-HOST-OUT
//! ```

use std::collections::BTreeSet;
use std::net::IpAddr;

use romana_statemachine::Revision;
use romana_statemachine::policy::Protocol;
use romana_statemachine::policy::evaluate::{Direction, FAILSAFE_PORTS, NEIGHBOUR_DISCOVERY};

use super::model::{Action, Chain, End, Family, Match, Name, Rule};
use super::names::{self, side};
use super::options::Options;

/// How far policies isolate this host itself, in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Isolated {
    /// Entirely, by a policy for hosts.
    pub(super) whole: bool,
    /// Addresses isolated by policies for CIDRs.
    pub(super) ips: BTreeSet<IpAddr>,
}

fn set(name: &str, end: End) -> Match {
    Match::In { set: name.into(), end, not: false }
}

fn not_in(name: &str, end: End) -> Match {
    Match::In { set: name.into(), end, not: true }
}

fn jump(chain: &str) -> Rule {
    Rule::new(Action::Jump(chain.into()))
}

pub(super) fn end_of(direction: Direction) -> End {
    match direction {
        Direction::Ingress => End::Destination,
        Direction::Egress => End::Source,
    }
}

/// The NFLOG prefix of a denied packet: 63 bytes at most, so a long name is truncated at the front.
pub(super) fn log_prefix(direction: Direction, policy: &str, revision: Option<Revision>) -> String {
    const NAME_BYTES: usize = 34;
    let from = policy.len().saturating_sub(NAME_BYTES);
    let at = revision.map(|revision| format!("@{revision}")).unwrap_or_default();
    // Names are ASCII, so any index is a character boundary.
    format!("romana deny-{} {}{at}", side(direction).word, policy.get(from..).unwrap_or_default())
}

/// The base chains of a family.
pub(super) fn chains(
    family: Family,
    options: &Options,
    isolated: &dyn Fn(Direction) -> Isolated,
) -> Vec<(Name, Chain)> {
    let mut chains = vec![
        (names::FORWARD, forward()),
        (
            names::INPUT,
            host(family, &options.failsafe, Direction::Ingress, &isolated(Direction::Ingress)),
        ),
        (
            names::OUTPUT,
            host(family, &options.failsafe, Direction::Egress, &isolated(Direction::Egress)),
        ),
        (names::PASS, pass()),
    ];
    for direction in [Direction::Ingress, Direction::Egress] {
        let names = side(direction);
        chains.push((names.judge, judge(names.policies, names.deny)));
        chains.push((names.host_judge, judge(names.host_policies, names.deny)));
        let drop = Rule::new(Action::Drop).saying("closed, and no policy allows it");
        let mut deny = vec![jump(names.denied)];
        if options.log {
            deny.push(Rule::new(Action::Log(log_prefix(direction, "closed", None))));
        }
        deny.push(drop);
        chains.push((names.deny, deny));
    }
    let chain = |rules| Chain { rules: std::sync::Arc::new(rules), ordered: true };
    chains.into_iter().map(|(name, rules)| (name.into(), chain(rules))).collect()
}

fn forward() -> Vec<Rule> {
    let closed = |direction| {
        let names = side(direction);
        jump(names.judge).when(set(names.closed, end_of(direction)))
    };
    vec![
        stray(End::Source, "not an address of this container"),
        stray(End::Destination, "no container has this address here"),
        jump(names::PASS).when(Match::Established),
        closed(Direction::Egress),
        closed(Direction::Ingress),
        jump(names::PASS),
    ]
}

/// Drops packets whose address does not belong to the container's link they use; this includes all packets of
/// a container whose policy is not in place yet.
fn stray(end: End, saying: &str) -> Rule {
    let stray = Rule::new(Action::Drop).when(Match::Container(end));
    stray.when(not_in(names::LINKS, end)).saying(saying)
}

fn pass() -> Vec<Rule> {
    let accept = |end| Rule::new(Action::Accept).when(set(names::LOCAL, end));
    vec![accept(End::Source), accept(End::Destination)]
}

/// The chain for INPUT or OUTPUT; `direction` is that of the host.
fn host(
    family: Family,
    ports: &BTreeSet<u16>,
    direction: Direction,
    isolated: &Isolated,
) -> Vec<Rule> {
    let (near, far, opposite, saying) = match direction {
        Direction::Ingress => {
            (End::Source, End::Destination, Direction::Egress, "not an address of this container")
        }
        Direction::Egress => {
            let saying = "no container has this address here";
            (End::Destination, End::Source, Direction::Ingress, saying)
        }
    };
    let leave = || Rule::new(Action::Return);
    let mut rules = vec![leave().when(Match::Loopback(near))];
    if family == Family::V6 {
        let discovery = |kind| {
            let icmp = leave().when(Match::Protocol(Protocol::Icmp)).when(Match::Icmp(kind, None));
            icmp.saying("neighbour discovery")
        };
        rules.extend(NEIGHBOUR_DISCOVERY.map(discovery));
    }
    rules.push(stray(near, saying));
    rules.push(leave().when(Match::Established));
    let names = side(opposite);
    rules.push(
        jump(names.judge)
            .when(set(names.closed, near))
            .when(not_in(names::KUBERNETES, near))
            .saying("a Kubernetes node and its own pods always reach each other"),
    );
    let own = side(direction);
    let mut judged = Vec::new();
    if isolated.whole {
        judged.push(jump(own.host_judge));
    } else {
        let ips = isolated.ips.iter().filter(|ip| Family::of(**ip) == family);
        judged.extend(ips.map(|ip| jump(own.host_judge).when(Match::Net(far, (*ip).into()))));
    }
    if !judged.is_empty() {
        let all: BTreeSet<u16> = FAILSAFE_PORTS.iter().chain(ports).copied().collect();
        for some in all.into_iter().collect::<Vec<_>>().chunks(15) {
            let ports = Match::Ports(some.iter().map(|port| (*port, *port)).collect());
            let open = leave().when(Match::Protocol(Protocol::Tcp)).when(ports);
            rules.push(open.saying("without Romana no policy could be taken back"));
        }
        rules.append(&mut judged);
    }
    rules
}

/// Returns packets that a policy has marked, and denies others. The mark is
/// cleared before other rules see it.
fn judge(policies: &str, deny: &str) -> Vec<Rule> {
    let unmark = || Rule::new(Action::Unmark);
    vec![unmark(), jump(policies), jump(deny).when(Match::Unmarked), unmark()]
}

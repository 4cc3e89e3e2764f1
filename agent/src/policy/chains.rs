//! The chains of a policy. Packets pass through them if the policy selects the side in question, and
//! return marked if a rule allows them.
//!
//! ```text
//!   ROMANA-I-web-…   policy web, revision 12
//!                    one rule of the policy:  peer × traffic ─► MARK, where one of them is single
//!                                             else peer ─► ROMANA-R-…, which has the traffic
//! ```

use std::collections::BTreeSet;

use ipnet::IpNet;
use romana_statemachine::Revision;
use romana_statemachine::policy::describe;
use romana_statemachine::policy::evaluate::Direction;
use romana_statemachine::policy::{
    Icmp, Peer, Policy, Port, Protocol, Rule as PolicyRule, Traffic,
};

use super::model::{Action, End, Family, Match, Name, Rule};
use super::names;

/// Ports in one multiport match; a range counts as two.
const PORT_SLOTS: usize = 15;
/// iptables interprets this ICMP type as any.
const ICMP_ANY: u8 = 255;

/// A set that rules refer to, by content.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Use {
    /// Endpoints or addresses that match a peer.
    Peer(Peer),
    /// Endpoints' ports with a name.
    Port(String, Protocol),
}

impl Use {
    pub(super) fn set(&self) -> Name {
        match self {
            Self::Peer(peer) => names::peer_set(peer),
            Self::Port(name, protocol) => names::port_set(name, protocol.as_str()),
        }
    }
}

/// Chains of a policy for one family and direction.
#[derive(Clone, Debug, Default)]
pub(super) struct Built {
    pub(super) chains: Vec<(Name, Vec<Rule>)>,
    pub(super) uses: Vec<Use>,
    /// What cannot be expressed in the kernel, and is not allowed therefore.
    pub(super) problems: BTreeSet<String>,
}

/// Compiles a policy.
pub(super) fn build(
    policy: &Policy,
    revision: Revision,
    direction: Direction,
    family: Family,
) -> Built {
    let mut built = Built::default();
    let comment = format!("policy {}, revision {revision}", policy.name);
    let mut main = vec![Rule::new(Action::Count).saying(&comment)];
    let mut chains = Vec::new();
    for (place, rule) in policy.rules(direction).iter().enumerate() {
        let peers = peers(rule, direction, family, &mut built);
        let traffic = traffic(rule, family, &mut built);
        if peers.is_empty() || traffic.is_empty() {
            continue;
        }
        if peers.len() == 1 || traffic.len() == 1 {
            for (peer, saying) in &peers {
                main.extend(traffic.iter().map(|kind| marking(peer, kind, saying)));
            }
            continue;
        }
        let chain = names::rule_chain(&policy.name, direction, place);
        for (peer, saying) in peers {
            let jump = Rule { matches: peer, ..Rule::new(Action::Jump(chain.clone())) };
            main.push(jump.saying(&saying));
        }
        let kinds = traffic.iter().map(|kind| marking(&[], kind, ""));
        chains.push((chain, kinds.collect()));
    }
    built.chains.push((names::policy_chain(&policy.name, direction), main));
    built.chains.append(&mut chains);
    built
}

fn marking(peer: &[Match], kind: &[Match], saying: &str) -> Rule {
    let matches = peer.iter().chain(kind).cloned().collect();
    Rule { matches, ..Rule::new(Action::Mark) }.saying(saying)
}

type PeerMatch = (Vec<Match>, String);

/// Matches for the peers of a rule, at most one match each; peers of the other family are skipped.
fn peers(
    rule: &PolicyRule,
    direction: Direction,
    family: Family,
    built: &mut Built,
) -> Vec<PeerMatch> {
    let (end, word) = match direction {
        Direction::Ingress => (End::Source, "from"),
        Direction::Egress => (End::Destination, "to"),
    };
    let mut found = Vec::new();
    for peer in &rule.peers {
        let mut set = |peer: &Peer| {
            let wanted = Use::Peer(peer.clone());
            let set = wanted.set();
            built.uses.push(wanted);
            Match::In { set, end, not: false }
        };
        let condition = match peer {
            Peer::Any => None,
            Peer::Host => Some(Match::Own(end)),
            Peer::Local => Some(Match::In { set: names::LOCAL.into(), end, not: false }),
            Peer::Cidr { cidr, .. } if Family::of(cidr.addr()) != family => continue,
            Peer::Cidr { cidr, except } if except.is_empty() => {
                Some(Match::Net(end, *cidr)).filter(|_| cidr.prefix_len() > 0)
            }
            peer => Some(set(peer)),
        };
        found.push((condition.into_iter().collect(), format!("{word} {}", describe::peer(peer))));
    }
    found
}

/// Kinds of traffic, each as a list of matches.
fn traffic(rule: &PolicyRule, family: Family, built: &mut Built) -> Vec<Vec<Match>> {
    rule.traffic.iter().flat_map(|kind| one_traffic(kind, family, built)).collect()
}

fn one_traffic(kind: &Traffic, family: Family, built: &mut Built) -> Vec<Vec<Match>> {
    let protocol = Match::Protocol(kind.protocol);
    if kind.protocol == Protocol::Any {
        return vec![vec![]];
    }
    if let Some(Icmp { kind, code }) = kind.icmp {
        if kind == ICMP_ANY && family == Family::V4 {
            built.problems.insert("iptables cannot match ICMP type 255: not allowed".into());
            return Vec::new();
        }
        return vec![vec![protocol, Match::Icmp(kind, code)]];
    }
    if kind.ports.is_empty() {
        return vec![vec![protocol]];
    }
    let mut found = Vec::new();
    for ranges in slots(&kind.ports) {
        found.push(vec![protocol.clone(), Match::Ports(ranges)]);
    }
    for port in &kind.ports {
        let Port::Named(name) = port else { continue };
        let wanted = Use::Port(name.clone(), kind.protocol);
        let set = wanted.set();
        built.uses.push(wanted);
        let port = Match::In { set, end: End::Destination, not: false };
        found.push(vec![protocol.clone(), port]);
    }
    found
}

/// Port numbers and ranges, grouped to fit one match each.
fn slots(ports: &[Port]) -> Vec<Vec<(u16, u16)>> {
    let mut found: Vec<Vec<(u16, u16)>> = Vec::new();
    let mut left = 0;
    for port in ports {
        let (range, size) = match port {
            Port::Number(number) => ((*number, *number), 1),
            Port::Range(low, high) if low == high => ((*low, *low), 1),
            Port::Range(low, high) => ((*low, *high), 2),
            Port::Named(_) => continue,
        };
        if left < size {
            found.push(Vec::new());
            left = PORT_SLOTS;
        }
        left -= size;
        if let Some(last) = found.last_mut() {
            last.push(range);
        }
    }
    found
}

/// A range minus its exceptions, as prefixes; none has length 0.
pub(super) fn without(cidr: IpNet, except: &[IpNet]) -> Vec<IpNet> {
    let mut found = Vec::new();
    let mut left = vec![cidr];
    while let Some(net) = left.pop() {
        if except.iter().any(|part| part.contains(&net)) {
            continue;
        }
        let whole = net.prefix_len() > 0 && !except.iter().any(|part| net.contains(part));
        match net.subnets(net.prefix_len() + 1) {
            Ok(halves) if !whole => left.extend(halves),
            _ => found.push(net),
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_taken_out() {
        let net = |text: &str| -> IpNet { text.parse().unwrap() };
        let nets = |list: &[&str]| -> Vec<IpNet> { list.iter().map(|text| net(text)).collect() };
        assert_eq!(without(net("10.0.0.0/30"), &[]), nets(&["10.0.0.0/30"]));
        let found = without(net("10.0.0.0/30"), &nets(&["10.0.0.1/32"]));
        assert_eq!(found, nets(&["10.0.0.0/32", "10.0.0.2/31"]));
        assert_eq!(without(net("0.0.0.0/0"), &[]), nets(&["0.0.0.0/1", "128.0.0.0/1"]));
        assert_eq!(without(net("::/0"), &nets(&["::/1"])), nets(&["8000::/1"]));
    }

    #[test]
    fn ports_fill_the_room_of_a_condition() {
        let numbers: Vec<Port> = (1..=14).map(Port::Number).collect();
        let all = [&numbers[..], &[Port::Range(80, 90), Port::Named("x".into()), Port::Number(15)]];
        let sizes: Vec<usize> = slots(&all.concat()).iter().map(Vec::len).collect();
        assert_eq!(sizes, [14, 2]);
    }
}

//! Simulates the kernel: the path of a packet through a host's filter.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use romana_agent::ownership::LINK_PREFIX;
use romana_agent::policy::model::{Action, End, Family, Filter, Match, Member, Name, Rule, Set};
use romana_agent::policy::names;
use romana_statemachine::policy::Protocol;
use romana_statemachine::policy::party::Transport;

/// A packet at a hook.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) transport: Transport,
    pub(crate) from_link: String,
    pub(crate) to_link: String,
    pub(crate) established: bool,
}

/// A host: its filter and its addresses.
pub(crate) struct Host<'a> {
    pub(crate) filter: &'a Filter,
    pub(crate) ips: BTreeSet<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Accepted,
    Dropped,
}

impl Host<'_> {
    /// Whether a packet passes a hook (one of our chains), if the host's own rules accept everything.
    pub(crate) fn passes(&self, hook: &str, packet: &Packet) -> bool {
        let mut marked = false;
        self.walk(&hook.into(), packet, &mut marked, 0) != Some(Fate::Dropped)
    }

    fn walk(&self, chain: &Name, packet: &Packet, marked: &mut bool, depth: usize) -> Option<Fate> {
        assert!(depth < 16, "the kernel allows no deeper jumps");
        let family = Family::of(packet.source);
        let found = self.filter.chains.get(&(family, chain.clone()));
        let found = found.unwrap_or_else(|| panic!("no chain {chain} in {family:?}"));
        for rule in found.rules.iter() {
            if !self.applies(rule, packet, *marked) {
                continue;
            }
            match &rule.action {
                Action::Count | Action::Log(_) => {}
                Action::Jump(to) => {
                    if let Some(end) = self.walk(to, packet, marked, depth + 1) {
                        return Some(end);
                    }
                }
                Action::Return => return None,
                Action::Accept => return Some(Fate::Accepted),
                Action::Drop => return Some(Fate::Dropped),
                Action::Mark => *marked = true,
                Action::Unmark => *marked = false,
            }
        }
        None
    }

    fn applies(&self, rule: &Rule, packet: &Packet, marked: bool) -> bool {
        rule.matches.iter().all(|one| self.matches(one, packet, marked))
    }

    fn matches(&self, one: &Match, packet: &Packet, marked: bool) -> bool {
        let ip = |end: End| match end {
            End::Source => packet.source,
            End::Destination => packet.destination,
        };
        let link = |end: End| match end {
            End::Source => packet.from_link.as_str(),
            End::Destination => packet.to_link.as_str(),
        };
        match one {
            Match::Net(end, net) => net.contains(&ip(*end)),
            Match::Container(end) => link(*end).starts_with(LINK_PREFIX),
            Match::Loopback(end) => link(*end) == "lo",
            Match::Protocol(protocol) => port(packet).is_some_and(|(is, _)| is == *protocol),
            Match::Ports(ranges) => port(packet).is_some_and(|(_, port)| {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&port))
            }),
            Match::Icmp(kind, code) => matches!(packet.transport, Transport::Icmp(is, and)
                if is == *kind && code.is_none_or(|code| code == and)),
            Match::Established => packet.established,
            Match::Own(end) => self.ips.contains(&ip(*end)),
            Match::In { set, end, not } => {
                let key = (Family::of(packet.source), set.clone());
                let found = self.filter.sets.get(&key).unwrap_or_else(|| panic!("no set {key:?}"));
                self.is_in(set, found, ip(*end), link(*end), packet) != *not
            }
            Match::Unmarked => !marked,
        }
    }

    fn is_in(&self, name: &str, set: &Set, ip: IpAddr, link: &str, packet: &Packet) -> bool {
        if name == names::LINKS {
            return set.members.contains_key(&Member::Link(ip, link.into()));
        }
        if name.starts_with(names::PORTS) {
            let Some((protocol, port)) = port(packet) else { return false };
            return set.members.contains_key(&Member::Port(packet.destination, protocol, port));
        }
        // The longest prefix decides, as in hash:net.
        let prefixes = set.members.iter().filter_map(|(member, except)| match member {
            Member::Net(net) if net.contains(&ip) => Some((net.prefix_len(), *except)),
            _ => None,
        });
        prefixes.max_by_key(|(length, _)| *length).is_some_and(|(_, except)| !except)
    }
}

fn port(packet: &Packet) -> Option<(Protocol, u16)> {
    match packet.transport {
        Transport::Tcp(port) => Some((Protocol::Tcp, port)),
        Transport::Udp(port) => Some((Protocol::Udp, port)),
        Transport::Sctp(port) => Some((Protocol::Sctp, port)),
        Transport::Icmp(..) => Some((Protocol::Icmp, 0)),
        Transport::Other => None,
    }
}

/// Checks that every name is short enough, every set and chain that a rule refers to
/// exists, and no prefix has length 0.
pub(crate) fn check(filter: &Filter) {
    for ((family, name), set) in &filter.sets {
        assert!(name.len() < 31, "{name}");
        for member in set.members.keys() {
            let zero = matches!(member, Member::Net(net) if net.prefix_len() == 0);
            assert!(!zero, "{name}: {member}");
            let ip = match member {
                Member::Net(net) => IpNet::addr(net),
                Member::Link(ip, _) | Member::Port(ip, ..) => *ip,
            };
            assert_eq!(Family::of(ip), *family, "{name}: {member}");
        }
    }
    for ((family, name), chain) in &filter.chains {
        assert!(name.len() <= 28, "{name}");
        for rule in chain.rules.iter() {
            if let Action::Jump(to) = &rule.action {
                assert!(filter.chains.contains_key(&(*family, to.clone())), "{name}: no {to}");
            }
            for one in &rule.matches {
                if let Match::In { set, .. } = one {
                    assert!(filter.sets.contains_key(&(*family, set.clone())), "{name}: no {set}");
                }
            }
        }
    }
}

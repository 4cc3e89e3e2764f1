//! Traffic classes: the port and ICMP numbers in policies divide each protocol into parts within which every packet
//! has the same verdict.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::super::evaluate::{FAILSAFE_PORTS, NEIGHBOUR_DISCOVERY, Subject};
use super::super::party::{Party, Transport};
use super::super::{Policy, Port, Protocol, Rule};
use crate::command::NamedPort;

/// A class of packets with the same verdict, and one of them.
#[derive(Clone, Copy)]
pub(super) struct Class {
    pub(super) packet: Transport,
    span: Span,
}

/// The packets of a class.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Span {
    /// A protocol's ports, from the first to the last.
    Ports(Protocol, u16, u16),
    /// An ICMP type and code.
    Icmp(u8, u8),
    /// An ICMP type, without the codes that have classes of their own.
    IcmpType(u8),
    /// ICMP, without the types that have classes of their own.
    OtherIcmp,
    /// Neither ports nor ICMP.
    Other,
}

/// The classes of traffic between two addresses.
pub(super) struct Classes {
    all: Vec<Class>,
    /// Types and codes that have classes of their own.
    icmp: BTreeMap<u8, BTreeSet<u8>>,
}

type Cuts = BTreeMap<Protocol, BTreeSet<u32>>;
const PORTED: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

impl Classes {
    /// Divides the traffic at the boundaries that matter: those in policies that select either side, before or after,
    /// and those of the exemptions for hosts.
    pub(super) fn between<'a>(
        subjects: [&Subject<'a>; 4],
        source: &Party<'a>,
        destination: &Party<'a>,
    ) -> Self {
        let mut cuts: Cuts = PORTED.into_iter().map(|p| (p, BTreeSet::from([1]))).collect();
        let mut icmp: BTreeMap<u8, BTreeSet<u8>> = BTreeMap::new();
        let named = destination.ports();
        let policies = subjects.into_iter().flat_map(Subject::selecting);
        for traffic in policies.flat_map(rules).flat_map(|rule| &rule.traffic) {
            let cuts = cuts.entry(traffic.protocol).or_default();
            for (low, high) in traffic.ports.iter().flat_map(|port| ranges(port, named)) {
                cuts.extend([u32::from(low), u32::from(high) + 1]);
            }
            if let Some(one) = traffic.icmp {
                icmp.entry(one.kind).or_default().extend(one.code);
            }
        }
        if [source, destination].iter().any(|party| matches!(party, Party::Host(_))) {
            let tcp = cuts.entry(Protocol::Tcp).or_default();
            tcp.extend(
                FAILSAFE_PORTS.iter().flat_map(|port| [u32::from(*port), u32::from(*port) + 1]),
            );
            if subjects.iter().any(|subject| subject.ip.is_ipv6()) {
                NEIGHBOUR_DISCOVERY.for_each(|kind| {
                    icmp.entry(kind).or_default();
                });
            }
        }
        let mut all = ports(&cuts);
        all.extend(icmp_classes(&icmp));
        all.push(Class { packet: Transport::Other, span: Span::Other });
        Self { all, icmp }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Class> {
        self.all.iter()
    }

    /// Names for the given classes, in their order.
    pub(super) fn names(&self, some: &[Class]) -> Vec<String> {
        if some.len() == self.all.len() {
            return alloc::vec!["everything".into()];
        }
        let is_icmp = |class: &&Class| matches!(class.packet, Transport::Icmp(..));
        let icmp = some.iter().filter(is_icmp).count();
        let whole_icmp = icmp > 0 && icmp == self.all.iter().filter(is_icmp).count();
        let mut spans: Vec<Span> = Vec::new();
        for class in some {
            match (spans.last_mut(), class.span) {
                (Some(Span::Ports(last, _, end)), Span::Ports(protocol, low, high))
                    if *last == protocol && u32::from(*end) + 1 == u32::from(low) =>
                {
                    *end = high;
                }
                (_, span) => spans.push(span),
            }
        }
        let mut names: Vec<String> = Vec::new();
        for span in spans {
            let name = match span {
                Span::Icmp(..) | Span::IcmpType(_) | Span::OtherIcmp if whole_icmp => "icmp".into(),
                span => self.name(span),
            };
            if names.last() != Some(&name) {
                names.push(name);
            }
        }
        names
    }

    fn name(&self, span: Span) -> String {
        match span {
            Span::Ports(protocol, 1, u16::MAX) => protocol.as_str().into(),
            Span::Ports(protocol, low, high) if low == high => {
                format!("{}/{low}", protocol.as_str())
            }
            Span::Ports(protocol, low, high) => format!("{}/{low}-{high}", protocol.as_str()),
            Span::Icmp(kind, code) => format!("icmp/{kind}/{code}"),
            Span::IcmpType(kind) => match self.icmp.get(&kind).filter(|codes| !codes.is_empty()) {
                Some(codes) => format!("icmp/{kind} except code {}", list(codes)),
                None => format!("icmp/{kind}"),
            },
            Span::OtherIcmp if self.icmp.is_empty() => "icmp".into(),
            Span::OtherIcmp => format!("icmp except type {}", list(self.icmp.keys())),
            Span::Other => "other protocols".into(),
        }
    }
}

fn list<'a>(numbers: impl IntoIterator<Item = &'a u8>) -> String {
    let numbers: Vec<String> = numbers.into_iter().map(ToString::to_string).collect();
    numbers.join(" and ")
}

/// The port numbers that a port matches at a destination with these named ports.
fn ranges(port: &Port, named: &[NamedPort]) -> Vec<(u16, u16)> {
    match port {
        Port::Number(number) => alloc::vec![(*number, *number)],
        Port::Range(low, high) => alloc::vec![(*low, *high)],
        Port::Named(name) => {
            let meant = named.iter().filter(|port| port.name == *name);
            meant.map(|port| (port.port, port.port)).collect()
        }
    }
}

fn ports(cuts: &Cuts) -> Vec<Class> {
    let mut classes = Vec::new();
    for (protocol, cuts) in PORTED.iter().filter_map(|p| Some((*p, cuts.get(p)?))) {
        let ends = cuts.iter().skip(1).copied().chain([65_536]);
        for (first, next) in cuts.iter().copied().zip(ends) {
            let (Ok(low), Ok(high)) = (u16::try_from(first), u16::try_from(next - 1)) else {
                continue;
            };
            let packet = match protocol {
                Protocol::Tcp => Transport::Tcp(low),
                Protocol::Udp => Transport::Udp(low),
                _ => Transport::Sctp(low),
            };
            classes.push(Class { packet, span: Span::Ports(protocol, low, high) });
        }
    }
    classes
}

fn icmp_classes(icmp: &BTreeMap<u8, BTreeSet<u8>>) -> Vec<Class> {
    let mut classes = Vec::new();
    for (kind, codes) in icmp {
        let one = |code: &u8| Class {
            packet: Transport::Icmp(*kind, *code),
            span: Span::Icmp(*kind, *code),
        };
        classes.extend(codes.iter().map(one));
        let other = (0..=u8::MAX).find(|code| !codes.contains(code));
        classes.extend(other.map(|code| Class {
            packet: Transport::Icmp(*kind, code),
            span: Span::IcmpType(*kind),
        }));
    }
    let other = (0..=u8::MAX).find(|kind| !icmp.contains_key(kind));
    let other = other.map(|kind| Class { packet: Transport::Icmp(kind, 0), span: Span::OtherIcmp });
    classes.extend(other);
    classes
}

fn rules(policy: &Policy) -> impl Iterator<Item = &Rule> {
    policy.ingress.iter().chain(&policy.egress)
}

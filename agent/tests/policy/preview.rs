//! Compares the output of `POST /v1/policies/check`, interpreted as a reader would,
//! with the answers of `explain`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use romana_statemachine::policy::compare::{Change, Comparison, End, compare};
use romana_statemachine::policy::evaluate::{Subject, judge};
use romana_statemachine::policy::party::Transport;
use romana_statemachine::{Command, Entry, Index, Millis, Position, Proposal, State, Term};

use serde_json::Value;

use crate::cluster::Cluster;

/// Unallocated addresses on both sides of every boundary that the policies here use; some become allocated.
const STRANGERS: [&str; 28] = [
    "1.2.3.4",
    "8.8.8.7",
    "8.8.8.8",
    "8.8.8.9",
    "10.0.0.0",
    "10.0.0.1",
    "10.0.0.3",
    "10.0.0.5",
    "10.0.0.63",
    "10.0.0.64",
    "10.255.255.255",
    "172.15.0.0",
    "172.16.0.1",
    "172.16.0.2",
    "172.16.1.1",
    "172.31.0.9",
    "172.32.0.0",
    "192.168.0.1",
    "192.168.0.9",
    "192.168.1.1",
    "2001:db8::1",
    "2001:db8::2",
    "2001:db9::",
    "fd00::2",
    "fd00::ff",
    "fd00::1:0",
    "fd77::9",
    "fe80::1",
];

/// A comparison, and the states that it compares.
pub(crate) struct Preview<'a> {
    compared: &'a Comparison,
    before: &'a State,
    after: &'a State,
    known: BTreeSet<IpAddr>,
    /// All holders, and unallocated addresses on both sides of every boundary: as
    /// `verdict` sees them, before and after.
    subjects: BTreeMap<IpAddr, [Subject<'a>; 2]>,
}

/// Checks that `compare` lists, packet by packet, the verdicts that change once the policies are set, between
/// any two addresses except those that it reports as not examined.
pub(crate) fn verify(cluster: &Cluster, proposed: &[Value]) -> Result<(), String> {
    let commands: Vec<Command> =
        proposed.iter().map(|one| serde_json::from_value(one.clone()).unwrap()).collect();
    let policies = commands.iter().map(|command| match command {
        Command::SetPolicy(policy) => policy.clone(),
        _ => panic!("a policy"),
    });
    let policies: Vec<_> = policies.filter(|policy| policy.check().is_ok()).collect();
    let compared = compare(&cluster.state, &policies);
    assert!(compared.pairs_left == 0 && compared.changes.len() == compared.changed);
    assert!(compared.ranges_left.is_empty());
    let mut after = cluster.state.clone();
    let proposals = policies
        .into_iter()
        .map(|policy| Proposal { actor: "test".into(), command: Command::SetPolicy(policy) });
    let position = Position { term: Term(1), index: Index(cluster.index + 1) };
    let entry = Entry { at: Millis(u64::MAX / 2), proposals: proposals.collect() };
    after.apply(position, &entry);
    let preview = Preview::new(&compared, &cluster.state, &after);
    for (source, destination) in preview.pairs() {
        preview.check(source, destination)?;
    }
    Ok(())
}

impl<'a> Preview<'a> {
    pub(crate) fn new(compared: &'a Comparison, before: &'a State, after: &'a State) -> Self {
        let mut known: BTreeSet<IpAddr> = before.endpoints().map(|endpoint| endpoint.ip).collect();
        known.extend(before.ipam().addresses_after(None).map(|allocation| allocation.ip));
        known.extend(before.hosts().flat_map(|host| host.ips()));
        let strangers = STRANGERS.map(|ip| ip.parse::<IpAddr>().unwrap());
        let of = |ip| [before, after].map(|state| Subject::new(state, ip, state.policies()));
        let subjects = known.iter().copied().chain(strangers).map(|ip| (ip, of(ip))).collect();
        Self { compared, before, after, known, subjects }
    }

    /// All pairs of addresses.
    pub(crate) fn pairs(&self) -> Vec<(IpAddr, IpAddr)> {
        let all = self.subjects.keys();
        let pairs = all.clone().flat_map(|a| all.clone().map(move |b| (*a, *b)));
        pairs.filter(|(a, b)| a.is_ipv4() == b.is_ipv4() && a != b).collect()
    }

    /// Checks that every packet between two addresses is listed if and only if its verdict changes.
    pub(crate) fn check(&self, source: IpAddr, destination: IpAddr) -> Result<(), String> {
        let unallocated =
            |ip: &IpAddr| !self.known.contains(ip) && self.before.ipam().block_of(*ip).is_some();
        if [source, destination].iter().any(unallocated) {
            return if self.compared.unallocated { Ok(()) } else { Err("it says less".into()) };
        }
        let between: Vec<&Change> = self
            .compared
            .changes
            .iter()
            .filter(|one| {
                self.means(one.source, source) && self.means(one.destination, destination)
            })
            .collect();
        let is = |list: fn(&Change) -> &Vec<String>, packet| {
            between.iter().any(|change| list(change).iter().any(|text| says(text, packet)))
        };
        let (from, to) = (&self.subjects[&source], &self.subjects[&destination]);
        for packet in grid() {
            let [before, after] = [0, 1].map(|n| judge(&from[n], &to[n], packet).is_allowed());
            let expected = (!before && after, before && !after);
            let listed = (is(|c| &c.opens, packet), is(|c| &c.closes, packet));
            if listed != expected {
                let policies: Vec<_> = self.after.policies().collect();
                return Err(format!(
                    "{source} -> {destination} {packet:?}: (opens, closes) is {expected:?}, listed {listed:?}\n{between:#?}\n{policies:#?}"
                ));
            }
        }
        Ok(())
    }

    /// Whether an end stands for an address: the address itself, or an unallocated one of its range.
    fn means(&self, end: End, ip: IpAddr) -> bool {
        let Some(range) = end.range else { return end.ip == ip };
        let narrower = |net: &IpNet| net.contains(&ip) && net.prefix_len() > range.prefix_len();
        let unknown = !self.known.contains(&ip);
        range.contains(&ip) && unknown && !self.compared.ranges.iter().any(narrower)
    }
}

/// Whether a text of `opens` or `closes` covers a packet.
fn says(text: &str, packet: Transport) -> bool {
    let (word, rest) = text.split_once(['/', ' ']).unwrap_or((text, ""));
    let ports = |number: u16| match rest.split_once('-') {
        _ if rest.is_empty() => true,
        Some((low, high)) => (low.parse().unwrap()..=high.parse().unwrap()).contains(&number),
        None => rest.parse::<u16>().unwrap() == number,
    };
    let none_of = |list: &str, number: u8| {
        list.split(" and ").all(|one| one.parse::<u8>().unwrap() != number)
    };
    match (word, packet) {
        ("everything", _) => true,
        ("tcp", Transport::Tcp(port)) => ports(port),
        ("udp", Transport::Udp(port)) => ports(port),
        ("sctp", Transport::Sctp(port)) => ports(port),
        ("other", Transport::Other) => true,
        ("icmp", Transport::Icmp(kind, code)) => {
            if let Some(list) = rest.strip_prefix("except type ") {
                return none_of(list, kind);
            }
            let (types, codes) = rest.split_once(" except code ").unwrap_or((rest, ""));
            let (of, one) = types.split_once('/').unwrap_or((types, ""));
            (of.is_empty() || of.parse() == Ok(kind))
                && (one.is_empty() || one.parse() == Ok(code))
                && (codes.is_empty() || none_of(codes, code))
        }
        _ => false,
    }
}

/// Packets on both sides of every boundary that the policies here use.
fn grid() -> Vec<Transport> {
    use Transport::{Icmp, Other, Sctp, Tcp, Udp};
    let ports = [1, 79, 80, 81, 82, 90, 91, 9599, 9600, 9601, 9602, u16::MAX];
    let mut packets: Vec<Transport> =
        ports.into_iter().flat_map(|port| [Tcp(port), Udp(port), Sctp(port)]).collect();
    packets.extend([
        Icmp(8, 0),
        Icmp(3, 0),
        Icmp(3, 1),
        Icmp(3, 2),
        Icmp(5, 0),
        Icmp(128, 0),
        Icmp(132, 0),
        Icmp(133, 0),
        Icmp(135, 1),
        Icmp(136, 255),
        Icmp(137, 0),
        Icmp(255, 255),
        Other,
    ]);
    packets
}

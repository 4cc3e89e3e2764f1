//! Arbitrary clusters: a log, the views of two hosts, and their compiled filters.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use romana_agent::policy::compile::Compiler;
use romana_agent::policy::diff::{Changes, step};
use romana_agent::policy::inputs::{Attached, Attachments, PolicyInputs};
use romana_agent::policy::model::{Family, Style};
use romana_agent::policy::names::{FORWARD, INPUT, OUTPUT};
use romana_agent::policy::options::Options;
use romana_agent::view::View;
use romana_statemachine::policy::evaluate::{Why, verdict};
use romana_statemachine::policy::party::{Party, Transport};
use romana_statemachine::{Command, Entry, Index, Millis, Position, Proposal, State, Term};
use serde_json::{Value, json};

use crate::interpreter::{Host, Packet, check};

/// A host's agent.
pub(crate) struct Agent {
    pub(crate) name: String,
    view: Arc<View>,
    pub(crate) compiler: Compiler,
}

impl Agent {
    fn new(name: &str) -> Self {
        let view = Arc::new(View::new(name.into()));
        let world = PolicyInputs::new(Arc::clone(&view), Attachments::new()).unwrap();
        let options = Options { log: true, ..Options::default() };
        Self { name: name.into(), view, compiler: Compiler::new(&world, options) }
    }

    /// Containers with a link of ours have even addresses.
    fn world(&self) -> PolicyInputs {
        let rules = self.view.rules.as_ref().unwrap();
        let here = |ip: &IpAddr| self.is_here(*ip);
        let named = rules.endpoints.keys().copied();
        let all = named.chain(self.view.addresses.values().map(|address| address.ip)).filter(here);
        let attached = all.filter_map(|ip| {
            let link = link(ip).filter(|link| link != "tap0")?;
            let block = self.view.blocks.iter().find(|(cidr, _)| cidr.contains(&ip));
            let owner = block.map(|(_, block)| (block.tenant.clone(), block.segment.clone()));
            let (tenant, segment) = owner.unwrap_or_else(|| ("plain".into(), "s1".into()));
            let link = Some(link.as_str().into());
            Some((
                ip,
                Attached { link, tenant, segment, labels: Default::default(), is_pod: false },
            ))
        });
        PolicyInputs::new(Arc::clone(&self.view), attached.collect()).unwrap()
    }

    fn is_here(&self, ip: IpAddr) -> bool {
        let block = self.view.blocks.iter().find(|(cidr, _)| cidr.contains(&ip));
        let endpoint = self.view.rules.as_ref().unwrap().endpoints.get(&ip);
        let host = block.map(|(_, block)| &block.host);
        host.or_else(|| endpoint.map(|endpoint| &endpoint.host)) == Some(&self.view.host)
    }

    /// Compiled from scratch.
    pub(crate) fn fresh(&self) -> Compiler {
        let world = self.world();
        let mut fresh = Compiler::new(&world, Options { log: true, ..Options::default() });
        fresh.update(world);
        fresh
    }
}

fn link(ip: IpAddr) -> Option<String> {
    let last = match ip {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    };
    Some(if last % 2 == 0 { format!("romana-{last:02x}") } else { "tap0".into() })
}

/// A log, and two hosts that follow it.
pub(crate) struct Cluster {
    pub(crate) state: State,
    pub(crate) index: u64,
    agents: Vec<Agent>,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let agents = ["h1", "h2"].map(Agent::new).into_iter().collect();
        let mut new = Self { state: State::new(), index: 0, agents };
        new.tell(&json!({"SetTopology": {
            "networks": [
                {"name": "n4", "cidr": "10.0.0.0/26", "block_mask": 30},
                {"name": "n6", "cidr": "fd00::/120", "block_mask": 126}],
            "topologies": [{"networks": ["n4", "n6"], "map": [{}]}]}}));
        new.tell(
            &json!({"AddHost": {"name": "h1", "ip": "192.168.0.1", "addresses": ["fd77::1"]}}),
        );
        new.tell(
            &json!({"AddHost": {"name": "h2", "ip": "192.168.0.2", "addresses": ["fd77::2"]}}),
        );
        new
    }

    /// Proposes a command, which may be refused.
    pub(crate) fn tell(&mut self, command: &Value) {
        let command: Command = serde_json::from_value(command.clone()).unwrap();
        self.index += 1;
        let proposals = vec![Proposal { actor: "test".into(), command }];
        let entry = Entry { at: Millis(self.index * 60_000), proposals };
        let (_, records) =
            self.state.apply(Position { term: Term(1), index: Index(self.index) }, &entry);
        for agent in &mut self.agents {
            records.iter().for_each(|record| Arc::make_mut(&mut agent.view).apply(record));
        }
    }

    /// Proposes a command that must be accepted.
    pub(crate) fn must(&mut self, command: &Value) {
        let before = self.state.revision();
        self.tell(command);
        assert!(self.state.revision() > before, "refused: {command}");
    }

    /// Compiles. Returns the changes of the first host's kernel, IPv4.
    pub(crate) fn changes(&mut self) -> String {
        let before = self.agents[0].compiler.filter();
        self.update();
        let style = |family| Style { family, mark: 1, log_group: 100 };
        let Changes { before, rules, after } =
            step(&before, &self.agents[0].compiler.filter(), &style);
        let v4 = |lines: Vec<String>| {
            let name = |line: &String| line.split(' ').nth(1).unwrap_or_default().to_owned();
            lines.into_iter().filter(move |line| name(line).ends_with('4')).collect::<Vec<_>>()
        };
        let rules = rules.get(&Family::V4).cloned().unwrap_or_default();
        let mut printed = String::new();
        for line in v4(before).into_iter().chain(rules).chain(v4(after)) {
            printed.push_str("  ");
            printed.push_str(&line);
            printed.push('\n');
        }
        printed
    }

    pub(crate) fn update(&mut self) {
        for agent in &mut self.agents {
            let world = agent.world();
            agent.compiler.update(world);
            check(&agent.compiler.filter());
        }
    }

    pub(crate) fn hosts(&self) -> &[Agent] {
        &self.agents
    }

    /// Sends every packet between every two addresses.
    pub(crate) fn judge(&self) -> Result<(), String> {
        let filters: Vec<_> = self.agents.iter().map(|agent| agent.compiler.filter()).collect();
        let hosts: Vec<Host<'_>> = filters
            .iter()
            .enumerate()
            .map(|(n, filter)| {
                let ips = [format!("192.168.0.{}", n + 1), format!("fd77::{}", n + 1)];
                let ips: BTreeSet<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
                Host { filter, ips }
            })
            .collect();
        for (source, destination) in self.pairs() {
            for transport in transports(source) {
                let expected = verdict(&self.state, source, destination, transport);
                let unjudged = [&expected.egress, &expected.ingress].map(|side| side.why);
                if unjudged.contains(&Why::Itself) {
                    continue;
                }
                let found = self.passes(&hosts, source, destination, transport);
                if found != expected.is_allowed() {
                    let side = |source| Party::at(&self.state, source);
                    return Err(format!(
                        "{source} -> {destination} {transport:?}: packets {found}, {expected:#?}\n{:?}\n{:?}\n{:#?}",
                        side(source),
                        side(destination),
                        self.state.policies().collect::<Vec<_>>()
                    ));
                }
            }
        }
        Ok(())
    }

    fn passes(&self, hosts: &[Host<'_>], from: IpAddr, to: IpAddr, transport: Transport) -> bool {
        let place = |ip| {
            let party = Party::at(&self.state, ip);
            let host = party.host().map(|host| usize::from(host.as_str() == "h2"));
            (host, matches!(party, Party::Host(_)))
        };
        let wire = || "eth0".to_owned();
        let packet = |from_link: String, to_link: String| Packet {
            source: from,
            destination: to,
            transport,
            from_link,
            to_link,
            established: false,
        };
        let end = |ip| link(ip).unwrap();
        let hop = |at: usize, hook, from_link, to_link| {
            hosts[at].passes(hook, &packet(from_link, to_link))
        };
        match (place(from), place(to)) {
            ((Some(a), true), (Some(b), true)) => {
                hop(a, OUTPUT, String::new(), wire()) && hop(b, INPUT, wire(), String::new())
            }
            ((Some(a), true), (Some(b), false)) if a == b => hop(a, OUTPUT, String::new(), end(to)),
            ((Some(a), false), (Some(b), true)) if a == b => {
                hop(a, INPUT, end(from), String::new())
            }
            ((Some(a), false), (Some(b), false)) if a == b => hop(a, FORWARD, end(from), end(to)),
            (source, destination) => {
                let leaves = match source {
                    (Some(at), true) => hop(at, OUTPUT, String::new(), wire()),
                    (Some(at), false) => hop(at, FORWARD, end(from), wire()),
                    // Between addresses without a host: routed through the first host.
                    (None, _) if destination.0.is_none() => hop(0, FORWARD, wire(), wire()),
                    (None, _) => true,
                };
                let arrives = match destination {
                    (Some(at), true) => hop(at, INPUT, wire(), String::new()),
                    (Some(at), false) => hop(at, FORWARD, wire(), end(to)),
                    (None, _) => true,
                };
                leaves && arrives
            }
        }
    }

    /// All addresses with a holder, and some without.
    fn pairs(&self) -> Vec<(IpAddr, IpAddr)> {
        let mut ips: BTreeSet<IpAddr> =
            self.state.endpoints().map(|endpoint| endpoint.ip).collect();
        ips.extend(self.state.ipam().addresses_after(None).map(|allocation| allocation.ip));
        let more = [
            "192.168.0.1",
            "192.168.0.2",
            "fd77::1",
            "fd77::2",
            "172.16.1.1",
            "8.8.8.8",
            "2001:db8::1",
        ];
        ips.extend(more.map(|ip| ip.parse::<IpAddr>().unwrap()));
        let pairs = ips.iter().flat_map(|a| ips.iter().map(move |b| (*a, *b)));
        pairs.filter(|(a, b)| a.is_ipv4() == b.is_ipv4() && a != b).collect()
    }
}

fn transports(ip: IpAddr) -> Vec<Transport> {
    use Transport::{Icmp, Other, Sctp, Tcp, Udp};
    let echo = if ip.is_ipv4() { 8 } else { 128 };
    vec![
        Tcp(80),
        Tcp(81),
        Tcp(9600),
        Udp(80),
        Udp(53),
        Sctp(80),
        Icmp(echo, 0),
        Icmp(3, 1),
        Icmp(135, 0),
        Other,
    ]
}

fn tenant() -> impl Strategy<Value = &'static str> {
    select(vec!["plain", "kube", "other"])
}

/// Labels.
pub(crate) fn labels() -> impl Strategy<Value = Value> {
    subsequence(vec![("x", "1"), ("y", "1"), ("y", "2")], 0..=3).prop_map(|labels| {
        let map: serde_json::Map<String, Value> =
            labels.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect();
        Value::Object(map)
    })
}

fn selector() -> impl Strategy<Value = Value> {
    let expression = select(vec![
        json!({"In": ["x", ["1", "2"]]}),
        json!({"NotIn": ["y", ["1"]]}),
        json!({"Exists": "x"}),
        json!({"DoesNotExist": "y"}),
    ]);
    let expressions = prop::collection::vec(expression, 0..2);
    (labels(), expressions)
        .prop_map(|(labels, expressions)| json!({"labels": labels, "expressions": expressions}))
}

fn cidr() -> impl Strategy<Value = &'static str> {
    select(vec![
        "10.0.0.0/26",
        "10.0.0.0/30",
        "10.0.0.1/32",
        "10.0.0.2/31",
        "10.0.0.0/8",
        "0.0.0.0/0",
        "172.16.0.0/16",
        "172.16.0.0/12",
        "8.8.8.8/32",
        "192.168.0.0/24",
        "192.168.0.1/32",
        "fd00::/120",
        "fd00::/126",
        "::/0",
        "2001:db8::/32",
        "fd77::/64",
    ])
}

fn target() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => tenant().prop_map(|tenant| json!({"Tenant": tenant})),
        2 => tenant().prop_map(|tenant| json!({"Segment": [tenant, "s1"]})),
        4 => (tenant(), selector()).prop_map(|(tenant, selector)| json!({"Endpoints": [tenant, selector]})),
        3 => cidr().prop_map(|cidr| json!({"Cidr": cidr})),
        1 => Just(json!("Host")),
        1 => Just(json!("Local")),
    ]
}

fn peer() -> impl Strategy<Value = Value> {
    let labelled = prop_oneof![
        tenant().prop_map(|tenant| json!({"Id": tenant})),
        select(vec![json!({"Labels": {}}), json!({"Labels": {"labels": {"t": "1"}}})]),
    ];
    let except = subsequence(vec!["10.0.0.1/32", "10.0.0.4/30", "172.16.0.0/24"], 0..=3);
    prop_oneof![
        1 => Just(json!("Any")),
        2 => tenant().prop_map(|tenant| json!({"Tenant": tenant})),
        2 => tenant().prop_map(|tenant| json!({"Segment": [tenant, "s2"]})),
        4 => (labelled, selector())
            .prop_map(|(tenants, endpoints)| json!({"Endpoints": {"tenants": tenants, "endpoints": endpoints}})),
        2 => cidr().prop_map(|cidr| json!({"Cidr": {"cidr": cidr, "except": []}})),
        2 => except.prop_map(|except| json!({"Cidr": {"cidr": "0.0.0.0/0", "except": except}})),
        1 => Just(json!("Host")),
        1 => Just(json!("Local")),
    ]
}

fn traffic() -> impl Strategy<Value = Value> {
    let port =
        select(vec![json!({"Number": 80}), json!({"Range": [81, 90]}), json!({"Named": "http"})]);
    let ports = prop::collection::vec(port, 0..3);
    prop_oneof![
        1 => Just(json!({"protocol": "any"})),
        5 => (select(vec!["tcp", "udp", "sctp"]), ports)
            .prop_map(|(protocol, ports)| json!({"protocol": protocol, "ports": ports})),
        2 => select(vec![
            json!({"protocol": "icmp"}),
            json!({"protocol": "icmp", "icmp": {"kind": 8}}),
            json!({"protocol": "icmp", "icmp": {"kind": 3, "code": 1}}),
        ]),
    ]
}

fn rules() -> impl Strategy<Value = Option<Vec<Value>>> {
    let rule = (prop::collection::vec(peer(), 1..4), prop::collection::vec(traffic(), 1..4))
        .prop_map(|(peers, traffic)| json!({"peers": peers, "traffic": traffic}));
    prop::option::of(prop::collection::vec(rule, 0..3))
}

/// A policy, which need not be enforceable.
pub(crate) fn policy() -> impl Strategy<Value = Value> {
    let parts = (
        select(vec!["p", "q", "kube.kube.r", "s"]),
        prop::collection::vec(target(), 1..3),
        rules(),
        rules(),
    );
    parts.prop_map(|(name, applied_to, ingress, egress)| {
        json!({"SetPolicy": {
            "name": name, "applied_to": applied_to,
            "isolates_ingress": ingress.is_some() || egress.is_none(), "isolates_egress": egress.is_some(),
            "ingress": ingress.unwrap_or_default(), "egress": egress.unwrap_or_default()}})
    })
}

fn endpoint() -> impl Strategy<Value = Value> {
    let ip = select(vec![
        "10.0.0.0",
        "10.0.0.1",
        "10.0.0.2",
        "10.0.0.4",
        "10.0.0.5",
        "10.0.0.9",
        "fd00::",
        "fd00::1",
        "fd00::5",
        "172.16.0.5",
        "172.16.0.7",
    ]);
    let ports = select(vec![
        json!([]),
        json!([{"name": "http", "protocol": "tcp", "port": 80}]),
        json!([{"name": "http", "protocol": "tcp", "port": 81}, {"name": "http", "protocol": "udp", "port": 80}]),
    ]);
    let parts = (ip, tenant(), select(vec!["s1", "s2"]), select(vec!["h1", "h2"]), labels(), ports);
    parts.prop_map(|(ip, tenant, segment, host, labels, ports)| {
        json!({"SetEndpoint": {"ip": ip, "tenant": tenant, "segment": segment, "host": host,
            "labels": labels, "ports": ports}})
    })
}

/// A command, which may be refused.
pub(crate) fn command() -> impl Strategy<Value = Value> {
    command_about(vec!["a", "b", "c", "d", "e", "f"])
}

/// The same with pods that wait for their namespace, as containers do that are attached.
pub(crate) fn command_with_pods() -> impl Strategy<Value = Value> {
    command_about(vec!["a", "b", "c", "d", "cni:kube.p", "cni:kube.q"])
}

/// A command about addresses of these names.
fn command_about(names: Vec<&'static str>) -> impl Strategy<Value = Value> {
    let name = || select(names.clone());
    let allocate = (name(), select(vec!["h1", "h2"]), tenant(), select(vec!["s1", "s2"]), select(vec!["n4", "n4", "n6"]))
        .prop_map(|(name, host, tenant, segment, network)| {
            json!({"AllocateAddress": {"name": name, "host": host, "tenant": tenant, "segment": segment,
                "network": network}})
        });
    let tenants = select(vec![
        json!({"CreateTenant": {"id": "kube", "labels": {"kubernetes.io/metadata.name": "kube", "t": "1"}}}),
        json!({"CreateTenant": {"id": "kube", "labels": {"kubernetes.io/metadata.name": "kube"}}}),
        json!({"CreateTenant": {"id": "other", "labels": {"t": "1"}}}),
        json!({"CreateTenant": {"id": "other", "labels": {"kubernetes.io/metadata.name": "other"}}}),
    ]);
    prop_oneof![
        6 => policy(),
        1 => select(vec!["p", "q", "s"]).prop_map(|name| json!({"RemovePolicy": {"name": name}})),
        5 => endpoint(),
        1 => select(vec!["10.0.0.1", "10.0.0.4", "172.16.0.5"]).prop_map(|ip| json!({"RemoveEndpoint": {"ip": ip}})),
        5 => allocate,
        1 => name().prop_map(|name| json!({"ReleaseAddress": {"address": name}})),
        2 => tenants,
        1 => Just(json!({"EndCooldowns": {"term": 1}})),
    ]
}

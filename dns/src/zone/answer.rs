//! From a question to its answer.

use std::net::IpAddr;

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::reverse;
use super::{Host, Owner, Part, Pods, ServiceRecords, Services, Settings};
use crate::inventory::{Protocol, ServiceKind, address_label, label_address};
use crate::names::Names;

/// Version of the specification (section 2.2).
const VERSION: &str = "1.1.0";
/// Time to live of that record: as in the specification's example.
const VERSION_TTL: u32 = 28_800;
/// Weight of SRV records; all are equal.
const WEIGHT: u16 = 100;
/// Longest chain of ExternalNames within the zone.
const ALIASES_MAX: usize = 8;
/// SOA fields for secondaries, which there are none of: refresh, retry, expire (RFC 1912, 2.2).
const SOA_TIMES: (i32, i32, i32) = (7_200, 1_800, 86_400);

/// Everything that answers depend on.
#[derive(Clone, Copy, Debug)]
pub struct Zone<'a> {
    pub settings: &'a Settings,
    pub services: &'a Services,
    pub names: &'a Names,
    /// Rotates endpoints, so that clients that use the first address spread.
    pub turn: usize,
}

/// What the zone says to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The name is in none of our zones.
    NotOurs,
    Ours(Answer),
}

/// An authoritative answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Whether the name exists; NXDOMAIN if not.
    pub exists: bool,
    pub answers: Vec<Record>,
    /// SOA of a negative answer (RFC 2308, section 3).
    pub authorities: Vec<Record>,
    /// Addresses of the targets of SRV records.
    pub additionals: Vec<Record>,
    /// The name outside the zone at which a chain of aliases ends: it remains to be resolved.
    pub alias: Option<Name>,
}

/// What a name has.
#[derive(Default)]
struct Node {
    addresses: Vec<IpAddr>,
    alias: Option<Name>,
    servers: Vec<Server>,
    other: Vec<(RData, u32)>,
}

/// Target of an SRV record.
struct Server {
    port: u16,
    target: Name,
    addresses: Vec<IpAddr>,
}

impl Node {
    fn of(addresses: Vec<IpAddr>) -> Option<Self> {
        Some(Self { addresses, ..Self::default() })
    }

    /// A name that only has names below it.
    fn empty() -> Option<Self> {
        Self::of(Vec::new())
    }
}

impl Zone<'_> {
    /// Answers a question of class IN.
    #[must_use]
    pub fn answer(&self, name: &Name, kind: RecordType) -> Outcome {
        match self.relative(name) {
            Some(labels) => Outcome::Ours(self.forward(name, &labels, kind)),
            None => self.reverse(name, kind).map_or(Outcome::NotOurs, Outcome::Ours),
        }
    }

    fn forward(&self, name: &Name, labels: &[String], kind: RecordType) -> Answer {
        let (mut owner, mut labels) = (name.clone(), labels.to_vec());
        let mut answer = Answer::default();
        // A chain, or a loop: what there is of it.
        while answer.answers.len() < ALIASES_MAX && !is_alias(&answer, &owner) {
            let Some(node) = self.node(&labels) else {
                return self.negative(answer, false, &self.settings.zone);
            };
            let Some(target) = node.alias.clone().filter(|_| kind != RecordType::CNAME) else {
                return self.positive(answer, &owner, node, kind);
            };
            let alias = RData::CNAME(CNAME(target.clone()));
            answer.answers.push(self.record(owner, alias));
            answer.exists = true;
            if kind == RecordType::ANY {
                return answer;
            }
            match self.relative(&target) {
                Some(inner) => (owner, labels) = (target, inner),
                None => return Answer { alias: Some(target), ..answer },
            }
        }
        answer
    }

    fn positive(&self, mut answer: Answer, owner: &Name, node: Node, kind: RecordType) -> Answer {
        let before = answer.answers.len();
        let asked = |one: RecordType| kind == one || kind == RecordType::ANY;
        for ip in node.addresses {
            let data = address(ip);
            if asked(data.record_type()) {
                answer.answers.push(self.record(owner.clone(), data));
            }
        }
        if let Some(target) = node.alias.filter(|_| kind == RecordType::CNAME) {
            answer.answers.push(self.record(owner.clone(), RData::CNAME(CNAME(target))));
        }
        for Server { port, target, addresses } in node.servers {
            if asked(RecordType::SRV) {
                let server = SRV::new(0, WEIGHT, port, target.clone());
                answer.answers.push(self.record(owner.clone(), RData::SRV(server)));
                let more = addresses.into_iter().map(|ip| self.record(target.clone(), address(ip)));
                more.for_each(|record| {
                    if !answer.additionals.contains(&record) {
                        answer.additionals.push(record);
                    }
                });
            }
        }
        for (data, ttl) in node.other {
            if asked(data.record_type()) {
                answer.answers.push(Record::from_rdata(owner.clone(), ttl, data));
            }
        }
        answer.exists = true;
        if answer.answers.len() == before {
            return self.negative(answer, true, &self.settings.zone);
        }
        answer
    }

    /// NXDOMAIN, or NODATA: with the SOA of the zone.
    fn negative(&self, answer: Answer, exists: bool, apex: &Name) -> Answer {
        let soa = Record::from_rdata(apex.clone(), self.settings.ttl, self.soa());
        Answer { exists, authorities: vec![soa], ..answer }
    }

    fn record(&self, owner: Name, data: RData) -> Record {
        Record::from_rdata(owner, self.settings.ttl, data)
    }

    /// The labels of a name below the zone, lower case, the outermost first.
    fn relative(&self, name: &Name) -> Option<Vec<String>> {
        let mut labels = name.iter().rev();
        for ours in self.settings.zone.iter().rev() {
            if !labels.next()?.eq_ignore_ascii_case(ours) {
                return None;
            }
        }
        // A label that is no text is none of ours; the replacement character is not, either.
        let text = |label: &[u8]| String::from_utf8_lossy(label).to_ascii_lowercase();
        Some(labels.map(text).collect())
    }

    /// The node of a name; `None`: it does not exist.
    fn node(&self, labels: &[String]) -> Option<Node> {
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match labels[..] {
            [] => self.apex(),
            ["dns-version"] => {
                let text = RData::TXT(TXT::new(vec![VERSION.into()]));
                Some(Node { other: vec![(text, VERSION_TTL)], ..Node::default() })
            }
            ["dns" | "svc" | "vip" | "endpoint"] => Node::empty(),
            ["dns", "ns"] => Node::of(self.own_addresses()),
            ["svc", namespace] if self.services.has_namespace(namespace) => Node::empty(),
            ["svc", namespace, service, ref below @ ..] => {
                let records = self.services.get(namespace, service)?;
                self.service(namespace, service, records, below)
            }
            ["pod", ref below @ ..] => self.pod(below),
            ["vip", ref name @ ..] => {
                let name: Vec<&str> = name.iter().rev().copied().collect();
                let name = name.join(".");
                match self.names.vip(&name) {
                    Some(ip) => Node::of(vec![ip]),
                    None if self.names.has_vips_below(&name) => Node::empty(),
                    None => None,
                }
            }
            ["endpoint", tenant] if self.names.has_tenant(tenant) => Node::empty(),
            ["endpoint", tenant, segment] => {
                Node::of(self.rotated(&self.names.segment(tenant, segment)?))
            }
            ["endpoint", tenant, segment, name] => self.endpoint(tenant, segment, name),
            _ => None,
        }
    }

    fn apex(&self) -> Option<Node> {
        let server = Name::from_labels([b"ns".as_slice(), b"dns"]).ok()?;
        let server = server.append_domain(&self.settings.zone).ok()?;
        let ttl = self.settings.ttl;
        let other = vec![(self.soa(), ttl), (RData::NS(NS(server)), ttl)];
        Some(Node { other, ..Node::default() })
    }

    fn soa(&self) -> RData {
        let zone = &self.settings.zone;
        let below = |labels: &[&[u8]]| {
            let name = Name::from_labels(labels.iter().copied());
            name.and_then(|name| name.append_domain(zone)).unwrap_or_else(|_| zone.clone())
        };
        let (refresh, retry, expire) = SOA_TIMES;
        let serial = self.services.changes().wrapping_add(self.names.serial());
        let (server, mail) = (below(&[b"ns", b"dns"]), below(&[b"hostmaster"]));
        RData::SOA(SOA::new(server, mail, serial, refresh, retry, expire, self.settings.ttl))
    }

    /// Addresses of the DNS server.
    fn own_addresses(&self) -> Vec<IpAddr> {
        let own = &self.settings.service;
        let records = self.services.get(&own.namespace, &own.name);
        records.map_or_else(Vec::new, |records| match &records.kind {
            ServiceKind::Cluster(ips) => ips.clone(),
            _ => records.addresses.clone(),
        })
    }

    /// A Service, or a name below it.
    fn service(
        &self,
        namespace: &str,
        name: &str,
        records: &ServiceRecords,
        below: &[&str],
    ) -> Option<Node> {
        if let ServiceKind::External(target) = &records.kind {
            let alias = external(target);
            return below.is_empty().then(|| Node { alias, ..Node::default() });
        }
        match below {
            [] => Node::of(self.service_addresses(namespace, name, records)),
            [label] => match records.hosts.get(*label) {
                Some(host) => Node::of(host.addresses.clone()),
                // A protocol only has names below it.
                None => self.protocol(records, label).and_then(|_| Node::empty()),
            },
            [protocol, port] => {
                let (protocol, port) = (self.protocol(records, protocol)?, port.strip_prefix('_')?);
                let servers = self.servers(namespace, name, records, |candidate| {
                    candidate.protocol == protocol && candidate.name == port
                });
                let exists = !servers.is_empty()
                    || records.ports.iter().any(|p| p.protocol == protocol && p.name == port);
                exists.then(|| Node { servers, ..Node::default() })
            }
            _ => None,
        }
    }

    /// The protocol of a label, if the Service has a named port of it.
    fn protocol(&self, records: &ServiceRecords, label: &str) -> Option<Protocol> {
        let ports = records.hosts.values().flat_map(|host| &host.ports);
        let mut all = records.ports.iter().chain(ports);
        all.find(|port| port.protocol.label() == label).map(|port| port.protocol)
    }

    /// What the name of a Service answers: its parts as configured.
    fn service_addresses(
        &self,
        namespace: &str,
        name: &str,
        records: &ServiceRecords,
    ) -> Vec<IpAddr> {
        let headless = records.kind == ServiceKind::Headless;
        let mut found: Vec<IpAddr> = Vec::new();
        if headless {
            found.extend(self.rotated(&records.addresses));
        }
        for part in &self.settings.parts {
            match (part, &records.kind) {
                (Part::Endpoint, ServiceKind::Cluster(_)) => {
                    found.extend(self.rotated(&records.addresses));
                }
                (Part::ClusterIp, ServiceKind::Cluster(ips)) => found.extend(ips),
                (Part::Vip, _) => {
                    let shared = records.shared_vip.iter().flat_map(|vip| self.names.vips_of(vip));
                    found.extend(shared);
                    found.extend(self.names.vips_of(&format!("{name}.{namespace}")));
                }
                _ => {}
            }
        }
        // A Service on the node's network may have its VIP as an endpoint.
        let mut seen = std::collections::BTreeSet::new();
        found.retain(|ip| seen.insert(*ip));
        found
    }

    fn servers(
        &self,
        namespace: &str,
        name: &str,
        records: &ServiceRecords,
        wanted: impl Fn(&crate::inventory::Port) -> bool,
    ) -> Vec<Server> {
        let target = |host: Option<&str>| self.name_of(namespace, name, host);
        if records.kind == ServiceKind::Headless {
            let hosts = records.hosts.iter();
            let each = |(label, host): (&String, &Host)| {
                let ports = host.ports.iter().filter(|port| wanted(port));
                let of = |port: &crate::inventory::Port| {
                    let (target, addresses) = (target(Some(label))?, host.addresses.clone());
                    Some(Server { port: port.number, target, addresses })
                };
                ports.filter_map(of).collect::<Vec<_>>()
            };
            return hosts.flat_map(each).collect();
        }
        let ports = records.ports.iter().filter(|port| wanted(port));
        let of = |port: &crate::inventory::Port| {
            let addresses = self.service_addresses(namespace, name, records);
            Some(Server { port: port.number, target: target(None)?, addresses })
        };
        ports.filter_map(of).collect()
    }

    /// `HOST.SERVICE.NAMESPACE.svc.ZONE`; `None` if that is too long for a name.
    fn name_of(&self, namespace: &str, service: &str, host: Option<&str>) -> Option<Name> {
        let labels = host.into_iter().chain([service, namespace, "svc"]);
        self.below_zone(labels)
    }

    fn below_zone<'a>(&self, labels: impl Iterator<Item = &'a str>) -> Option<Name> {
        let name = Name::from_labels(labels.map(str::as_bytes)).ok()?;
        name.append_domain(&self.settings.zone).ok()
    }

    fn pod(&self, below: &[&str]) -> Option<Node> {
        let known =
            |tenant: &str| self.services.has_namespace(tenant) || self.names.has_tenant(tenant);
        match (self.settings.pods, below) {
            (Pods::Disabled, _) => None,
            (_, []) => Node::empty(),
            (_, [namespace]) if known(namespace) => Node::empty(),
            (Pods::Insecure, [namespace, label]) if known(namespace) => {
                Node::of(vec![label_address(label)?])
            }
            (Pods::Verified, [namespace, label]) => {
                let ip = label_address(label)?;
                (self.names.tenant_of(ip) == Some(*namespace)).then(|| Node::of(vec![ip]))?
            }
            _ => None,
        }
    }

    /// An endpoint of a segment, by its name or by its address.
    fn endpoint(&self, tenant: &str, segment: &str, name: &str) -> Option<Node> {
        let named = self.names.named(tenant, segment, name);
        let by_address = || {
            let ip = label_address(name)?;
            self.names.segment(tenant, segment)?.contains(&ip).then(|| vec![ip])
        };
        Node::of(named.or_else(by_address)?)
    }

    fn rotated(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let mut addresses = addresses.to_vec();
        if !addresses.is_empty() {
            let by = self.turn % addresses.len();
            addresses.rotate_left(by);
        }
        addresses
    }

    /// The name of an address. `None`: it has none, and is in none of our networks.
    fn reverse(&self, name: &Name, kind: RecordType) -> Option<Answer> {
        let network = reverse::network(name)?;
        let within = self.settings.reverse.iter().find(|ours| ours.contains(&network));
        let apex = within.map_or_else(|| name.clone(), |ours| reverse::apex(*ours));
        if network.prefix_len() < network.max_prefix_len() {
            // Part of an address: there are names below it.
            return within.map(|_| self.negative(Answer::default(), true, &apex));
        }
        let found = self.pointers(network.addr());
        if found.is_empty() {
            return within.map(|_| self.negative(Answer::default(), false, &apex));
        }
        if !matches!(kind, RecordType::PTR | RecordType::ANY) {
            return Some(self.negative(Answer::default(), true, &apex));
        }
        let records = found.into_iter().map(|name_of| RData::PTR(PTR(name_of)));
        let answers = records.map(|data| self.record(name.clone(), data)).collect();
        Some(Answer { exists: true, answers, ..Answer::default() })
    }

    fn pointers(&self, ip: IpAddr) -> Vec<Name> {
        let of =
            |owner: &Owner| self.name_of(&owner.namespace, &owner.service, owner.host.as_deref());
        let mut found: Vec<Name> = self.services.owners(ip).filter_map(of).collect();
        if let Some(vip) = self.names.vip_at(ip) {
            // A further VIP of a Service has a number behind the name of the first.
            let is_further =
                |(first, last): &(&str, &str)| first.contains('.') && last.parse::<u8>().is_ok();
            let first = vip.rsplit_once('.').filter(is_further);
            let service = first.map_or(vip, |(first, _)| first).split_once('.');
            let exists =
                |(name, namespace): &(&str, &str)| self.services.get(namespace, name).is_some();
            found.extend(match service.filter(exists) {
                Some((name, namespace)) => self.name_of(namespace, name, None),
                None => self.below_zone(vip.split('.').chain(["vip"])),
            });
        }
        if found.is_empty()
            && let Some((tenant, segment, name)) = self.names.at(ip)
        {
            let label = name.map_or_else(|| address_label(ip), str::to_owned);
            found.extend(self.below_zone([&*label, segment, tenant, "endpoint"].into_iter()));
        }
        found
    }
}

/// Whether an answer already says what a name is an alias of.
fn is_alias(answer: &Answer, name: &Name) -> bool {
    answer.answers.iter().any(|record| record.name == *name)
}

/// The target of an ExternalName. It is a name even if it looks like an address.
fn external(target: &str) -> Option<Name> {
    let mut name = Name::from_ascii(target).ok()?;
    name.set_fqdn(true);
    (!name.is_root()).then_some(name)
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

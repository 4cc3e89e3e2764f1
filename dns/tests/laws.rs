//! Laws, for arbitrary packets, clusters and questions.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, SOA};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use romana_client::mirror::View;
use romana_dns::catalogue::{Catalogue, Change};
use romana_dns::forward::cache::{Cache, Key, Kind, Lookup, lifetime};
use romana_dns::forward::exchange::Request as Asked;
use romana_dns::inventory::{Backend, Group, Port, Protocol, Service, ServiceKind, Slice};
use romana_dns::metrics::{Metrics, Transport};
use romana_dns::names::Names;
use romana_dns::serve::limit::Limiter;
use romana_dns::serve::{Server, Step};
use romana_dns::wire::{self, Request};
use romana_dns::zone::{Answer, Outcome, Services, Settings, Zone};
use serde_json::json;
use tokio::sync::watch;

const TYPES: [RecordType; 9] = [
    RecordType::A,
    RecordType::AAAA,
    RecordType::CNAME,
    RecordType::SRV,
    RecordType::PTR,
    RecordType::TXT,
    RecordType::SOA,
    RecordType::ANY,
    RecordType::MX,
];

fn ips() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0..6_u8).prop_map(|last| IpAddr::from([10, 0, 0, last])),
        (0..3_u16).prop_map(|last| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last])),
    ]
}

fn ports() -> impl Strategy<Value = Vec<Port>> {
    let protocols = select(vec![Protocol::Tcp, Protocol::Udp]);
    vec((select(vec!["a", "b"]), protocols, 1..3_u16), 0..3).prop_map(|ports| {
        let port = |(name, protocol, number)| Port { name: String::from(name), protocol, number };
        ports.into_iter().map(port).collect()
    })
}

fn services() -> impl Strategy<Value = Service> {
    let kinds = prop_oneof![
        vec(ips(), 0..3).prop_map(ServiceKind::Cluster),
        Just(ServiceKind::Headless),
        select(vec![
            "www.example.com",
            "s0.n0.svc.cluster.local",
            "s1.n0.svc.cluster.local",
            "",
            "."
        ])
        .prop_map(|name| ServiceKind::External(name.into())),
    ];
    (kinds, ports(), any::<bool>()).prop_map(|(kind, ports, publish_not_ready)| Service {
        kind,
        ports,
        publish_not_ready,
        shared_vip: None,
    })
}

fn slices() -> impl Strategy<Value = Slice> {
    let hostname = proptest::option::of(select(vec!["h1", "h2", "H1"]));
    let backend =
        (vec(ips(), 0..3), hostname, any::<bool>()).prop_map(|(addresses, name, ready)| Backend {
            addresses,
            hostname: name.map(Into::into),
            ready,
        });
    let group =
        (ports(), vec(backend, 0..4)).prop_map(|(ports, backends)| Group { ports, backends });
    (select(vec!["s0", "s1", "s2"]), vec(group, 0..3))
        .prop_map(|(service, groups)| Slice { service: service.into(), groups })
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let (namespace, name) = (select(vec!["n0", "n1"]), select(vec!["s0", "s1", "s2"]));
    let change = prop_oneof![
        (namespace.clone(), any::<bool>())
            .prop_map(|(name, on)| Change::Namespace(name.into(), on)),
        (namespace.clone(), name.clone(), proptest::option::of(services()))
            .prop_map(|(namespace, name, one)| Change::Service(namespace.into(), name.into(), one)),
        (namespace, name, proptest::option::of(slices()))
            .prop_map(|(namespace, name, one)| Change::Slice(namespace.into(), name.into(), one)),
    ];
    vec(change, 0..40)
}

/// Names in and around the zones.
fn names() -> impl Strategy<Value = Name> {
    let word = select(vec![
        "n0",
        "n1",
        "s0",
        "s1",
        "s2",
        "h1",
        "10-0-0-1",
        "_a",
        "_tcp",
        "_udp",
        "svc",
        "pod",
        "vip",
        "dns",
        "ns",
        "endpoint",
        "cluster",
        "local",
        "dns-version",
        "web",
        "x",
        "arpa",
        "in-addr",
        "10",
        "0",
        "1",
        "*",
        "a.b",
        "\u{ad}",
    ]);
    let suffix = select(vec![
        "svc.cluster.local",
        "cluster.local",
        "n0.svc.cluster.local",
        "s0.n0.svc.cluster.local",
        "pod.cluster.local",
        "0.0.10.in-addr.arpa",
        "example.com",
    ]);
    // Labels as bytes: with dots and bytes that are no text.
    (vec(word, 0..5), suffix).prop_map(|(words, suffix)| {
        let labels = words.into_iter().chain(suffix.split('.')).map(str::as_bytes);
        Name::from_labels(labels).unwrap()
    })
}

fn feed() -> Names {
    let snapshot = json!({
        "revision": 7,
        "vips": [
            {"name": "s0.n0", "ip": "192.168.0.1", "candidates": [], "holder": null},
            {"name": "web", "ip": "192.168.0.2", "candidates": [], "holder": null},
        ],
        "endpoints": [{"ip": "10.0.0.1", "tenant": "n0", "segment": "s0", "host": "h"}],
        "addresses": [{"name": "x", "ip": "10.0.0.2", "tenant": "n0", "segment": "s0", "host": "h"}],
    });
    Names::default().restart(&serde_json::from_value(snapshot).unwrap()).unwrap()
}

fn ask(services: &Services, feed: &Names, name: &Name, kind: RecordType) -> Outcome {
    let settings = Settings::default();
    Zone { settings: &settings, services, names: feed, turn: 0 }.answer(name, kind)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The zone depends on the objects that there are, not on how they came.
    #[test]
    fn changes_lead_to_the_zone_of_what_is_left(changes in changes(), names in vec(names(), 20)) {
        let mut changed = Catalogue::default();
        changes.into_iter().for_each(|change| changed.apply(change));
        let fresh = Catalogue::new(changed.inventory().clone());
        let mut replaced = changed.clone();
        replaced.replace(fresh.inventory().clone());
        prop_assert_eq!(replaced.services().changes(), changed.services().changes());
        prop_assert_eq!(fresh.services().count(), changed.services().count());
        let feed = feed();
        for name in &names {
            for kind in TYPES {
                let without_serial = |outcome| match outcome {
                    Outcome::Ours(answer) => {
                        let Answer { exists, answers, additionals, alias, .. } = answer;
                        let soa = |record: &Record| record.record_type() != RecordType::SOA;
                        let answers: Vec<Record> = answers.into_iter().filter(soa).collect();
                        Some((exists, answers, additionals, alias))
                    }
                    Outcome::NotOurs => None,
                };
                let one = without_serial(ask(changed.services(), &feed, name, kind));
                let other = without_serial(ask(fresh.services(), &feed, name, kind));
                prop_assert_eq!(one, other, "{} {}", name, kind);
            }
        }
    }

    #[test]
    fn answers_are_about_the_question(changes in changes(), names in vec(names(), 20)) {
        let mut catalogue = Catalogue::default();
        changes.into_iter().for_each(|change| catalogue.apply(change));
        let (zone, feed) = (Settings::default().zone, feed());
        let ask = |name: &Name, kind| ask(catalogue.services(), &feed, name, kind);
        for name in &names {
            let mut existence = Vec::new();
            for kind in TYPES {
                let outcome = ask(name, kind);
                let reverse = name.to_ascii().to_lowercase().ends_with(".arpa.");
                prop_assert!(reverse || matches!(outcome, Outcome::Ours(_)) == zone.zone_of(name), "{name}");
                let Outcome::Ours(answer) = outcome else { continue };
                // Each record is of the name, or of where its aliases lead.
                let mut owner = name.clone();
                for record in &answer.answers {
                    prop_assert_eq!(&record.name, &owner);
                    match &record.data {
                        RData::CNAME(CNAME(target)) => owner = target.clone(),
                        data => prop_assert!(kind == RecordType::ANY || data.record_type() == kind),
                    }
                }
                let has_alias = answer.answers.iter().any(|record| record.record_type() == RecordType::CNAME);
                if !has_alias {
                    existence.push(answer.exists);
                }
                // A negative answer says for how long (RFC 2308); no answer says that a name is there and not.
                let negative = answer.answers.is_empty() || !answer.exists;
                prop_assert!(!negative || answer.authorities.len() == 1, "{name} {kind}: {answer:?}");
                prop_assert!(answer.exists || answer.additionals.is_empty());
            }
            existence.dedup();
            prop_assert!(existence.len() <= 1, "{name} exists for some types only");
            // What has names below it exists (RFC 8020).
            let above = name.base_name();
            if existence == [true] && zone.zone_of(&above) {
                let Outcome::Ours(answer) = ask(&above, RecordType::MX) else { panic!("{above}") };
                prop_assert!(answer.exists, "{name} exists, and {above} does not");
            }
        }
    }

    /// No packet makes the server panic; what it sends is an answer with the packet's id, within bounds.
    #[test]
    fn any_packet_is_answered_or_dropped(packet in vec(any::<u8>(), 0..600), tcp: bool) {
        check_packet(&packet, tcp)?;
    }

    #[test]
    fn a_spoilt_question_is_answered_or_dropped(
        name in names(), kind in select(TYPES.to_vec()), edns in proptest::option::of(any::<u16>()),
        spoilt in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), tcp: bool,
    ) {
        let mut packet = question(&name, kind, edns).to_vec().unwrap();
        for (at, byte) in spoilt {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        check_packet(&packet, tcp)?;
    }

    #[test]
    fn messages_fit_and_say_when_they_are_not_whole(
        many in 0..300_u32, edns in proptest::option::of(any::<u16>()), max in 512..4_000_u16,
    ) {
        let name = Name::from_ascii("WwW.eXample.com.").unwrap();
        let asked = question(&name, RecordType::A, edns).to_vec().unwrap();
        let Request::Question(question) = wire::read(&asked) else { panic!("a question") };
        let record = |at: u32| Record::from_rdata(name.clone(), 5, RData::A(A((0x0a00_0000 + at).into())));
        let answer = Answer { exists: true, answers: (0..many).map(record).collect(), ..Answer::default() };
        let message = question.authoritative(answer, true);
        let whole = message.to_vec().unwrap().len();
        let bytes = wire::encode(message, max).unwrap();
        prop_assert!(bytes.len() <= usize::from(max));
        let read = Message::from_vec(&bytes).unwrap();
        prop_assert_eq!(read.metadata.truncation, whole > usize::from(max));
        prop_assert_eq!(read.answers.len() == many as usize, whole <= usize::from(max));
        // As many as fit: another one is 16 bytes, and hickory wants room for the name before it is compressed.
        let another = 16 + name.len();
        let short = || format!("{} bytes of {max}, {} of {many} answers", bytes.len(), read.answers.len());
        prop_assert!(whole <= usize::from(max) || bytes.len() + another > usize::from(max), "{}", short());
        prop_assert_eq!(read.edns.is_some(), edns.is_some());
        prop_assert!(read.queries[0].name.eq_case(&name) && read.answers.iter().all(|one| one.name.eq_case(&name)));
        prop_assert!((512..=1_232).contains(&question.udp_bytes()));
    }

    /// The cache never has more than it may, and never an answer that is older than it says.
    #[test]
    fn the_cache_is_bounded_and_honest(
        size in 0..20_usize, steps in vec((0..40_u8, 0..90_u64, any::<bool>(), 0..100_u32), 1..200),
    ) {
        let (mut cache, mut now) = (Cache::new(size), Instant::now());
        for (at, seconds, insert, ttl) in steps {
            now += Duration::from_secs(seconds);
            let name = Name::from_ascii(format!("n{at}.")).unwrap();
            let (lower, kind) = (LowerName::from(&name), RecordType::A);
            let key = Key { name: lower, kind, dnssec: false, unchecked: false };
            if insert {
                let mut message = Message::new(0, MessageType::Response, OpCode::Query);
                message.add_answer(Record::from_rdata(name, ttl, RData::A(A::new(1, 2, 3, 4))));
                cache.insert(key, Arc::new(message), now);
            } else {
                match cache.get(&key, now) {
                    Lookup::Fresh(message, _) => prop_assert!((1..100).contains(&message.answers[0].ttl)),
                    Lookup::Stale(message) => prop_assert_eq!(message.answers[0].ttl, 30),
                    Lookup::Missing => {}
                }
            }
            prop_assert!(cache.len() <= size + 1, "{} of {size}", cache.len());
        }
    }

    /// An upstream's packet, whatever it is, is the answer to the request or nothing.
    #[test]
    fn answers_of_upstreams_match_their_request(
        noise in vec(any::<u8>(), 0..300), other in any::<u16>(), random_case: bool,
    ) {
        let name = Name::from_ascii("www.a-name-with-many-letters.example.").unwrap();
        let key = Key { name: (&name).into(), kind: RecordType::A, dnssec: true, unchecked: false };
        let asked = Asked::new(&key, random_case).unwrap();
        prop_assert!(asked.answer(&noise).is_none());
        let mut right = Message::from_vec(asked.bytes()).unwrap();
        prop_assert!(asked.answer(asked.bytes()).is_none(), "a question is no answer");
        right.metadata.message_type = MessageType::Response;
        prop_assert!(asked.answer(&right.to_vec().unwrap()).is_some());
        let changed = |change: &dyn Fn(&mut Message)| {
            let mut message = right.clone();
            change(&mut message);
            asked.answer(&message.to_vec().unwrap()).is_none()
        };
        let id = right.metadata.id;
        prop_assert!(id == other || changed(&|message| message.metadata.id = other));
        prop_assert!(changed(&|message| message.queries[0].query_type = RecordType::AAAA));
        prop_assert!(changed(&|message| message.queries.clear()));
        prop_assert!(changed(&|message| message.queries[0].name = Name::root()));
        let spelt = right.queries[0].name.to_ascii();
        let swapped: String = spelt.chars().map(|c| {
            if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() }
        }).collect();
        let swapped = Name::from_ascii(swapped).unwrap();
        prop_assert_eq!(changed(&|message| message.queries[0].name = swapped.clone()), random_case);
    }
}

fn question(name: &Name, kind: RecordType, edns: Option<u16>) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.clone(), kind));
    if let Some(size) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        message.set_edns(edns);
    }
    message
}

fn server() -> Server {
    let mut catalogue = Catalogue::default();
    let backends = (0..200_u8).map(|last| Backend {
        addresses: vec![IpAddr::from([10, 0, 0, last])],
        hostname: None,
        ready: true,
    });
    let port = Port { name: "a".into(), protocol: Protocol::Tcp, number: 1 };
    let group = Group { ports: vec![port.clone()], backends: backends.collect() };
    let slice = Slice { service: "s0".into(), groups: vec![group] };
    let kind = ServiceKind::Headless;
    let ports = vec![port];
    let service = Service { kind, ports, publish_not_ready: false, shared_vip: None };
    catalogue.apply(Change::Service("n0".into(), "s0".into(), Some(service)));
    catalogue.apply(Change::Slice("n0".into(), "s0".into(), Some(slice)));
    let services = watch::Sender::new(Some(catalogue.services().clone()));
    Server {
        settings: Settings::default(),
        services: Some(services.subscribe()),
        feed: None,
        forwarder: None,
        allow: Vec::new(),
        limiter: Mutex::new(Limiter::new(0)),
        metrics: Arc::new(Metrics::default()),
        turn: AtomicUsize::new(0),
    }
}

fn check_packet(packet: &[u8], tcp: bool) -> Result<(), TestCaseError> {
    let client = SocketAddr::from(([127, 0, 0, 1], 5_000));
    let transport = if tcp { Transport::Tcp } else { Transport::Udp };
    match server().begin(packet, client, transport) {
        Step::Reply(bytes) => {
            prop_assert_eq!(&bytes[..2], &packet[..2]);
            prop_assert!(bytes[2] & 0x80 != 0 && packet[2] & 0x80 == 0);
            prop_assert!(tcp || bytes.len() <= 1_232, "{} bytes", bytes.len());
            let said = Message::from_vec(packet).ok().and_then(|message| message.edns);
            prop_assert!(tcp || said.is_some() || bytes.len() <= 512);
            let answer = Message::from_vec(&bytes);
            prop_assert!(answer.is_ok(), "{answer:?}");
        }
        Step::Nothing => {}
        Step::Ask(_) => prop_assert!(false, "there is nobody to ask"),
    }
    Ok(())
}

#[test]
fn what_is_kept_and_for_how_long() {
    let name = Name::from_ascii("a.example.").unwrap();
    let message = |code| {
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        message.metadata.response_code = code;
        message
    };
    let address = |ttl| Record::from_rdata(name.clone(), ttl, RData::A(A::new(1, 2, 3, 4)));
    let alias = |ttl| Record::from_rdata(name.clone(), ttl, RData::CNAME(CNAME(name.clone())));
    let soa = |ttl, minimum| {
        let soa = SOA::new(name.clone(), name.clone(), 1, 1, 1, 1, minimum);
        Record::from_rdata(name.clone(), ttl, RData::SOA(soa))
    };
    let of = |code, answers: Vec<Record>, authorities: Vec<Record>| {
        let mut message = message(code);
        message.answers = answers;
        message.authorities = authorities;
        lifetime(&message, RecordType::A)
    };
    let (fine, none) = (ResponseCode::NoError, ResponseCode::NXDomain);
    assert_eq!(of(fine, vec![alias(20), address(60)], vec![]), Some((Kind::Success, 20)));
    assert_eq!(of(fine, vec![address(999_999)], vec![]), Some((Kind::Success, 3_600)));
    assert_eq!(of(fine, vec![address(0)], vec![]), None);
    // RFC 2308, section 5: the smaller of the SOA's own time and its minimum; nothing without a SOA.
    assert_eq!(of(none, vec![], vec![soa(50, 30)]), Some((Kind::Denial, 30)));
    assert_eq!(of(fine, vec![], vec![soa(10, 30)]), Some((Kind::Denial, 10)));
    assert_eq!(of(fine, vec![alias(5)], vec![soa(10, 30)]), Some((Kind::Denial, 5)));
    assert_eq!(of(fine, vec![alias(5)], vec![]), None);
    assert_eq!(of(none, vec![], vec![]), None);
    assert_eq!(of(ResponseCode::ServFail, vec![], vec![]), Some((Kind::Failure, 1)));
    let mut cut = message(fine);
    cut.metadata.truncation = true;
    cut.answers = vec![address(60)];
    assert_eq!(lifetime(&cut, RecordType::A), None);
}

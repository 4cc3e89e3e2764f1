//! Names of others: forwarded, kept, and what happens when an upstream does not answer.

use std::net::UdpSocket;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::api::Api;
use crate::records::fill;
use crate::support::{Dns, PATIENCE, Upstream, question, until};

fn reply(request: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::new(request.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.response_code = code;
    reply.metadata.recursion_available = true;
    reply.add_queries(request.queries.clone());
    reply
}

/// `www.…` has an address, `short.…` one for a second, `many.…` a hundred; most else does not exist.
pub(crate) fn example(request: &Message) -> Option<Message> {
    let query = &request.queries[0];
    let first = String::from_utf8_lossy(query.name.iter().next().unwrap_or_default());
    let address =
        |at: u8, ttl| Record::from_rdata(query.name.clone(), ttl, RData::A(A::new(192, 0, 2, at)));
    let mut answer = reply(request, ResponseCode::NoError);
    match &*first.to_ascii_lowercase() {
        "" => {}
        // It has no other records, and says so without a SOA.
        "www" if query.query_type != RecordType::A => {}
        "www" => _ = answer.add_answer(address(1, 300)),
        "short" => _ = answer.add_answer(address(2, 1)),
        "many" => (0..100).for_each(|at| _ = answer.add_answer(address(at, 300))),
        "failing" => return Some(reply(request, ResponseCode::ServFail)),
        "silent" => return None,
        _ => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            let zone = Name::from_ascii("example.com.").unwrap();
            let soa = SOA::new(zone.clone(), zone.clone(), 1, 1, 1, 1, 60);
            answer.add_authority(Record::from_rdata(zone, 300, RData::SOA(soa)));
        }
    }
    Some(answer)
}

fn failing(request: &Message) -> Option<Message> {
    Some(reply(request, ResponseCode::ServFail))
}

/// A server that answers in lower case, whatever it was asked, and with wrong ids first.
fn careless(request: &Message) -> Option<Message> {
    let mut answer = example(request)?;
    let lower = |name: &Name| name.to_lowercase();
    answer.queries.iter_mut().for_each(|query| query.name = lower(&query.name));
    answer.answers.iter_mut().for_each(|record| record.name = lower(&record.name));
    Some(answer)
}

fn start(upstreams: &[&Upstream], arguments: &[&str]) -> (Api, tempfile::TempDir, Dns) {
    let (api, dir) = (Api::start(), tempfile::tempdir().unwrap());
    fill(&api);
    let to: Vec<String> = upstreams.iter().map(|one| one.address.to_string()).collect();
    let dns = Dns::follow(&api, &dir, &[&["--upstream", &*to.join(",")], arguments].concat());
    (api, dir, dns)
}

#[test]
fn answers_and_their_absence_are_kept() {
    let upstream = Upstream::start(example);
    let (_api, _dir, dns) = start(&[&upstream], &[]);
    for (asked, code) in [("www.example.com A", "NOERROR"), ("no.example.com A", "NXDOMAIN")] {
        let before = upstream.asked();
        for _ in 0..3 {
            assert_eq!(dns.status(asked).0, code);
        }
        assert_eq!(upstream.asked(), before + 1, "{asked}");
    }
    // NODATA without SOA is not kept.
    let before = upstream.asked();
    dns.dig("www.example.com AAAA");
    dns.dig("www.example.com AAAA");
    assert_eq!(upstream.asked(), before + 2);
    let text = dns.dig("www.example.com A");
    assert!(text.contains("flags: qr rd ra;"), "{text}");
}

/// A truncated answer is asked for again by TCP; what a client takes by UDP is another matter.
#[test]
fn long_answers_are_whole_and_a_failure_is_told() {
    let upstream = Upstream::start(example);
    let (_api, _dir, dns) = start(&[&upstream], &[]);
    assert_eq!(dns.short("+tcp many.example.com A").len(), 100);
    assert_eq!(dns.short("+noedns many.example.com A").len(), 100, "dig asks again by TCP");
    assert!(dns.status("+ignore +noedns many.example.com A").1.contains("tc"));
    assert_eq!(upstream.asked(), 1);
    assert_eq!(dns.status("failing.example.com A").0, "SERVFAIL");
    // Who asks for DNSSEC records is answered in kind.
    let text = dns.dig("+dnssec www.example.com A");
    assert!(text.contains("flags: do;"), "{text}");
}

/// The same question, many times at once: it is asked once.
#[test]
fn a_question_under_way_is_not_asked_again() {
    let upstream = Upstream::start(example);
    let (_api, _dir, dns) = start(&[&upstream], &[]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(dns.address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    for id in 0..100 {
        socket.send(&question(id, "www.same.example.com.", RecordType::A)).unwrap();
    }
    let mut buffer = [0; 512];
    for _ in 0..100 {
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(Message::from_vec(&buffer[..length]).unwrap().answers.len(), 1);
    }
    assert_eq!(upstream.asked(), 1);
}

#[test]
fn an_upstream_that_is_silent_or_fails_is_passed_over() {
    let (first, second) = (Upstream::start(failing), Upstream::start(example));
    first.set_silent(true);
    let (_api, _dir, dns) = start(&[&first, &second], &[]);
    for at in 0..4 {
        let name = format!("www.a{at}.example.com A");
        assert_eq!(dns.short(&name), ["192.0.2.1"]);
    }
    until("it to be down", || dns.get("/metrics").1.contains("romana_dns_upstreams_down 1"));
    // It answers again, but only failures.
    first.set_silent(false);
    until("it to be up", || dns.get("/metrics").1.contains("romana_dns_upstreams_down 0"));
    for at in 4..8 {
        assert_eq!(dns.short(&format!("www.a{at}.example.com A")), ["192.0.2.1"]);
    }
    assert!(first.asked() > 0);
}

#[test]
fn without_any_upstream_our_names_and_what_is_known_are_answered() {
    let upstream = Upstream::start(example);
    let (_api, _dir, dns) = start(&[&upstream], &[]);
    assert_eq!(dns.short("short.example.com A"), ["192.0.2.2"]);
    upstream.set_silent(true);
    until("it to be down", || {
        assert_eq!(dns.status("silent.example.com A").0, "SERVFAIL");
        dns.get("/metrics").1.contains("romana_dns_upstreams_down 1")
    });
    // Long over, but better than nothing (RFC 8767).
    until("a stale answer", || {
        assert_eq!(dns.short("short.example.com A"), ["192.0.2.2"]);
        dns.get("/metrics").1.lines().any(|line| {
            line.strip_prefix("coredns_cache_served_stale_total ").is_some_and(|n| n != "0")
        })
    });
    assert_eq!(dns.short("web.shop.svc.cluster.local A"), ["10.1.0.9", "10.96.0.5"]);
    assert_eq!((dns.get("/healthz").0, dns.get("/readyz").0), (200, 200));
    assert!(dns.get("/status").1.contains("no upstream answers"));
    upstream.set_silent(false);
    until("it to be back", || dns.short("www.back.example.com A") == ["192.0.2.1"]);
}

/// Without the spelling of the question, an answer may be forged: it is no answer.
#[test]
fn answers_must_repeat_a_random_case() {
    let upstream = Upstream::start(careless);
    let (_api, _dir, dns) = start(&[&upstream], &["--random-case"]);
    assert_eq!(dns.status("www.a-long-name-with-many-letters.example.com A").0, "SERVFAIL");
    let (_api, _dir, dns) = start(&[&upstream], &[]);
    assert_eq!(dns.short("www.a-long-name-with-many-letters.example.com A"), ["192.0.2.1"]);
}

#[test]
fn no_recursion_for_clients_of_other_networks() {
    let upstream = Upstream::start(example);
    let (_api, _dir, dns) = start(&[&upstream], &["--allow", "10.0.0.0/8"]);
    let (code, flags) = dns.status("www.example.com A");
    assert_eq!((&*code, flags.contains("ra")), ("REFUSED", false));
    assert_eq!(dns.short("web.shop.svc.cluster.local A"), ["10.1.0.9", "10.96.0.5"]);
    // Not even the target of an alias.
    assert_eq!(dns.short("out.shop.svc.cluster.local A"), ["www.example.com."]);
    assert_eq!(upstream.asked(), 0);
    // Who does not ask for recursion gets none.
    let (_api, _dir, dns) = start(&[&upstream], &[]);
    assert_eq!(dns.status("+norecurse www.example.com A").0, "REFUSED");
    assert_eq!(dns.status("www.example.com A").0, "NOERROR");
}

/// Names of a stub domain are asked of its own servers, and of no others.
#[test]
fn a_stub_domain_has_servers_of_its_own() {
    let [corp, lab, others] = [(); 3].map(|()| Upstream::start(example));
    let stubs = format!("corp.example={};lab.corp.example={}", corp.address, lab.address);
    let (_api, _dir, dns) = start(&[&others], &["--stub-domain", &stubs]);
    let asked = || [corp.asked(), lab.asked(), others.asked()];
    for (name, whom) in [
        ("www.corp.example", [1, 0, 0]),
        ("www.LAB.corp.example", [1, 1, 0]),
        ("www.xcorp.example", [1, 1, 1]),
        ("no.corp.example", [2, 1, 1]),
    ] {
        dns.dig(&format!("{name} A"));
        assert_eq!(asked(), whom, "{name}");
    }
    // Without its servers there is no answer, whatever the others say.
    corp.set_silent(true);
    until("it to be down", || {
        assert_eq!(dns.status("www.new.corp.example A").0, "SERVFAIL");
        dns.get("/status").1.contains("no upstream of stub domain corp.example. answers")
    });
    assert_eq!(dns.short("www.b.lab.corp.example A"), ["192.0.2.1"]);
    assert_eq!(dns.short("www.b.example A"), ["192.0.2.1"]);
    let others_asked = others.asked();
    assert_eq!(dns.status("www.newer.corp.example A").0, "SERVFAIL");
    assert_eq!(others.asked(), others_asked);
    // A stub domain that lives does not hide that the others are silent.
    others.set_silent(true);
    until("the others to be down", || {
        assert_eq!(dns.status("www.c.example A").0, "SERVFAIL");
        dns.get("/status").1.contains("only our own names and stub domains are resolved")
    });
    assert_eq!(dns.short("www.c.lab.corp.example A"), ["192.0.2.1"]);
}

/// Without other upstreams, other names are refused.
#[test]
fn stub_domains_alone() {
    let corp = Upstream::start(example);
    let stub = format!("corp.example={}", corp.address);
    let (_api, _dir, dns) = start(&[], &["--stub-domain", &stub]);
    assert_eq!(dns.short("www.corp.example A"), ["192.0.2.1"]);
    assert_eq!(dns.status("www.example.com A").0, "REFUSED");
    // Nor is the target of an alias asked for there.
    assert_eq!(dns.short("out.shop.svc.cluster.local A"), ["www.example.com."]);
    assert_eq!(corp.asked(), 1);
}

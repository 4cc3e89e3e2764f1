//! Packets that are no questions, clients that ask too much or too slowly.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::api::Api;
use crate::records::fill;
use crate::support::{Dns, Upstream, question, until};
use crate::upstreams::example;

const WEB: &str = "web.shop.svc.cluster.local.";

fn start(arguments: &[&str]) -> (Api, tempfile::TempDir, Dns) {
    let (api, dir) = (Api::start(), tempfile::tempdir().unwrap());
    fill(&api);
    let dns = Dns::follow(&api, &dir, arguments);
    (api, dir, dns)
}

/// Anything, or a question with some bytes changed, cut or added.
fn packets() -> impl Strategy<Value = Vec<u8>> {
    let any_bytes = proptest::collection::vec(any::<u8>(), 0..600);
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8);
    let tail = proptest::collection::vec(any::<u8>(), 0..40);
    let changed = (changes, tail, any::<bool>()).prop_map(|(changes, tail, cut)| {
        let mut packet = question(1, WEB, RecordType::A);
        for (at, byte) in changes {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        if cut {
            packet.truncate(packet.len() - tail.len().min(packet.len()))
        } else {
            packet.extend(tail)
        }
        packet
    });
    prop_oneof![any_bytes, changed]
}

#[test]
fn no_packet_harms() {
    let (_api, _dir, dns) = start(&["--upstream", "", "--rate", "0"]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(dns.address).unwrap();
    socket.set_nonblocking(true).unwrap();
    let config = Config { cases: 2_000, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    runner
        .run(&packets(), |packet| {
            let mut buffer = vec![0; 65_536];
            // An error is that of an earlier packet.
            _ = socket.send(&packet);
            while let Ok(length) = socket.recv(&mut buffer) {
                prop_assert!((12..=1_232).contains(&length), "{length} bytes");
                prop_assert!(buffer[2] & 0x80 != 0, "no answer");
            }
            Ok(())
        })
        .unwrap();
    let config = Config { cases: 200, failure_persistence: None, ..Config::default() };
    let framed = (packets(), any::<u16>(), any::<bool>());
    TestRunner::new(config)
        .run(&framed, |(packet, length, honest)| {
            let mut stream = TcpStream::connect(dns.address).unwrap();
            let own = u16::try_from(packet.len()).unwrap();
            let length = if honest { own } else { length };
            _ = stream.write_all(&[&length.to_be_bytes()[..], &packet].concat());
            Ok(())
        })
        .unwrap();
    until("a free connection", || {
        dns.ask(WEB, RecordType::A).is_some_and(|answer| answer.answers.len() == 2)
    });
    assert!(!dns.log().contains("panic"), "{}", dns.log());
    assert_eq!(dns.stop(), Some(0));
}

/// Many questions at once by one connection: each is answered, and none waits for one that an upstream does not answer.
#[test]
fn questions_by_tcp_are_pipelined() {
    let upstream = Upstream::start(example);
    let to = upstream.address.to_string();
    let (_api, _dir, dns) = start(&["--upstream", &to]);
    let mut stream = TcpStream::connect(dns.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut all = Vec::new();
    let mut add = |id: u16, name: &str| {
        let packet = question(id, name, RecordType::A);
        all.extend(u16::try_from(packet.len()).unwrap().to_be_bytes());
        all.extend(packet);
    };
    add(0, "silent.example.com.");
    for id in 1..200 {
        add(id, if id % 2 == 0 { WEB } else { "www.example.com." });
    }
    stream.write_all(&all).unwrap();
    let mut ids = Vec::new();
    for _ in 0..200 {
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut packet).unwrap();
        ids.push(Message::from_vec(&packet).unwrap().metadata.id);
    }
    assert_eq!(ids.last(), Some(&0), "the one that nobody answers comes last");
    ids.sort_unstable();
    assert_eq!(ids, (0..200).collect::<Vec<u16>>());
}

#[test]
fn a_client_has_a_part_of_the_connections() {
    let (_api, _dir, dns) = start(&["--upstream", "", "--connections", "8"]);
    let mut open: Vec<TcpStream> =
        (0..2).map(|_| TcpStream::connect(dns.address).unwrap()).collect();
    let asks = |stream: &mut TcpStream| -> bool {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let packet = question(5, WEB, RecordType::A);
        let framed = [&u16::try_from(packet.len()).unwrap().to_be_bytes()[..], &packet].concat();
        let mut length = [0; 2];
        stream.write_all(&framed).is_ok() && stream.read_exact(&mut length).is_ok()
    };
    assert!(open.iter_mut().all(asks));
    let mut third = TcpStream::connect(dns.address).unwrap();
    assert!(!asks(&mut third), "it is closed");
    let dropped = "romana_dns_dropped_total{reason=\"connections\"} 1";
    assert!(dns.get("/metrics").1.contains(dropped));
    // A place that becomes free is given out again.
    drop(open.pop());
    until("a free place", || asks(&mut TcpStream::connect(dns.address).unwrap()));
    // Idle connections do not delay the stop.
    assert_eq!(dns.stop(), Some(0));
}

#[test]
fn a_client_that_asks_too_much_is_not_answered() {
    let (_api, _dir, dns) = start(&["--upstream", "", "--rate", "10"]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(dns.address).unwrap();
    until("drops", || {
        // The kernel drops some itself if the server is slow.
        for id in 0..500 {
            socket.send(&question(id, WEB, RecordType::A)).unwrap();
        }
        let text = dns.get("/metrics").1;
        let dropped = text
            .lines()
            .find_map(|line| line.strip_prefix("romana_dns_dropped_total{reason=\"rate_limit\"} "));
        dropped.is_some_and(|dropped| dropped.parse::<u32>().unwrap() > 300)
    });
    until("an answer later", || dns.ask(WEB, RecordType::A).is_some());
}

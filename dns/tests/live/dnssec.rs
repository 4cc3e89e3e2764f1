//! DNSSEC passes: DO and CD reach the upstream, what it has signed reaches the client as it is and is kept so, and AD is
//! told to those who know it.

use std::net::UdpSocket;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, NULL, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::api::Api;
use crate::records::fill;
use crate::support::{Dns, Upstream, question};

/// RRSIG of an A record (RFC 4034, 3.1): covers type 1, algorithm 13, 3 labels, TTL 300, 2030 to 2020, key 12345.
fn signature() -> Vec<u8> {
    let mut bytes = vec![0, 1, 13, 3, 0, 0, 1, 44];
    bytes.extend(1_893_456_000_u32.to_be_bytes());
    bytes.extend(1_577_836_800_u32.to_be_bytes());
    bytes.extend(12_345_u16.to_be_bytes());
    // The signer in mixed case: it is part of what was signed.
    bytes.extend(b"\x07Example\x03com\x00");
    bytes.extend((0..64_u8).map(|at| at * 3));
    bytes
}

fn unknown(name: &Name, code: RecordType, bytes: Vec<u8>) -> Record {
    Record::from_rdata(name.clone(), 300, RData::Unknown { code, rdata: NULL::with(bytes) })
}

/// An upstream that validates: `www.…` is signed, `bogus.…` wrongly, and nothing else exists.
fn validating(request: &Message) -> Option<Message> {
    let query = &request.queries[0];
    let first = String::from_utf8_lossy(query.name.iter().next().unwrap_or_default());
    let asks = &request.metadata;
    let signed = request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
    let mut answer = Message::new(asks.id, MessageType::Response, OpCode::Query);
    answer.add_queries(request.queries.clone());
    answer.metadata.checking_disabled = asks.checking_disabled;
    answer.metadata.authentic_data = !asks.checking_disabled && (signed || asks.authentic_data);
    let address = Record::from_rdata(query.name.clone(), 300, RData::A(A::new(192, 0, 2, 1)));
    match &*first.to_ascii_lowercase() {
        "" => {}
        "bogus" if !asks.checking_disabled => {
            answer.metadata.response_code = ResponseCode::ServFail;
            answer.metadata.authentic_data = false;
        }
        "www" | "bogus" => {
            answer.add_answer(address);
            if signed {
                answer.add_answer(unknown(&query.name, RecordType::RRSIG, signature()));
            }
        }
        _ => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            let zone = Name::from_ascii("example.com.").unwrap();
            let soa = SOA::new(zone.clone(), zone.clone(), 1, 1, 1, 1, 60);
            answer.add_authority(Record::from_rdata(zone.clone(), 300, RData::SOA(soa)));
            if signed {
                // To itself, with types A and RRSIG (RFC 4034, 4.1).
                let bytes = b"\x07example\x03com\x00\x00\x06\x40\x00\x00\x00\x00\x02".to_vec();
                answer.add_authority(unknown(&zone, RecordType::NSEC, bytes));
                answer.add_authority(unknown(&zone, RecordType::RRSIG, signature()));
            }
        }
    }
    Some(answer)
}

fn start(upstream: &Upstream) -> (Api, tempfile::TempDir, Dns) {
    let (api, dir) = (Api::start(), tempfile::tempdir().unwrap());
    fill(&api);
    let dns = Dns::follow(&api, &dir, &["--upstream", &upstream.address.to_string()]);
    (api, dir, dns)
}

/// Asks with DO.
fn ask(dns: &Dns, name: &str) -> Message {
    let mut message = Message::from_vec(&question(9, name, RecordType::A)).unwrap();
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    edns.set_dnssec_ok(true);
    message.set_edns(edns);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.send_to(&message.to_vec().unwrap(), dns.address).unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

fn bytes_of(records: &[Record], kind: RecordType) -> Vec<u8> {
    let found = records.iter().find(|record| record.record_type() == kind);
    match &found.unwrap_or_else(|| panic!("no {kind} in {records:?}")).data {
        RData::Unknown { rdata, .. } => rdata.anything.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_signed_passes_as_it_is_and_is_kept_so() {
    let upstream = Upstream::start(validating);
    let (_api, _dir, dns) = start(&upstream);
    let before = upstream.asked();
    for _ in 0..3 {
        let answer = ask(&dns, "www.example.com.");
        assert_eq!(bytes_of(&answer.answers, RecordType::RRSIG), signature());
        assert!(answer.metadata.authentic_data);
        assert!(answer.edns.unwrap().flags().dnssec_ok);
    }
    assert_eq!(upstream.asked(), before + 1, "kept with its signature");
    // That nothing exists is proved, too.
    for _ in 0..2 {
        let answer = ask(&dns, "none.example.com.");
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(bytes_of(&answer.authorities, RecordType::RRSIG), signature());
        assert!(!bytes_of(&answer.authorities, RecordType::NSEC).is_empty());
    }
    assert_eq!(upstream.asked(), before + 2);
    // Who does not ask for signatures gets none.
    let text = dns.dig("www.example.com A");
    assert!(!text.contains("RRSIG") && text.contains("192.0.2.1"), "{text}");
    assert_eq!(upstream.asked(), before + 3, "another question");
}

#[test]
fn ad_is_told_to_those_who_know_it() {
    let upstream = Upstream::start(validating);
    let (_api, _dir, dns) = start(&upstream);
    let has = |arguments: &str| dns.status(arguments).1.split(' ').any(|flag| flag == "ad");
    assert!(has("+adflag www.example.com A"));
    assert!(!has("+noadflag www.example.com A"));
    assert!(has("+noadflag +dnssec www.example.com A"));
    // Not of our own names: the zone is not signed.
    assert!(!has("+adflag web.shop.svc.cluster.local A"));
}

#[test]
fn cd_reaches_the_upstream() {
    let upstream = Upstream::start(validating);
    let (_api, _dir, dns) = start(&upstream);
    assert_eq!(dns.status("bogus.example.com A").0, "SERVFAIL");
    let (code, flags) = dns.status("+cdflag bogus.example.com A");
    assert_eq!(code, "NOERROR");
    assert!(flags.contains("cd") && !flags.contains("ad"), "{flags}");
    // Not what was kept for those who let the upstream validate.
    assert_eq!(dns.status("bogus.example.com A").0, "SERVFAIL");
}

//! Parsers of external input: names, CIDRs, digests, policy documents, commands, wire forms and snapshots. None
//! panics on any input; valid values survive printing and parsing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::select;

use romana_statemachine::entry::unwire;
use romana_statemachine::name::check;
use romana_statemachine::policy::document::{Document, parse, to_document};
use romana_statemachine::policy::{
    Expression, Icmp, Peer, Policy, Port, Protocol, Rule, Selector, Target, TenantSelector, Traffic,
};
use romana_statemachine::topology::{TopologySpec, builtin, builtin_names};
use romana_statemachine::{Command, Digest, Entry, Event, Record, Refusal, State, parse_cidr};

/// Text of the characters that occur in JSON, CIDRs and names, or of any characters.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,40}",
        "[0-9a-fA-F:./]{0,45}",
        "[-a-z0-9._@{}\\[\\]\":, ]{0,300}",
        ".{0,300}"
    ]
}

fn name() -> impl Strategy<Value = String> {
    "[A-Za-z0-9][-A-Za-z0-9._:@]{0,20}"
}

fn net() -> impl Strategy<Value = IpNet> {
    let four = (any::<[u8; 4]>(), 0..=32u8).prop_map(|(ip, len)| IpNet::new(ip.into(), len));
    let six = (any::<[u8; 16]>(), 0..=128u8).prop_map(|(ip, len)| IpNet::new(ip.into(), len));
    prop_oneof![four, six].prop_map(|net| net.unwrap().trunc())
}

fn selector() -> impl Strategy<Value = Selector> {
    let key = || "[a-z./]{1,8}";
    let values = || prop::collection::vec("[a-z]{0,4}", 1..4);
    let expression = prop_oneof![
        (key(), values()).prop_map(|(key, values)| Expression::In(key, values)),
        (key(), values()).prop_map(|(key, values)| Expression::NotIn(key, values)),
        key().prop_map(Expression::Exists),
        key().prop_map(Expression::DoesNotExist),
    ];
    let labels = prop::collection::vec((key(), "[a-z]{0,4}"), 0..3);
    (labels, prop::collection::vec(expression, 0..3)).prop_map(|(labels, expressions)| Selector {
        labels: labels.into_iter().collect::<BTreeMap<_, _>>(),
        expressions,
    })
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        name().prop_map(|t| Target::Tenant(t.into())),
        (name(), name()).prop_map(|(t, s)| Target::Segment(t.into(), s.into())),
        (name(), selector()).prop_map(|(t, selector)| Target::Endpoints(t.into(), selector)),
        net().prop_map(Target::Cidr),
        select(vec![Target::Host, Target::Local]),
    ]
}

fn peer() -> impl Strategy<Value = Peer> {
    let tenants = prop_oneof![
        name().prop_map(|t| TenantSelector::Id(t.into())),
        selector().prop_map(TenantSelector::Labels),
    ];
    let cidr = (net(), prop::collection::vec(any::<u8>(), 0..3)).prop_map(|(cidr, parts)| {
        let longer = cidr.prefix_len() + 1;
        let part = |n: u8| cidr.subnets(longer).ok()?.nth(usize::from(n % 2));
        let except = parts.into_iter().filter_map(part).collect();
        Peer::Cidr { cidr, except }
    });
    prop_oneof![
        select(vec![Peer::Any, Peer::Host, Peer::Local]),
        name().prop_map(|t| Peer::Tenant(t.into())),
        (name(), name()).prop_map(|(t, s)| Peer::Segment(t.into(), s.into())),
        (tenants, selector())
            .prop_map(|(tenants, endpoints)| Peer::Endpoints { tenants, endpoints }),
        cidr,
    ]
}

fn traffic() -> impl Strategy<Value = Traffic> {
    let port = prop_oneof![
        (1..=u16::MAX).prop_map(Port::Number),
        (1..=u16::MAX, 1..=u16::MAX).prop_map(|(a, b)| Port::Range(a.min(b), a.max(b))),
        "[a-z]{1,7}(-[a-z0-9]{1,7})?".prop_map(Port::Named),
    ];
    let ports = prop::collection::vec(port, 0..4);
    let protocol = select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
    let icmp = prop::option::of((any::<u8>(), prop::option::of(Just(0))));
    prop_oneof![
        Just(Traffic { protocol: Protocol::Any, ports: Vec::new(), icmp: None }),
        (protocol, ports).prop_map(|(protocol, ports)| Traffic { protocol, ports, icmp: None }),
        icmp.prop_map(|icmp| Traffic {
            protocol: Protocol::Icmp,
            ports: Vec::new(),
            icmp: icmp.map(|(kind, code)| Icmp { kind, code }),
        }),
    ]
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let rule = (prop::collection::vec(peer(), 1..4), prop::collection::vec(traffic(), 1..4));
    prop::collection::vec(rule.prop_map(|(peers, traffic)| Rule { peers, traffic }), 0..3)
}

/// Policies, nearly all of them valid.
fn policy() -> impl Strategy<Value = Policy> {
    let targets = prop::collection::vec(target(), 1..4);
    let isolates = select(vec![(true, false), (false, true), (true, true)]);
    (name(), "[ -~]{0,20}", targets, isolates, rules(), rules()).prop_map(
        |(name, description, applied_to, (isolates_ingress, isolates_egress), ingress, egress)| {
            Policy {
                name: name.into(),
                description,
                applied_to,
                isolates_ingress,
                isolates_egress,
                ingress: if isolates_ingress { ingress } else { Vec::new() },
                egress: if isolates_egress { egress } else { Vec::new() },
            }
        },
    )
}

proptest! {
    #[test]
    fn nothing_panics_on_text(text in text()) {
        let _ = check("host", &text);
        let _ = parse_cidr(&text);
        let _ = Digest::from_hex(&text);
        let _ = builtin(&text);
        let _ = serde_json::from_str::<Command>(&text);
        let _ = serde_json::from_str::<TopologySpec>(&text);
        if let Ok(document) = serde_json::from_str::<Document>(&text) {
            let _ = parse(&document);
        }
    }

    #[test]
    fn nothing_panics_on_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = unwire::<Command>(&bytes);
        let _ = unwire::<Entry>(&bytes);
        let _ = unwire::<Event>(&bytes);
        let _ = unwire::<Record>(&bytes);
        let _ = unwire::<Refusal>(&bytes);
        let _ = State::from_snapshot(&bytes);
    }

    /// A name is accepted if and only if it satisfies the rule, which is implemented a second time here.
    #[test]
    fn names_follow_the_rule(text in prop_oneof![text(), name()]) {
        let first = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
        let all = text.chars().all(|c| c.is_ascii_alphanumeric() || "._-:@".contains(c));
        prop_assert_eq!(check("host", &text).is_ok(), first && all && text.len() <= 253);
    }

    #[test]
    fn cidrs_read_back(net in net()) {
        prop_assert_eq!(parse_cidr(&net.to_string()), Ok(net));
        let text = format!("{}/{}", net.broadcast(), net.prefix_len());
        prop_assert_eq!(parse_cidr(&text).is_ok(), net.network() == net.broadcast());
    }

    /// A valid policy, printed as a document and read back, is the same policy.
    #[test]
    fn policies_read_back(policy in policy()) {
        prop_assume!(policy.check().is_ok());
        let json = serde_json::to_string(&to_document(&policy)).unwrap();
        for wrapped in [json.clone(), format!("[{json}]"), format!("{{\"securitypolicies\":[{json}]}}")] {
            let document: Document = serde_json::from_str(&wrapped).unwrap();
            prop_assert_eq!(parse(&document), Ok(vec![policy.clone()]), "{}", wrapped);
        }
    }
}

/// Errors in documents name the wrong field, in all wrappings.
#[test]
fn documents_name_unknown_fields() {
    let error = |text: &str| serde_json::from_str::<Document>(text).unwrap_err().to_string();
    for text in [
        r#"{"name": "p", "prio": 1}"#,
        r#"{"prio": 1, "name": "p"}"#,
        r#"[{"name": "p", "prio": 1}]"#,
        r#"{"securitypolicies": [{"name": "p", "prio": 1}]}"#,
    ] {
        assert!(error(text).contains("unknown field `prio`"), "{}", error(text));
    }
    let beside = error(r#"{"securitypolicies": [], "name": "p"}"#);
    assert!(beside.contains("\"name\" cannot stand beside securitypolicies"), "{beside}");
    assert!(error("7").contains("a policy, or a list of policies"), "{}", error("7"));
    let port = error(r#"{"name": "p", "rules": [{"protocol": "tcp", "ports": [{}]}]}"#);
    assert!(port.contains("a port is a number"), "{port}");
}

/// Every built-in topology can be set, and has as many leaves as Romana 2.0's.
#[test]
fn builtins_can_be_set() {
    assert_eq!(builtin_names().len(), 15);
    for name in builtin_names() {
        let spec = builtin(&name).unwrap();
        let plan = State::new().plan_topology(&spec).unwrap();
        assert_eq!(plan.conflicts, []);
        let zones = match name.as_str() {
            "kubeadm" => 8,
            "aws-us-east-1" => 24,
            "aws-ap-southeast-2" | "aws-eu-central-1" | "aws-eu-west-1" | "aws-sa-east-1"
            | "aws-us-east-2" | "aws-us-west-2" => 24,
            _ => 16,
        };
        assert_eq!(plan.groups.len(), zones, "{name}");
    }
    assert_eq!(builtin("aws-us-east-9"), None);
    assert_eq!(builtin("us-east-1"), None);
}

/// Some programs read a number with a leading zero as decimal, others as octal: no parser accepts it.
#[test]
fn leading_zeros_are_read_nowhere() {
    for cidr in ["010.0.0.0/8", "10.0.00.0/16"] {
        assert!(romana_statemachine::parse_cidr(cidr).is_err(), "{cidr}");
        let peer = format!(r#"{{"Cidr":{{"cidr":"{cidr}","except":[]}}}}"#);
        assert!(serde_json::from_str::<romana_statemachine::policy::Peer>(&peer).is_err());
        let target = format!(r#"{{"Cidr":"{cidr}"}}"#);
        assert!(serde_json::from_str::<romana_statemachine::policy::Target>(&target).is_err());
        let except = format!(r#"{{"Cidr":{{"cidr":"0.0.0.0/0","except":["{cidr}"]}}}}"#);
        assert!(serde_json::from_str::<romana_statemachine::policy::Peer>(&except).is_err());
    }
    let target = romana_statemachine::policy::Target::Cidr("10.0.0.0/8".parse().unwrap());
    let bytes = romana_statemachine::entry::wire(&target);
    assert_eq!(romana_statemachine::entry::unwire(&bytes).as_ref(), Ok(&target));
}

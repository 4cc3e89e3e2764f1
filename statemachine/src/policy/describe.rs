//! A policy in words: for the response of `POST /v1/policies/check`, and the comments of compiled rules.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use super::{
    Expression, Peer, Policy, Port, Protocol, Rule, Selector, Target, TenantSelector, Traffic,
};

/// The meaning of a policy, one sentence per line.
#[must_use]
pub fn sentences(policy: &Policy) -> Vec<String> {
    let targets: Vec<String> = policy.applied_to.iter().map(target).collect();
    let mut sentences = vec![format!("Applies to {}.", targets.join(", and to "))];
    let directions = [
        ("Inbound", "from", policy.isolates_ingress, &policy.ingress),
        ("Outbound", "to", policy.isolates_egress, &policy.egress),
    ];
    for (direction, preposition, isolates, rules) in directions {
        if !isolates {
            sentences.push(format!("{direction}: not restricted by this policy."));
            continue;
        }
        let open: Vec<&Rule> = rules
            .iter()
            .filter(|rule| !rule.peers.is_empty() && !rule.traffic.is_empty())
            .collect();
        if open.is_empty() {
            sentences.push(format!("{direction}: closed, unless another policy opens it."));
        }
        for rule in open {
            let kinds: Vec<String> = rule.traffic.iter().map(traffic).collect();
            let peers: Vec<String> = rule.peers.iter().map(peer).collect();
            let (kinds, peers) = (kinds.join(" and "), peers.join(", and "));
            sentences.push(format!("{direction}: opens {kinds} {preposition} {peers}."));
        }
    }
    sentences
}

fn target(target: &Target) -> String {
    match target {
        Target::Tenant(tenant) => format!("all endpoints of tenant {tenant}"),
        Target::Segment(tenant, segment) => format!("segment {segment} of tenant {tenant}"),
        Target::Endpoints(tenant, selector) => {
            format!("endpoints of tenant {tenant} with {}", labels(selector))
        }
        Target::Cidr(cidr) => format!("whatever has an address in {cidr}"),
        Target::Host => "the hosts themselves".into(),
        Target::Local => "all endpoints of each host".into(),
    }
}

/// A peer.
#[must_use]
pub fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Any => "anybody".into(),
        Peer::Tenant(tenant) => format!("tenant {tenant}"),
        Peer::Segment(tenant, segment) => format!("segment {segment} of tenant {tenant}"),
        Peer::Endpoints { tenants, endpoints } => {
            let whose = match tenants {
                TenantSelector::Id(tenant) => format!("tenant {tenant}"),
                TenantSelector::Labels(selector) => format!("tenants with {}", labels(selector)),
            };
            format!("endpoints with {} in {whose}", labels(endpoints))
        }
        Peer::Cidr { cidr, except } if except.is_empty() => cidr.to_string(),
        Peer::Cidr { cidr, except } => {
            let except: Vec<String> = except.iter().map(ToString::to_string).collect();
            format!("{cidr} except {}", except.join(", "))
        }
        Peer::Host => "the endpoint's own host".into(),
        Peer::Local => "endpoints of the same host".into(),
    }
}

fn labels(selector: &Selector) -> String {
    let mut parts: Vec<String> =
        selector.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    parts.extend(selector.expressions.iter().map(|expression| match expression {
        Expression::In(key, values) => format!("{key} in ({})", values.join(", ")),
        Expression::NotIn(key, values) => format!("{key} not in ({})", values.join(", ")),
        Expression::Exists(key) => format!("{key} present"),
        Expression::DoesNotExist(key) => format!("{key} absent"),
    }));
    if parts.is_empty() { "any labels".into() } else { parts.join(" and ") }
}

fn traffic(traffic: &Traffic) -> String {
    let protocol = match traffic.protocol {
        Protocol::Any => "everything",
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
        Protocol::Icmp => "ICMP",
    };
    let ports: Vec<String> = traffic
        .ports
        .iter()
        .map(|port| match port {
            Port::Number(number) => number.to_string(),
            Port::Range(first, last) => format!("{first}-{last}"),
            Port::Named(name) => format!("{name:?}"),
        })
        .collect();
    match (&traffic.icmp, ports.is_empty()) {
        (Some(icmp), _) => match icmp.code {
            Some(code) => format!("{protocol} type {} code {code}", icmp.kind),
            None => format!("{protocol} type {}", icmp.kind),
        },
        (None, true) => protocol.into(),
        (None, false) => format!("{protocol} ports {}", ports.join(", ")),
    }
}

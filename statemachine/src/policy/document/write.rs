//! Conversion of the model to documents.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use super::super::{
    Expression, Peer, Policy, Port, Rule, Selector, Target, TenantSelector, Traffic,
};
use super::{
    Condition, Direction, Kind, Labelled, Opening, Operator, Party, PolicyDocument, PortDocument,
};

/// The document of a policy, in Romana's own form if that can express it. Reading it back gives the same policy, if the
/// policy is valid.
#[must_use]
pub fn to_document(policy: &Policy) -> PolicyDocument {
    let mut document = PolicyDocument {
        name: Some(policy.name.to_string()),
        description: policy.description.clone(),
        applied_to: policy.applied_to.iter().map(target).collect(),
        ..PolicyDocument::default()
    };
    let lists = (policy.isolates_ingress, policy.isolates_egress);
    let (direction, rules) = match lists {
        (true, false) => (Some(Direction::Ingress), &policy.ingress),
        (false, true) => (Some(Direction::Egress), &policy.egress),
        _ => (None, &policy.ingress),
    };
    document.direction = direction;
    match (direction, rules.as_slice()) {
        (Some(_), [rule]) => {
            let Opening { peers, rules } = opening(rule);
            document.peers = Some(peers);
            document.rules = Some(rules);
        }
        _ => {
            let list = |rules: &[Rule]| rules.iter().map(opening).collect();
            document.ingress = policy.isolates_ingress.then(|| list(&policy.ingress));
            document.egress = policy.isolates_egress.then(|| list(&policy.egress));
        }
    }
    document
}

fn opening(rule: &Rule) -> Opening {
    let peers = rule.peers.iter().map(peer).collect();
    Opening { peers, rules: rule.traffic.iter().map(kind).collect() }
}

fn target(target: &Target) -> Party {
    let word = |word: &str| Party { dest: Some(word.into()), ..Party::default() };
    match target {
        Target::Tenant(tenant) => of_tenant(tenant.as_str()),
        Target::Segment(tenant, segment) => {
            Party { segment: Some(segment.to_string()), ..of_tenant(tenant.as_str()) }
        }
        Target::Endpoints(tenant, selector) => {
            Party { selector: Some(labelled(selector)), ..of_tenant(tenant.as_str()) }
        }
        Target::Cidr(cidr) => Party { cidr: Some(cidr.to_string()), ..Party::default() },
        Target::Host => word("host"),
        Target::Local => word("local"),
    }
}

fn peer(peer: &Peer) -> Party {
    let word = |word: &str| Party { peer: Some(word.into()), ..Party::default() };
    match peer {
        Peer::Any => word("any"),
        Peer::Host => word("host"),
        Peer::Local => word("local"),
        Peer::Tenant(tenant) => of_tenant(tenant.as_str()),
        Peer::Segment(tenant, segment) => {
            Party { segment: Some(segment.to_string()), ..of_tenant(tenant.as_str()) }
        }
        Peer::Endpoints { tenants, endpoints } => {
            let party = match tenants {
                TenantSelector::Id(tenant) => of_tenant(tenant.as_str()),
                TenantSelector::Labels(labels) => {
                    Party { tenants: Some(labelled(labels)), ..Party::default() }
                }
            };
            Party { selector: Some(labelled(endpoints)), ..party }
        }
        Peer::Cidr { cidr, except } => Party {
            cidr: Some(cidr.to_string()),
            except: except.iter().map(ToString::to_string).collect(),
            ..Party::default()
        },
    }
}

fn of_tenant(tenant: &str) -> Party {
    Party { tenant: Some(String::from(tenant)), ..Party::default() }
}

fn labelled(selector: &Selector) -> Labelled {
    let condition = |expression: &Expression| {
        let (operator, key, values) = match expression {
            Expression::In(key, values) => (Operator::In, key, values.clone()),
            Expression::NotIn(key, values) => (Operator::NotIn, key, values.clone()),
            Expression::Exists(key) => (Operator::Exists, key, Vec::new()),
            Expression::DoesNotExist(key) => (Operator::DoesNotExist, key, vec![]),
        };
        Condition { key: key.clone(), operator, values }
    };
    let expressions = selector.expressions.iter().map(condition).collect();
    Labelled { labels: selector.labels.clone(), expressions }
}

fn kind(traffic: &Traffic) -> Kind {
    let port = |port: &Port| match port {
        Port::Number(port) => PortDocument::Number(u64::from(*port)),
        Port::Range(low, high) => PortDocument::Text(format!("{low}-{high}")),
        Port::Named(name) => PortDocument::Text(name.clone()),
    };
    Kind {
        protocol: traffic.protocol.as_str().into(),
        ports: traffic.ports.iter().map(port).collect(),
        icmp_type: traffic.icmp.map(|icmp| u64::from(icmp.kind)),
        icmp_code: traffic.icmp.and_then(|icmp| icmp.code).map(u64::from),
        ..Kind::default()
    }
}

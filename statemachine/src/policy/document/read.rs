//! Conversion of documents to the model.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use ipnet::IpNet;

use super::super::{
    Expression, Icmp, Peer, Policy, Port, Protocol, Rule, Selector, Target, TenantSelector, Traffic,
};
use super::printable;
use super::{Direction, Kind, Labelled, Opening, Operator, Party, PolicyDocument, PortDocument};

/// The path of a field, and the problem.
type Fault = (String, String);

fn fault<T>(field: impl Into<String>, why: impl Into<String>) -> Result<T, Fault> {
    Err((field.into(), why.into()))
}

pub(super) fn policy(document: &PolicyDocument) -> Result<Policy, Fault> {
    let name = match (&document.name, &document.id) {
        (Some(name), Some(id)) if name != id => {
            return fault("id", "it differs from the name: give one of them");
        }
        (Some(name), _) | (None, Some(name)) => name.as_str().into(),
        (None, None) => return fault("name", "it is missing"),
    };
    let mut applied_to = Vec::with_capacity(document.applied_to.len());
    for (i, party) in document.applied_to.iter().enumerate() {
        applied_to.push(target(&format!("applied_to[{i}]"), party)?);
    }
    let (ingress, egress) = directions(document)?;
    Ok(Policy {
        name,
        description: document.description.clone(),
        applied_to,
        isolates_ingress: ingress.is_some(),
        isolates_egress: egress.is_some(),
        ingress: ingress.unwrap_or_default(),
        egress: egress.unwrap_or_default(),
    })
}

type Rules = Option<Vec<Rule>>;

/// The rules of each direction; `None` if the policy does not isolate it.
fn directions(document: &PolicyDocument) -> Result<(Rules, Rules), Fault> {
    let PolicyDocument { direction, peers, rules, ingress, egress, .. } = document;
    if peers.is_some() || rules.is_some() {
        if ingress.is_some() || egress.is_some() {
            return fault("peers", "peers and rules cannot stand beside ingress or egress");
        }
        let rule = Rule {
            peers: parties("peers", peers.as_deref().unwrap_or_default())?,
            traffic: kinds("rules", rules.as_deref().unwrap_or_default())?,
        };
        return Ok(match direction {
            None | Some(Direction::Ingress) => (Some(vec![rule]), None),
            Some(Direction::Egress) => (None, Some(vec![rule])),
        });
    }
    match (direction, ingress, egress) {
        (_, None, None) => {
            fault("peers", "peers and rules are missing; [] in ingress or egress denies all")
        }
        (Some(Direction::Egress), Some(_), None) => {
            let why = "Romana 2.0's egress policies block what they list, which has no equivalent: \
                       list under egress what is allowed";
            fault("direction", why)
        }
        (Some(Direction::Ingress), _, Some(_)) => {
            fault("direction", "it says ingress, but there is a list egress: leave it out")
        }
        (Some(Direction::Egress), Some(_), Some(_)) => {
            fault("direction", "it says egress, but there is a list ingress: leave it out")
        }
        _ => Ok((openings("ingress", ingress)?, openings("egress", egress)?)),
    }
}

fn openings(path: &str, list: &Option<Vec<Opening>>) -> Result<Rules, Fault> {
    let Some(list) = list else { return Ok(None) };
    let mut rules = Vec::with_capacity(list.len());
    for (i, opening) in list.iter().enumerate() {
        rules.push(Rule {
            peers: parties(&format!("{path}[{i}].peers"), &opening.peers)?,
            traffic: kinds(&format!("{path}[{i}].rules"), &opening.rules)?,
        });
    }
    Ok(Some(rules))
}

fn parties(path: &str, list: &[Party]) -> Result<Vec<Peer>, Fault> {
    let peers = list.iter().enumerate();
    peers.map(|(i, party)| peer(&format!("{path}[{i}]"), party)).collect()
}

/// Refuses fields of a party that its kind does not have.
fn only(path: &str, party: &Party, allowed: &[&str]) -> Result<(), Fault> {
    let fields = [
        ("peer", party.peer.is_some()),
        ("dest", party.dest.is_some()),
        ("cidr", party.cidr.is_some()),
        ("except", !party.except.is_empty()),
        ("tenant", party.tenant.is_some()),
        ("segment", party.segment.is_some()),
        ("tenants", party.tenants.is_some()),
        ("selector", party.selector.is_some()),
    ];
    match fields.into_iter().find(|(field, given)| *given && !allowed.contains(field)) {
        None => Ok(()),
        Some((field, _)) if allowed.is_empty() => {
            fault(format!("{path}.{field}"), "it cannot be used here")
        }
        Some((field, _)) => {
            let why = format!("it cannot stand beside {}", allowed.join(" and "));
            fault(format!("{path}.{field}"), why)
        }
    }
}

fn target(path: &str, party: &Party) -> Result<Target, Fault> {
    if party.peer.is_some() {
        return fault(format!("{path}.peer"), "it belongs into peers; a target has dest");
    }
    if let Some(dest) = &party.dest {
        only(path, party, &["dest"])?;
        return match dest.as_str() {
            "host" => Ok(Target::Host),
            "local" => Ok(Target::Local),
            _ => fault(format!("{path}.dest"), "it is neither host nor local"),
        };
    }
    if let Some(cidr) = &party.cidr {
        only(path, party, &["cidr"])?;
        return Ok(Target::Cidr(range(&format!("{path}.cidr"), cidr)?));
    }
    let Some(tenant) = party.tenant.as_deref() else {
        only(path, party, &[])?;
        return fault(path, "it names no tenant, cidr or dest");
    };
    if let Some(segment) = party.segment.as_deref() {
        only(path, party, &["tenant", "segment"])?;
        return Ok(Target::Segment(tenant.into(), segment.into()));
    }
    only(path, party, &["tenant", "selector"])?;
    match &party.selector {
        None => Ok(Target::Tenant(tenant.into())),
        Some(labelled) => {
            let selector = selector(&format!("{path}.selector"), labelled)?;
            Ok(Target::Endpoints(tenant.into(), selector))
        }
    }
}

fn peer(path: &str, party: &Party) -> Result<Peer, Fault> {
    if party.dest.is_some() {
        return fault(format!("{path}.dest"), "it belongs into applied_to; a peer has peer");
    }
    if let Some(peer) = &party.peer {
        only(path, party, &["peer"])?;
        return match peer.as_str() {
            "any" => Ok(Peer::Any),
            "host" => Ok(Peer::Host),
            "local" => Ok(Peer::Local),
            _ => fault(format!("{path}.peer"), "it is not any, host or local"),
        };
    }
    if let Some(cidr) = &party.cidr {
        only(path, party, &["cidr", "except"])?;
        let cidr = range(&format!("{path}.cidr"), cidr)?;
        let parts = party.except.iter().enumerate();
        let except = parts.map(|(i, part)| range(&format!("{path}.except[{i}]"), part));
        return Ok(Peer::Cidr { cidr, except: except.collect::<Result<_, _>>()? });
    }
    if let Some(tenants) = &party.tenants {
        only(path, party, &["tenants", "selector"])?;
        let tenants = selector(&format!("{path}.tenants"), tenants)?;
        let endpoints = party.selector.as_ref();
        let endpoints = endpoints.map(|labelled| selector(&format!("{path}.selector"), labelled));
        return Ok(Peer::Endpoints {
            tenants: TenantSelector::Labels(tenants),
            endpoints: endpoints.transpose()?.unwrap_or_default(),
        });
    }
    let Some(tenant) = party.tenant.as_deref() else {
        only(path, party, &[])?;
        return fault(path, "it names no peer, cidr, tenant or tenants");
    };
    if let Some(segment) = party.segment.as_deref() {
        only(path, party, &["tenant", "segment"])?;
        return Ok(Peer::Segment(tenant.into(), segment.into()));
    }
    only(path, party, &["tenant", "selector"])?;
    let Some(labelled) = &party.selector else { return Ok(Peer::Tenant(tenant.into())) };
    let endpoints = selector(&format!("{path}.selector"), labelled)?;
    Ok(Peer::Endpoints { tenants: TenantSelector::Id(tenant.into()), endpoints })
}

fn range(path: &str, text: &str) -> Result<IpNet, Fault> {
    crate::prefix::parse(text).map_err(|refusal| (path.into(), refusal.to_string()))
}

pub(in super::super) fn selector(path: &str, labelled: &Labelled) -> Result<Selector, Fault> {
    let mut expressions = Vec::with_capacity(labelled.expressions.len());
    for (i, condition) in labelled.expressions.iter().enumerate() {
        let (key, values) = (condition.key.clone(), condition.values.clone());
        let bare = matches!(condition.operator, Operator::Exists | Operator::DoesNotExist);
        if bare && !values.is_empty() {
            return fault(
                format!("{path}.expressions[{i}].values"),
                "only In and NotIn have values",
            );
        }
        expressions.push(match condition.operator {
            Operator::In => Expression::In(key, values),
            Operator::NotIn => Expression::NotIn(key, values),
            Operator::Exists => Expression::Exists(key),
            Operator::DoesNotExist => Expression::DoesNotExist(key),
        });
    }
    Ok(Selector { labels: labelled.labels.clone(), expressions })
}

fn kinds(path: &str, list: &[Kind]) -> Result<Vec<Traffic>, Fault> {
    list.iter().enumerate().map(|(i, one)| kind(&format!("{path}[{i}]"), one)).collect()
}

fn kind(path: &str, kind: &Kind) -> Result<Traffic, Fault> {
    let protocols = [Protocol::Any, Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Icmp];
    let known = |protocol: &Protocol| protocol.as_str().eq_ignore_ascii_case(&kind.protocol);
    let Some(protocol) = protocols.into_iter().find(known) else {
        let why = match kind.protocol.as_str() {
            "" => "it is missing".to_string(),
            other => format!("\"{}\" is not any, tcp, udp, sctp or icmp", printable(other)),
        };
        return fault(format!("{path}.protocol"), why);
    };
    if kind.is_stateful == Some(false) {
        let why = "answers to allowed traffic are always allowed";
        return fault(format!("{path}.is_stateful"), why);
    }
    let mut ports = Vec::with_capacity(kind.ports.len() + kind.port_ranges.len());
    for (i, one) in kind.ports.iter().enumerate() {
        ports.push(port(&format!("{path}.ports[{i}]"), one)?);
    }
    for (i, (low, high)) in kind.port_ranges.iter().enumerate() {
        let path = format!("{path}.port_ranges[{i}]");
        ports.push(Port::Range(number(&path, *low)?, number(&path, *high)?));
    }
    let icmp = match (kind.icmp_type, kind.icmp_code) {
        (None, None) => None,
        (None, Some(_)) => return fault(format!("{path}.icmp_code"), "there is no icmp_type"),
        (Some(kind), code) => {
            let kind = byte(&format!("{path}.icmp_type"), kind)?;
            let code = code.map(|code| byte(&format!("{path}.icmp_code"), code)).transpose()?;
            Some(Icmp { kind, code })
        }
    };
    Ok(Traffic { protocol, ports, icmp })
}

fn port(path: &str, port: &PortDocument) -> Result<Port, Fault> {
    let text = match port {
        PortDocument::Number(port) => return Ok(Port::Number(number(path, *port)?)),
        PortDocument::Text(text) => text,
    };
    // A name contains a letter, so digits on both sides of a hyphen are a range.
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.split_once('-') {
        Some((low, high)) if digits(low) && digits(high) => {
            let part = |text: &str| number(path, text.parse().unwrap_or(u64::MAX));
            Ok(Port::Range(part(low)?, part(high)?))
        }
        _ if digits(text) => fault(path, "write a port number without quotes"),
        _ => Ok(Port::Named(text.clone())),
    }
}

fn number(path: &str, port: u64) -> Result<u16, Fault> {
    u16::try_from(port).or_else(|_| fault(path, "ports are numbered up to 65535"))
}

fn byte(path: &str, value: u64) -> Result<u8, Fault> {
    u8::try_from(value).or_else(|_| fault(path, "it is larger than 255"))
}

//! Conditions under which a policy can be enforced exactly as written. Anything else is refused, with the field and
//! the reason: nothing is silently narrowed or widened.
//!
//! Redundant items (the same peer twice) are accepted: they have no effect, and Kubernetes allows them.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use ipnet::IpNet;

use super::{
    Expression, Icmp, Peer, Policy, Port, Protocol, Rule, Selector, Target, TenantSelector, Traffic,
};
use crate::address::is_mapped;
use crate::limits::{DESCRIPTION_BYTES_MAX, LABEL_BYTES_MAX, LABELS_MAX, POLICY_LIST_MAX};
use crate::refusal::Refusal;

/// Longest name of a port, bytes (RFC 6335 §5.1).
const PORT_NAME_BYTES_MAX: usize = 15;

/// A field and the problem.
struct Fault {
    field: String,
    why: String,
}

type Checked = Result<(), Fault>;

fn fault<T>(field: impl Into<String>, why: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { field: field.into(), why: why.into() })
}

impl Policy {
    /// Whether the policy can be enforced exactly as written.
    ///
    /// # Errors
    /// [`Refusal::InvalidName`] for the policy's own name, else [`Refusal::InvalidPolicy`] with the
    /// path of the field, such as `ingress[0].peers[1].cidr`.
    pub fn check(&self) -> Result<(), Refusal> {
        self.check_before_4()?;
        self.check_mapped()
    }

    /// The checks before version 4 of the log.
    pub(super) fn check_before_4(&self) -> Result<(), Refusal> {
        self.name.check()?;
        check(self).map_err(|fault| self.refusal(fault))
    }

    /// Refuses IPv4-mapped IPv6 ranges: no packet carries such an address, so they would match nothing.
    pub(super) fn check_mapped(&self) -> Result<(), Refusal> {
        let targets = self.applied_to.iter().enumerate().filter_map(|(i, target)| match target {
            Target::Cidr(cidr) => Some((format!("applied_to[{i}].cidr"), *cidr)),
            _ => None,
        });
        let rules = |direction: &'static str, rules: &[Rule]| {
            let each = rules.iter().enumerate();
            let peers = each.flat_map(move |(i, rule)| {
                let peers = rule.peers.iter().enumerate();
                peers.filter_map(move |(j, peer)| match peer {
                    Peer::Cidr { cidr, .. } => {
                        Some((format!("{direction}[{i}].peers[{j}].cidr"), *cidr))
                    }
                    _ => None,
                })
            });
            peers.collect::<Vec<_>>()
        };
        let (ingress, egress) = (rules("ingress", &self.ingress), rules("egress", &self.egress));
        let mapped = targets.chain(ingress).chain(egress).find(|(_, cidr)| is_mapped(*cidr));
        mapped.map_or(Ok(()), |(field, cidr)| {
            let why = format!("{cidr} is IPv4 written as IPv6: write it as IPv4");
            Err(self.refusal(Fault { field, why }))
        })
    }

    fn refusal(&self, Fault { field, why }: Fault) -> Refusal {
        Refusal::InvalidPolicy { policy: self.name.to_string(), field, why }
    }
}

fn check(policy: &Policy) -> Checked {
    if policy.description.len() > DESCRIPTION_BYTES_MAX {
        return fault("description", format!("it is longer than {DESCRIPTION_BYTES_MAX} bytes"));
    }
    if policy.description.chars().any(char::is_control) {
        return fault("description", "it has a control character");
    }
    filled("applied_to", policy.applied_to.len())?;
    for (i, target) in policy.applied_to.iter().enumerate() {
        check_target(&format!("applied_to[{i}]"), target)?;
    }
    if !policy.isolates_ingress && !policy.isolates_egress {
        return fault("isolates_ingress", "it isolates neither direction, so it does nothing");
    }
    let directions = [
        ("ingress", policy.isolates_ingress, &policy.ingress),
        ("egress", policy.isolates_egress, &policy.egress),
    ];
    for (direction, isolates, rules) in directions {
        if !isolates && !rules.is_empty() {
            let why = format!("it has rules, but isolates_{direction} is false");
            return fault(direction, why);
        }
        bounded(direction, rules.len())?;
        for (i, rule) in rules.iter().enumerate() {
            check_rule(policy, &format!("{direction}[{i}]"), rule, direction == "ingress")?;
        }
    }
    Ok(())
}

fn check_rule(policy: &Policy, path: &str, rule: &Rule, ingress: bool) -> Checked {
    let peers = format!("{path}.peers");
    filled(&peers, rule.peers.len())?;
    for (i, peer) in rule.peers.iter().enumerate() {
        let path = format!("{peers}[{i}]");
        check_peer(&path, peer)?;
        check_pairing(policy, &path, peer)?;
    }
    let traffic = format!("{path}.traffic");
    filled(&traffic, rule.traffic.len())?;
    // Named ports are resolved at the destination, and hosts have none.
    let hosts = match ingress {
        true => policy.applied_to.contains(&Target::Host),
        false => rule.peers.contains(&Peer::Host),
    };
    for (i, kind) in rule.traffic.iter().enumerate() {
        check_traffic(&format!("{traffic}[{i}]"), kind, hosts)?;
    }
    Ok(())
}

fn check_target(path: &str, target: &Target) -> Checked {
    match target {
        Target::Tenant(tenant) => named(path, tenant.check()),
        Target::Segment(tenant, segment) => {
            named(path, tenant.check())?;
            named(path, segment.check())
        }
        Target::Endpoints(tenant, selector) => {
            named(path, tenant.check())?;
            check_selector(&format!("{path}.selector"), selector)
        }
        Target::Cidr(cidr) => check_cidr(&format!("{path}.cidr"), *cidr),
        Target::Host | Target::Local => Ok(()),
    }
}

fn check_peer(path: &str, peer: &Peer) -> Checked {
    match peer {
        Peer::Any | Peer::Host | Peer::Local => Ok(()),
        Peer::Tenant(tenant) => named(path, tenant.check()),
        Peer::Segment(tenant, segment) => {
            named(path, tenant.check())?;
            named(path, segment.check())
        }
        Peer::Endpoints { tenants, endpoints } => {
            match tenants {
                TenantSelector::Id(tenant) => named(path, tenant.check())?,
                TenantSelector::Labels(selector) => {
                    check_selector(&format!("{path}.tenants"), selector)?;
                }
            }
            check_selector(&format!("{path}.selector"), endpoints)
        }
        Peer::Cidr { cidr, except } => {
            check_cidr(&format!("{path}.cidr"), *cidr)?;
            let path = format!("{path}.except");
            bounded(&path, except.len())?;
            for (i, part) in except.iter().enumerate() {
                let path = format!("{path}[{i}]");
                check_cidr(&path, *part)?;
                if part == cidr || !cidr.contains(part) {
                    return fault(path, format!("{part} is not a smaller part of {cidr}"));
                }
            }
            Ok(())
        }
    }
}

/// Refuses peers that can never exchange packets with any target of the policy.
fn check_pairing(policy: &Policy, path: &str, peer: &Peer) -> Checked {
    match peer {
        Peer::Host if policy.applied_to.contains(&Target::Host) => {
            fault(path, "a host's traffic with itself is not filtered")
        }
        Peer::Cidr { cidr, .. } => {
            let other = |target: &Target| match target {
                Target::Cidr(target) => is_ipv4(*target) != is_ipv4(*cidr),
                _ => false,
            };
            if policy.applied_to.iter().all(other) {
                let why = "it is of another address family than all of applied_to";
                return fault(format!("{path}.cidr"), why);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn is_ipv4(net: IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}

fn check_cidr(path: &str, cidr: IpNet) -> Checked {
    let network = cidr.trunc();
    if cidr == network {
        return Ok(());
    }
    fault(path, format!("{cidr} has bits set after its prefix length; {network} has not"))
}

fn check_selector(path: &str, selector: &Selector) -> Checked {
    if selector.labels.len() > LABELS_MAX {
        return fault(format!("{path}.labels"), format!("there are more than {LABELS_MAX}"));
    }
    for (key, value) in &selector.labels {
        let path = format!("{path}.labels");
        check_label(&path, key, true)?;
        check_label(&path, value, false)?;
    }
    let path = format!("{path}.expressions");
    bounded(&path, selector.expressions.len())?;
    for (i, expression) in selector.expressions.iter().enumerate() {
        let path = format!("{path}[{i}]");
        match expression {
            Expression::In(key, values) | Expression::NotIn(key, values) => {
                check_label(&format!("{path}.key"), key, true)?;
                let path = format!("{path}.values");
                filled(&path, values.len())?;
                values.iter().try_for_each(|value| check_label(&path, value, false))?;
            }
            Expression::Exists(key) | Expression::DoesNotExist(key) => {
                check_label(&format!("{path}.key"), key, true)?;
            }
        }
    }
    Ok(())
}

fn check_label(path: &str, text: &str, key: bool) -> Checked {
    if key && text.is_empty() {
        return fault(path, "a label key is empty");
    }
    if text.len() > LABEL_BYTES_MAX {
        let why = format!("a label key or value is longer than {LABEL_BYTES_MAX} bytes");
        return fault(path, why);
    }
    if text.chars().any(char::is_control) {
        return fault(path, "a label key or value has a control character");
    }
    Ok(())
}

fn check_traffic(path: &str, traffic: &Traffic, hosts: bool) -> Checked {
    let has_ports = matches!(traffic.protocol, Protocol::Tcp | Protocol::Udp | Protocol::Sctp);
    let path_ports = format!("{path}.ports");
    if !has_ports && !traffic.ports.is_empty() {
        return fault(path_ports, "only tcp, udp and sctp have ports");
    }
    bounded(&path_ports, traffic.ports.len())?;
    for (i, port) in traffic.ports.iter().enumerate() {
        check_port(&format!("{path_ports}[{i}]"), port, hosts)?;
    }
    let Some(Icmp { kind, code }) = traffic.icmp else { return Ok(()) };
    if traffic.protocol != Protocol::Icmp {
        return fault(format!("{path}.icmp"), "only icmp has a type and a code");
    }
    let max = icmp_code_max(kind);
    if code.is_some_and(|code| code > max) {
        return fault(format!("{path}.icmp.code"), format!("type {kind} has codes up to {max}"));
    }
    Ok(())
}

fn check_port(path: &str, port: &Port, hosts: bool) -> Checked {
    match port {
        Port::Number(0) | Port::Range(0, _) => fault(path, "ports are numbered from 1"),
        Port::Range(low, high) if low > high => {
            fault(path, format!("the range {low}-{high} ends before it starts"))
        }
        Port::Named(name) => match check_port_name(name) {
            Err(why) => fault(path, why),
            Ok(()) if hosts => fault(path, "hosts have no named ports"),
            Ok(()) => Ok(()),
        },
        Port::Number(_) | Port::Range(..) => Ok(()),
    }
}

/// The rule for port names, as in RFC 6335 §5.1 and Kubernetes: 1 to 15 lower-case letters, digits and inner single
/// hyphens, with at least one letter. So no name can be read as a number or a range.
pub(crate) fn check_port_name(name: &str) -> Result<(), String> {
    let shown: String = name.chars().take(32).flat_map(char::escape_default).collect();
    let refuse = |why: &str| Err(format!("the port name \"{shown}\" {why}"));
    if name.is_empty() || name.len() > PORT_NAME_BYTES_MAX {
        return refuse("does not have 1 to 15 characters");
    }
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return refuse("has a character other than a-z, 0-9 and -");
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        return refuse("has no letter");
    }
    if name.starts_with('-') || name.ends_with('-') || name.contains("--") {
        return refuse("starts or ends with a hyphen, or has two in a row");
    }
    Ok(())
}

/// The highest code of a type, in ICMP or in ICMPv6 (IANA's registries): one table serves both.
fn icmp_code_max(kind: u8) -> u8 {
    match kind {
        1 => 8,              // ICMPv6 destination unreachable
        3 => 15,             // ICMP destination unreachable
        4 => 10,             // ICMPv6 parameter problem
        5 => 3,              // ICMP redirect
        9 => 16,             // ICMP router advertisement
        11 => 1,             // ICMP time exceeded
        12 | 139 | 140 => 2, // ICMP parameter problem, ICMPv6 node information
        40 => 5,             // ICMP Photuris
        43 | 161 => 4,       // extended echo replies
        138 => 255,          // ICMPv6 router renumbering
        _ => 0,
    }
}

/// Converts the refusal of a name inside a policy to a refusal of the policy's field.
fn named(path: &str, checked: Result<(), Refusal>) -> Checked {
    match checked {
        Ok(()) => Ok(()),
        Err(refusal) => fault(path, refusal.to_string()),
    }
}

fn filled(path: &str, len: usize) -> Checked {
    if len == 0 {
        return fault(path, "it is empty");
    }
    bounded(path, len)
}

fn bounded(path: &str, len: usize) -> Checked {
    if len > POLICY_LIST_MAX {
        return fault(path, format!("it has {len} items, the most is {POLICY_LIST_MAX}"));
    }
    Ok(())
}

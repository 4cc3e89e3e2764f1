//! The definition of which connections are allowed. The rules that agents compile, the output of `romana policy
//! explain` and the comparison in `check` all agree with it.
//!
//! A connection is allowed if its source may open it and its destination may accept it. For each side:
//!
//! | the side is | and | then |
//! |---|---|---|
//! | an endpoint whose labels are not known yet | | closed |
//! | a pod of a namespace that is not known yet | a policy selects pods of that by labels | closed |
//! | an endpoint of a Kubernetes namespace | the other side is its own host | open |
//! | isolated by policies in that direction | a rule of one of them allows it | open |
//! | | none does | closed |
//! | an endpoint of another tenant, accepting | no policy selects it | closed |
//! | a host | the port is one of Romana's own | open |
//! | anything else | | open |
//!
//! An address always reaches itself, and a host its own addresses: no packet leaves the host. Packets of an allowed
//! connection are allowed in both directions until the connection ends or the endpoint is removed.
//!
//! An address that is neither endpoint nor host is subject to policies with a matching CIDR target, on the host that
//! its packets pass; for such an address, the peers `host` and `local` match any host's.

use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use super::party::{Party, Transport};
use super::{Peer, Policy, Rule, Target};
use crate::name::{PolicyName, TenantId, is_pod};
use crate::state::State;

/// TCP ports of hosts that no policy closes: the control plane's API and the replicas' peer port. Without them a
/// policy could not be reverted.
pub const FAILSAFE_PORTS: [u16; 2] = [9600, 9601];
/// ICMPv6 types that every link requires (RFC 4861): not filtered between hosts and endpoints.
pub const NEIGHBOUR_DISCOVERY: core::ops::RangeInclusive<u8> = 133..=136;

/// A direction of traffic, as seen from the side under evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    Ingress,
    Egress,
}

impl Policy {
    /// Whether the policy isolates its targets in a direction.
    #[must_use]
    pub fn isolates(&self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.isolates_ingress,
            Direction::Egress => self.isolates_egress,
        }
    }

    /// Its rules for a direction.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// Why a side is open or closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// No packet leaves the host.
    Itself,
    NotIsolated,
    /// A rule allows it.
    Allowed,
    /// Kubernetes: a node and the pods on it.
    OwnNode,
    /// Romana's own ports, or neighbour discovery.
    Failsafe,
    /// Policies isolate it and no rule allows it.
    Denied,
    /// No policy allows it, and its tenant is not a Kubernetes namespace.
    ClosedByDefault,
    /// Its labels are not known yet.
    Unknown,
}

impl Why {
    /// Whether the side is open.
    #[must_use]
    pub fn is_open(self) -> bool {
        !matches!(self, Self::Denied | Self::ClosedByDefault | Self::Unknown)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Itself => "it does not leave the host or the endpoint",
            Self::NotIsolated => "no policy isolates it",
            Self::Allowed => "a rule allows it",
            Self::OwnNode => "a Kubernetes node and its own pods always reach each other",
            Self::Failsafe => "what Romana and the link need is not filtered on hosts",
            Self::Denied => "policies isolate it, and no rule of them allows this",
            Self::ClosedByDefault => "closed until a policy opens it (not a Kubernetes namespace)",
            Self::Unknown => "closed: the pod of this address is not known yet",
        })
    }
}

/// The result for one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    pub why: Why,
    /// Policies that isolate it.
    pub isolating: Vec<PolicyName>,
    /// Rules that allow it: the policy, and the index of the rule in its list, from 0.
    pub allowing: Vec<(PolicyName, usize)>,
}

/// Whether a connection may be opened, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The source's side.
    pub egress: Side,
    /// The destination's side.
    pub ingress: Side,
}

impl Verdict {
    /// Both sides are open.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.egress.why.is_open() && self.ingress.why.is_open()
    }
}

/// An address, and the policies that select it.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    pub ip: IpAddr,
    pub party: Party<'a>,
    /// Whether its namespace must become known first.
    awaited: bool,
    selecting: Vec<&'a Policy>,
}

impl<'a> Subject<'a> {
    /// Determines which of the policies select an address.
    #[must_use]
    pub fn new(
        state: &'a State,
        ip: IpAddr,
        policies: impl IntoIterator<Item = &'a Policy>,
    ) -> Self {
        let party = Party::at(state, ip);
        let policies: Vec<&Policy> = policies.into_iter().collect();
        let awaited = unknown_namespace(state, ip)
            .is_some_and(|tenant| policies.iter().any(|policy| policy.selects_by_labels(&tenant)));
        let selects = |policy: &&Policy| policy.applied_to.iter().any(|t| selects(t, ip, &party));
        let selecting = policies.into_iter().filter(selects).collect();
        Self { ip, party, awaited, selecting }
    }

    /// The policies that select it.
    pub fn selecting(&self) -> impl Iterator<Item = &'a Policy> {
        self.selecting.iter().copied()
    }

    /// Whether any policy selects it.
    #[must_use]
    pub fn is_selected(&self) -> bool {
        !self.selecting.is_empty()
    }

    /// Whether its traffic is blocked until its namespace is known.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.awaited
    }

    /// Evaluates this side for a packet from or to another address.
    #[must_use]
    pub fn judge(&self, direction: Direction, other: &Self, packet: Transport) -> Side {
        let isolating: Vec<&Policy> =
            self.selecting.iter().copied().filter(|policy| policy.isolates(direction)).collect();
        let destination = match direction {
            Direction::Ingress => self,
            Direction::Egress => other,
        };
        let mut allowing = Vec::new();
        for policy in &isolating {
            for (place, rule) in policy.rules(direction).iter().enumerate() {
                let ports = destination.party.ports();
                if rule.peers.iter().any(|peer| self.meets(peer, other))
                    && rule.traffic.iter().any(|traffic| traffic.matches(packet, ports))
                {
                    allowing.push((policy.name.clone(), place));
                }
            }
        }
        let why = self.exempt(other, packet).unwrap_or_else(|| match &self.party {
            _ if !allowing.is_empty() => Why::Allowed,
            _ if !isolating.is_empty() => Why::Denied,
            Party::Endpoint { identity, .. }
                if direction == Direction::Ingress && !identity.is_kubernetes() =>
            {
                Why::ClosedByDefault
            }
            _ => Why::NotIsolated,
        });
        let isolating = isolating.into_iter().map(|policy| policy.name.clone()).collect();
        Side { why, isolating, allowing }
    }

    /// Cases that are decided before any policy is evaluated.
    fn exempt(&self, other: &Self, packet: Transport) -> Option<Why> {
        let hosts = [self, other].map(|subject| matches!(subject.party, Party::Host(_)));
        let same_host = self.party.host().is_some() && self.party.host() == other.party.host();
        if self.ip == other.ip || hosts == [true, true] && same_host {
            return Some(Why::Itself);
        }
        // Neighbour discovery runs between the ends of a link: hosts share links with each other and with other
        // machines, endpoints with their own host.
        let stranger = self.party.host().is_none();
        let linked = hosts[0] || hosts[1] && (same_host || stranger);
        let discovery = |kind| NEIGHBOUR_DISCOVERY.contains(&kind) && self.ip.is_ipv6();
        if linked && matches!(packet, Transport::Icmp(kind, _) if discovery(kind)) {
            return Some(Why::Failsafe);
        }
        match &self.party {
            _ if self.awaited => Some(Why::Unknown),
            Party::Endpoint { identity, .. } if identity.labels.is_none() => Some(Why::Unknown),
            Party::Endpoint { identity, .. }
                if identity.is_kubernetes() && hosts[1] && same_host =>
            {
                Some(Why::OwnNode)
            }
            Party::Host(_) => match packet {
                Transport::Tcp(port) if FAILSAFE_PORTS.contains(&port) => Some(Why::Failsafe),
                _ => None,
            },
            _ => None,
        }
    }

    fn meets(&self, peer: &Peer, other: &Self) -> bool {
        let near = match (self.party.host(), other.party.host()) {
            (Some(own), other) => other == Some(own),
            (None, other) => other.is_some(),
        };
        match (peer, &other.party) {
            (Peer::Any, _) => true,
            (Peer::Host, party) => near && matches!(party, Party::Host(_)),
            (Peer::Local, party) => near && matches!(party, Party::Endpoint { .. }),
            (Peer::Cidr { cidr, except }, _) => {
                cidr.contains(&other.ip) && !except.iter().any(|part| part.contains(&other.ip))
            }
            (peer, Party::Endpoint { identity, .. }) => peer.includes(identity),
            _ => false,
        }
    }
}

/// The namespace of a pod without an endpoint, if the log does not know the namespace either.
fn unknown_namespace(state: &State, ip: IpAddr) -> Option<TenantId> {
    let address = state.ipam().by_ip(ip).filter(|_| state.endpoint(ip).is_none())?;
    let unknown = is_pod(&address.name, &address.tenant) && state.tenant(&address.tenant).is_none();
    unknown.then_some(address.tenant)
}

fn selects(target: &Target, ip: IpAddr, party: &Party<'_>) -> bool {
    match (target, party) {
        (Target::Cidr(cidr), _) => cidr.contains(&ip),
        (Target::Host, party) => matches!(party, Party::Host(_)),
        (target, Party::Endpoint { identity, .. }) => target.includes(identity),
        _ => false,
    }
}

/// Evaluates a connection between two subjects.
#[must_use]
pub fn judge(source: &Subject<'_>, destination: &Subject<'_>, packet: Transport) -> Verdict {
    Verdict {
        egress: source.judge(Direction::Egress, destination, packet),
        ingress: destination.judge(Direction::Ingress, source, packet),
    }
}

/// Whether a connection may be opened, and which policies decide it.
#[must_use]
pub fn verdict(state: &State, source: IpAddr, destination: IpAddr, packet: Transport) -> Verdict {
    let subject = |ip| Subject::new(state, ip, state.policies());
    judge(&subject(source), &subject(destination), packet)
}

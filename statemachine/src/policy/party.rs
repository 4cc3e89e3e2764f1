//! Identities: the properties of an address that policies use, and whether a target or a peer matches it.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use core::net::IpAddr;

use super::{Peer, Policy, Port, Protocol, Selector, Target, TenantSelector, Traffic};
use crate::command::{Labels, NamedPort};
use crate::name::{HostName, SegmentId, TenantId};
use crate::state::State;

/// A tenant with this label is a Kubernetes namespace: the API server sets it on each (Kubernetes 1.21). Its
/// endpoints accept everything until a policy selects them; those of other tenants accept nothing until a policy
/// allows it.
pub const KUBERNETES_NAMESPACE: &str = "kubernetes.io/metadata.name";

static NO_LABELS: Labels = BTreeMap::new();

/// An endpoint, as policies see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity<'a> {
    pub tenant: &'a TenantId,
    pub tenant_labels: &'a Labels,
    pub segment: &'a SegmentId,
    /// Its labels; `None`: not known yet, as for an address in a block of a Kubernetes namespace until its pod
    /// becomes an endpoint.
    pub labels: Option<&'a Labels>,
}

impl<'a> Identity<'a> {
    /// Identity of an address in a block without an endpoint (yet): only the block's owner is known.
    #[must_use]
    pub fn of_block(
        tenant: &'a TenantId,
        tenant_labels: Option<&'a Labels>,
        segment: &'a SegmentId,
    ) -> Self {
        let known = Self::of_endpoint(tenant, tenant_labels, segment, &NO_LABELS);
        Self { labels: known.labels.filter(|_| !known.is_kubernetes()), ..known }
    }

    /// Identity of an endpoint.
    #[must_use]
    pub fn of_endpoint(
        tenant: &'a TenantId,
        tenant_labels: Option<&'a Labels>,
        segment: &'a SegmentId,
        labels: &'a Labels,
    ) -> Self {
        let tenant_labels = tenant_labels.unwrap_or(&NO_LABELS);
        Self { tenant, tenant_labels, segment, labels: Some(labels) }
    }

    /// Whether its tenant is a Kubernetes namespace.
    #[must_use]
    pub fn is_kubernetes(&self) -> bool {
        self.tenant_labels.contains_key(KUBERNETES_NAMESPACE)
    }
}

impl Selector {
    /// Whether labels match that may be unknown: unknown labels match only an empty selector.
    #[must_use]
    pub fn matches_known(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        match labels {
            Some(labels) => self.matches(labels),
            None => self.labels.is_empty() && self.expressions.is_empty(),
        }
    }
}

impl Policy {
    /// Whether it selects endpoints of the tenant by their labels.
    #[must_use]
    pub fn selects_by_labels(&self, tenant: &TenantId) -> bool {
        self.applied_to.iter().any(|target| match target {
            Target::Endpoints(of, selector) => of == tenant && !selector.matches_known(None),
            _ => false,
        })
    }
}

impl Target {
    /// Whether it matches an endpoint by identity (not by address).
    #[must_use]
    pub fn includes(&self, who: &Identity<'_>) -> bool {
        match self {
            Self::Tenant(tenant) => who.tenant == tenant,
            Self::Segment(tenant, segment) => who.tenant == tenant && who.segment == segment,
            Self::Endpoints(tenant, selector) => {
                who.tenant == tenant && selector.matches_known(who.labels)
            }
            Self::Local => true,
            Self::Cidr(_) | Self::Host => false,
        }
    }
}

impl Peer {
    /// Whether it matches an endpoint by identity (not by address or host).
    #[must_use]
    pub fn includes(&self, who: &Identity<'_>) -> bool {
        match self {
            Self::Tenant(tenant) => who.tenant == tenant,
            Self::Segment(tenant, segment) => who.tenant == tenant && who.segment == segment,
            Self::Endpoints { tenants, endpoints } => {
                let tenant = match tenants {
                    TenantSelector::Id(tenant) => who.tenant == tenant,
                    TenantSelector::Labels(selector) => selector.matches(who.tenant_labels),
                };
                tenant && endpoints.matches_known(who.labels)
            }
            Self::Any | Self::Cidr { .. } | Self::Host | Self::Local => false,
        }
    }
}

/// The protocol and port, or ICMP type and code, of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// TCP to a port.
    Tcp(u16),
    /// UDP to a port.
    Udp(u16),
    /// SCTP to a port.
    Sctp(u16),
    /// ICMP or ICMPv6, type and code.
    Icmp(u8, u8),
    /// Any other protocol.
    Other,
}

impl Transport {
    /// Parses `tcp/80`, `udp/53`, `sctp/9`, `icmp/8`, `icmp/3/1`, `icmp` (an echo request of the family) and `other`.
    ///
    /// # Errors
    /// The problem, as text.
    pub fn parse(text: &str, ipv4: bool) -> Result<Self, String> {
        let mut parts = text.splitn(3, '/');
        let (protocol, first, second) = (parts.next(), parts.next(), parts.next());
        let port = || match first.map(str::parse::<u16>) {
            Some(Ok(port)) if port > 0 && second.is_none() => Ok(port),
            _ => Err(format!("{text:?} needs a port from 1 to 65535, as in tcp/80")),
        };
        let byte = |part: Option<&str>, default| match part.map(str::parse::<u8>) {
            None => Ok(default),
            Some(Ok(byte)) => Ok(byte),
            Some(Err(_)) => Err(format!("{text:?} needs a type and a code to 255, as in icmp/3/1")),
        };
        match protocol.unwrap_or_default() {
            "tcp" => port().map(Self::Tcp),
            "udp" => port().map(Self::Udp),
            "sctp" => port().map(Self::Sctp),
            "icmp" => Ok(Self::Icmp(byte(first, if ipv4 { 8 } else { 128 })?, byte(second, 0)?)),
            "other" if first.is_none() => Ok(Self::Other),
            _ => Err(format!(
                "{text:?} is not tcp/PORT, udp/PORT, sctp/PORT, icmp/TYPE/CODE or other"
            )),
        }
    }

    fn port(self) -> Option<(Protocol, u16)> {
        match self {
            Self::Tcp(port) => Some((Protocol::Tcp, port)),
            Self::Udp(port) => Some((Protocol::Udp, port)),
            Self::Sctp(port) => Some((Protocol::Sctp, port)),
            Self::Icmp(..) | Self::Other => None,
        }
    }
}

impl Traffic {
    /// Whether it matches a packet to a destination with these named ports.
    #[must_use]
    pub fn matches(&self, packet: Transport, destination: &[NamedPort]) -> bool {
        if self.protocol == Protocol::Any {
            return true;
        }
        if let Transport::Icmp(kind, code) = packet {
            let one =
                |icmp: super::Icmp| icmp.kind == kind && icmp.code.is_none_or(|only| only == code);
            return self.protocol == Protocol::Icmp && self.icmp.is_none_or(one);
        }
        let Some((protocol, number)) = packet.port() else { return false };
        let is = |port: &Port| match port {
            Port::Number(only) => *only == number,
            Port::Range(low, high) => (*low..=*high).contains(&number),
            Port::Named(name) => destination.iter().any(|named| {
                named.name == *name && named.protocol == protocol && named.port == number
            }),
        };
        self.protocol == protocol && (self.ports.is_empty() || self.ports.iter().any(is))
    }
}

/// What an address belongs to.
#[derive(Clone, Debug)]
pub enum Party<'a> {
    Endpoint {
        identity: Identity<'a>,
        host: &'a HostName,
        ports: &'a [NamedPort],
    },
    Host(&'a HostName),
    /// Neither: an external address, or bare metal that only CIDRs match.
    Other,
}

impl<'a> Party<'a> {
    /// What an address belongs to: an endpoint; otherwise a host; otherwise the owner of the block that contains it.
    /// An endpoint in a block counts as being on the block's host, whatever its own record says: packets are routed
    /// there.
    #[must_use]
    pub fn at(state: &'a State, ip: IpAddr) -> Self {
        let labels = |tenant: &TenantId| state.tenant(tenant).map(|tenant| &tenant.labels);
        if let Some(found) = state.endpoint(ip) {
            let (tenant, segment) = (&found.tenant, &found.segment);
            let identity = Identity::of_endpoint(tenant, labels(tenant), segment, &found.labels);
            let block = state.ipam().block_of(ip);
            let host = block.map_or(&found.host, |block| &block.owner().host);
            return Self::Endpoint { identity, host, ports: &found.ports };
        }
        if let Some(host) = state.host_at(ip) {
            return Self::Host(&host.name);
        }
        let Some(block) = state.ipam().block_of(ip) else { return Self::Other };
        let owner = block.owner();
        let identity = Identity::of_block(&owner.tenant, labels(&owner.tenant), &owner.segment);
        Self::Endpoint { identity, host: &owner.host, ports: &[] }
    }

    /// The host that the address is on or belongs to.
    #[must_use]
    pub fn host(&self) -> Option<&'a HostName> {
        match self {
            Self::Endpoint { host, .. } | Self::Host(host) => Some(host),
            Self::Other => None,
        }
    }

    /// Its named ports.
    #[must_use]
    pub fn ports(&self) -> &'a [NamedPort] {
        match self {
            Self::Endpoint { ports, .. } => ports,
            Self::Host(_) | Self::Other => &[],
        }
    }
}

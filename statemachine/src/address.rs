//! Which addresses may be used, and what uses them. Hosts, endpoints, VIPs, networks and allocations all apply the
//! same checks, since version 4. Endpoints cannot get the addresses of hosts, VIPs or service ranges, and no network
//! may overlap a service range.

mod check;

use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::command::ReserveServices;
use crate::event::{Event, ServicesReserved};
use crate::limits::SERVICE_RANGES_MAX;
use crate::name::{AddressName, HostName, SegmentId, TenantId, VipName};
use crate::prefix;
use crate::refusal::Refusal;
use crate::state::State;
use crate::vip;

/// Special-purpose ranges that are not reachable unicast addresses (RFC 6890 and the IANA registries it created),
/// with their names.
const SPECIAL: [(IpNet, &str); 9] = [
    (v4([0, 0, 0, 0], 8), "the unspecified address and \"this network\""),
    (v4([127, 0, 0, 0], 8), "loopback"),
    (v4([169, 254, 0, 0], 16), "link-local"),
    (v4([224, 0, 0, 0], 4), "multicast"),
    (v4([240, 0, 0, 0], 4), "reserved, with the broadcast address"),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 96), "the unspecified address, loopback and IPv4-compatible"),
    (MAPPED, "IPv4 written as IPv6"),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "link-local"),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "multicast"),
];

/// IPv4-mapped IPv6 addresses (RFC 4291, section 2.5.5.2).
const MAPPED: IpNet = v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96);

const fn v4(ip: [u8; 4], len: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3]), len))
}

const fn v6(ip: [u16; 8], len: u8) -> IpNet {
    let ip = Ipv6Addr::new(ip[0], ip[1], ip[2], ip[3], ip[4], ip[5], ip[6], ip[7]);
    IpNet::V6(Ipv6Net::new_assert(ip, len))
}

/// Refuses an address in a special-purpose range.
pub(crate) fn check(ip: IpAddr) -> Result<(), Refusal> {
    let special = SPECIAL.iter().find(|(range, _)| range.contains(&ip));
    special.map_or(Ok(()), |(range, what)| {
        let why = format!("it is in {range} ({what}), where no endpoint can be reached");
        Err(Refusal::InvalidAddress { ip, why })
    })
}

/// Refuses a range that overlaps a special-purpose range.
pub(crate) fn check_range(cidr: IpNet) -> Result<(), Refusal> {
    let special = SPECIAL.iter().find(|(range, _)| prefix::overlap(*range, cidr));
    special.map_or(Ok(()), |(range, what)| {
        let why =
            format!("it shares addresses with {range} ({what}), where no endpoint can be reached");
        Err(Refusal::RangeNotUsable { cidr, why })
    })
}

/// Whether a range is IPv4-mapped IPv6: no packet carries such an address.
pub(crate) fn is_mapped(cidr: IpNet) -> bool {
    MAPPED.contains(&cidr)
}

/// What uses an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum User {
    Vip(VipName),
    Host(HostName),
    Endpoint(TenantId, SegmentId),
    Address(AddressName),
    Services(IpNet),
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vip(name) => write!(f, "VIP {name}"),
            Self::Host(name) => write!(f, "host {name}"),
            Self::Endpoint(tenant, segment) => write!(f, "an endpoint of {tenant}/{segment}"),
            Self::Address(name) => write!(f, "address {name}"),
            Self::Services(range) => write!(f, "services, whose range is {range}"),
        }
    }
}

/// Everything that uses an address.
pub(crate) fn users(state: &State, ip: IpAddr) -> impl Iterator<Item = User> {
    let vip = || vip::at(state, ip).map(|vip| User::Vip(vip.name.clone()));
    let host = || state.host_addresses.get(&ip).map(|name| User::Host(name.clone()));
    let endpoint = || {
        let endpoint = state.endpoint(ip)?;
        Some(User::Endpoint(endpoint.tenant.clone(), endpoint.segment.clone()))
    };
    let address = || state.ipam.by_ip(ip).map(|found| User::Address(found.name));
    let services = || state.ipam.services_of(ip).map(User::Services);
    [vip(), host(), endpoint(), address(), services()].into_iter().flatten()
}

/// Refuses an address for an endpoint if a host, a VIP or a service range uses it.
pub(crate) fn check_endpoint(state: &State, ip: IpAddr) -> Result<(), Refusal> {
    let mut users = users(state, ip);
    let other = users.find(|user| matches!(user, User::Host(_) | User::Services(_) | User::Vip(_)));
    other.map_or(Ok(()), |user| Err(Refusal::AddressTaken { ip, by: user.to_string() }))
}

/// Refuses a host address that is in use by anything else, or that lies in a network. A network does not allocate
/// from a blackout, so a host may have an address there.
pub(crate) fn check_host(state: &State, host: &HostName, ip: IpAddr) -> Result<(), Refusal> {
    check(ip)?;
    if let Some(other) = users(state, ip).find(|user| *user != User::Host(host.clone())) {
        return Err(Refusal::AddressTaken { ip, by: other.to_string() });
    }
    let network = state.topology().and_then(|topology| topology.network_around(ip.into()));
    match network.filter(|_| state.ipam.blackout_of(ip).is_none()) {
        None => Ok(()),
        Some(network) => {
            let (network, cidr) = (network.name.clone(), network.cidr);
            Err(Refusal::HostInsideNetwork { host: host.clone(), ip, network, cidr })
        }
    }
}

pub(crate) fn decide_reserve(
    state: &State,
    reserve: &ReserveServices,
) -> Result<Vec<Event>, Refusal> {
    if reserve.ranges.len() > SERVICE_RANGES_MAX {
        let (size, max) = (reserve.ranges.len() as u64, SERVICE_RANGES_MAX as u64);
        return Err(Refusal::TooLarge { field: "ranges".to_string(), size, max });
    }
    let ranges = reserve.ranges.iter().map(|text| prefix::parse(text));
    let mut ranges = ranges.collect::<Result<Vec<IpNet>, Refusal>>()?;
    ranges.sort_unstable();
    ranges.dedup();
    let new = ranges.iter().filter(|range| !state.ipam.services.contains(*range));
    new.copied().try_for_each(|range| check_services(state, range))?;
    if ranges.iter().eq(state.ipam.services.iter()) {
        return Ok(Vec::new());
    }
    Ok(vec![Event::ServicesReserved(ServicesReserved { ranges })])
}

/// Refuses a service range that contains a host, an endpoint or a VIP, or overlaps a network.
fn check_services(state: &State, cidr: IpNet) -> Result<(), Refusal> {
    check_range(cidr)?;
    let mut networks = state.topology().into_iter().flat_map(|topology| topology.networks());
    let network = networks.find(|network| prefix::overlap(network.cidr, cidr));
    let inside = || cidr.network()..=cidr.broadcast();
    let by = network
        .map(|network| format!("network {} ({})", network.name, network.cidr))
        .or_else(|| {
            let (ip, host) = state.host_addresses.range(inside()).next()?;
            Some(format!("{}, {ip}", User::Host(host.clone())))
        })
        .or_else(|| {
            let (ip, endpoint) = state.endpoints.range(inside()).next()?;
            let user = User::Endpoint(endpoint.tenant.clone(), endpoint.segment.clone());
            Some(format!("{user}, {ip}"))
        })
        .or_else(|| {
            let vip = state.vips().find(|vip| cidr.contains(&vip.ip))?;
            Some(format!("{}, {}", User::Vip(vip.name.clone()), vip.ip))
        })
        .or_else(|| {
            let (name, range) = state.vip_pool_in(cidr)?;
            Some(format!("VIP pool {name} ({range})"))
        });
    by.map_or(Ok(()), |by| Err(Refusal::RangeTaken { cidr, by }))
}

impl State {
    /// The service ranges, in order.
    pub fn service_ranges(&self) -> impl Iterator<Item = IpNet> {
        self.ipam.services.iter().copied()
    }

    /// From [`crate::version::ADDRESS_CHECKS`] on, the addresses of hosts are reserved: this reserves those of existing
    /// hosts.
    pub(crate) fn reserve_hosts(&mut self) {
        self.ipam.hosts = self.host_addresses.keys().copied().collect();
    }
}

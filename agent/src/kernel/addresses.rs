//! Addresses of VIPs on the host's links, and the links that can have them.
//!
//! They are marked as ours ([`ADDRESS_PROTOCOL`]), and all have a lifetime, so that the kernel removes them if nobody
//! renews them. The host does not use them for its own connections: their scope is the link (IPv4), and they are
//! deprecated from the start (IPv6), which changes nothing for clients.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rustix::io::Errno;

use super::batch::{self, Ask};
use super::{
    KernelError, dump_addresses, dump_links, has_errno, is_of_vip, name_of, network, own_ip,
};
use crate::ownership::{ADDRESS_PROTOCOL, LINK_PREFIX};

/// A link of the host that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipLink {
    pub index: u32,
    pub name: String,
    /// Its Ethernet address; `None`: it is of another kind, and cannot have VIPs.
    pub mac: Option<[u8; 6]>,
    /// Whether it is up and has a carrier.
    pub carrier: bool,
    /// The subnets of the host's own addresses on it, without link-local ones.
    pub subnets: Vec<IpNet>,
}

/// An address on a link of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VipAddress {
    pub ip: IpAddr,
    pub link: u32,
    /// Whether we added it.
    pub ours: bool,
    /// Whether the kernel does not use it, because another host was found to have it.
    pub failed: bool,
}

/// Links and addresses of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VipFacts {
    pub links: Vec<VipLink>,
    pub addresses: Vec<VipAddress>,
}

/// Reads links and addresses.
///
/// # Errors
/// [`KernelError`].
pub async fn read(handle: &Handle) -> Result<VipFacts, KernelError> {
    let (links, addresses) = (dump_links(handle).await?, dump_addresses(handle).await?);
    let links = links.iter().filter_map(|link| vip_link(link, &addresses));
    let links = links.collect();
    let addresses = addresses.iter().filter_map(|message| {
        let ip = own_ip(message)?;
        let failed = flags(message).contains(AddressFlags::Dadfailed);
        Some(VipAddress { ip, link: message.header.index, ours: is_of_vip(message), failed })
    });
    Ok(VipFacts { links, addresses: addresses.collect() })
}

fn vip_link(link: &LinkMessage, addresses: &[AddressMessage]) -> Option<VipLink> {
    let name = name_of(link).filter(|name| !name.starts_with(LINK_PREFIX))?;
    let (index, flags) = (link.header.index, link.header.flags);
    if flags.contains(LinkFlags::Loopback) {
        return None;
    }
    let mac = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
        _ => None,
    });
    let here = addresses.iter().filter(|message| message.header.index == index);
    let own = here.filter(|message| !is_of_vip(message)).filter_map(subnet_of);
    let mut subnets: Vec<IpNet> = own.collect();
    subnets.sort_unstable();
    subnets.dedup();
    let carrier = flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
    Some(VipLink { index, name, mac, carrier, subnets })
}

/// The subnet of an address; `None`: it has no neighbours.
fn subnet_of(message: &AddressMessage) -> Option<IpNet> {
    let subnet = network(own_ip(message)?, message.header.prefix_len)?;
    let local = matches!(subnet, IpNet::V6(subnet) if subnet.addr().is_unicast_link_local());
    (!local && subnet.prefix_len() < subnet.max_prefix_len()).then_some(subnet)
}

fn flags(message: &AddressMessage) -> AddressFlags {
    let whole = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    whole.unwrap_or_else(|| AddressFlags::from_bits_retain(message.header.flags.bits().into()))
}

/// A change of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Add it, if the link does not have it.
    Add { ip: IpAddr, link: u32, seconds: u32 },
    /// Set its lifetime; add it if the link does not have it.
    Renew { ip: IpAddr, link: u32, seconds: u32 },
    /// Remove it. Done, too, if the link does not have it.
    Remove { ip: IpAddr, link: u32 },
}

/// The outcome of a [`Write`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    Done,
    /// The link has the address already.
    Exists,
    /// Why the kernel refused.
    Failed(String),
}

/// Changes addresses in order. Blocking. Returns an outcome for each.
///
/// # Errors
/// The socket failed: the outcome is unknown.
pub fn write(writes: &[Write]) -> io::Result<Vec<Written>> {
    if writes.is_empty() {
        return Ok(Vec::new());
    }
    let asks = writes.iter().map(|write| match *write {
        Write::Add { ip, link, seconds } => Ask::AddAddress(message(ip, link, Some(seconds))),
        Write::Renew { ip, link, seconds } => Ask::RenewAddress(message(ip, link, Some(seconds))),
        Write::Remove { ip, link } => Ask::RemoveAddress(message(ip, link, None)),
    });
    let outcomes = batch::apply(asks.collect())?;
    let judged = writes.iter().zip(outcomes).map(|(write, outcome)| match outcome {
        Ok(()) => Written::Done,
        Err(error) => judge(*write, &error),
    });
    Ok(judged.collect())
}

fn judge(write: Write, error: &rtnetlink::Error) -> Written {
    let is = |errno| has_errno(error, errno);
    match write {
        Write::Remove { .. } if is(Errno::ADDRNOTAVAIL) || is(Errno::NODEV) => Written::Done,
        Write::Add { .. } if is(Errno::EXIST) => Written::Exists,
        _ => Written::Failed(error.to_string()),
    }
}

/// A message about an address; `seconds`: its lifetime.
fn message(ip: IpAddr, link: u32, seconds: Option<u32>) -> AddressMessage {
    let mut message = AddressMessage::default();
    let header = &mut message.header;
    header.index = link;
    (header.family, header.prefix_len, header.scope) = match ip {
        IpAddr::V4(_) => (AddressFamily::Inet, 32, AddressScope::Link),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128, AddressScope::Universe),
    };
    message.attributes.push(AddressAttribute::Local(ip));
    message.attributes.push(AddressAttribute::Address(ip));
    if let Some(seconds) = seconds {
        let mut lifetime = CacheInfo::default();
        lifetime.ifa_valid = seconds;
        // It is deprecated: clients reach it, and the host does not choose it as a source.
        lifetime.ifa_preferred = 0;
        message.attributes.push(AddressAttribute::CacheInfo(lifetime));
        message
            .attributes
            .push(AddressAttribute::Protocol(AddressProtocol::from(ADDRESS_PROTOCOL)));
        if ip.is_ipv6() {
            // The lease is what makes it unique.
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
    }
    message
}

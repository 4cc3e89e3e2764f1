//! Creates veth pairs between the host and containers, and configures the container's namespace.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use futures_util::StreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute};
use rtnetlink::{Handle, IpVersion, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use rustix::io::Errno;

use super::netns::Netns;
use super::{
    KernelError, dump_addresses, dump_links, dump_routes, has_errno, host_routes, name_of,
};
use crate::ipc::Link;
use crate::ownership::LINK_PREFIX;
use crate::sysctl::Sysctls;

/// Link-local addresses of the host's end: the next hops of routes in containers. With on-link routes, a container
/// would have a neighbour entry for every destination; a kernel has 1024 for all its namespaces by default
/// (`gc_thresh3`), and IPv6 would need an NDP proxy entry for each as well.
const GATEWAY_V4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY_V6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Base number of route tables for additional interfaces of a container; the link's index is added.
const TABLES: u32 = 57_000;

/// A veth pair to create.
#[derive(Clone, Debug)]
pub struct Pair {
    pub host_link: String,
    /// Name of the container's interface.
    pub ifname: String,
    /// MTU of both ends.
    pub mtu: u32,
    /// MAC address of the container's end; `None`: chosen by the kernel.
    pub mac: Option<[u8; 6]>,
    /// Addresses of the container's end.
    pub addresses: Vec<IpAddr>,
}

/// Creates a pair: the container's end is in its namespace and up, with addresses and default routes; the
/// host's end is up and proxies ARP.
///
/// # Errors
/// [`KernelError`]; the pair may exist partly then, and deleting the host's end removes it.
pub async fn make(
    handle: &Handle,
    netns: &Netns,
    pair: &Pair,
    sysctls: &Sysctls,
) -> Result<(Link, Link), KernelError> {
    create(handle, netns, pair).await?;
    let host = find(handle, &pair.host_link).await?;
    let index = host.header.index;
    host_settings(sysctls, &pair.host_link, &pair.addresses)?;
    let own = || KernelError::asked("the host's address of the pair");
    if pair.addresses.iter().any(IpAddr::is_ipv4) {
        add_gateway_v4(handle, index).await.map_err(own())?;
    }
    if pair.addresses.iter().any(IpAddr::is_ipv6) {
        add_address(handle, index, IpAddr::V6(GATEWAY_V6), 64).await.map_err(own())?;
    }
    set_up(handle, index).await?;
    let (inside, sysctls) = (pair.clone(), sysctls.clone());
    let link =
        netns.within("the namespace", async move |handle| settle(&handle, &inside, &sysctls).await);
    Ok((shown(&host, pair), link.await?))
}

async fn create(handle: &Handle, netns: &Netns, pair: &Pair) -> Result<(), KernelError> {
    let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(pair.ifname.clone())
        .mtu(pair.mtu)
        .setns_by_fd(netns.0.as_raw_fd());
    if let Some(mac) = pair.mac {
        peer = peer.address(mac.to_vec());
    }
    let message = LinkVeth::new(&pair.host_link, &pair.ifname)
        .mtu(pair.mtu)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())))
        .build();
    let made = handle.link().add(message).execute().await;
    made.map_err(KernelError::asked(format!("the pair {} – {}", pair.host_link, pair.ifname)))
}

/// Configures the container's end, inside its namespace: sysctls of the network are those of the thread's namespace.
async fn settle(handle: &Handle, pair: &Pair, sysctls: &Sysctls) -> Result<Link, KernelError> {
    let link = find(handle, &pair.ifname).await?;
    let index = link.header.index;
    if pair.addresses.iter().any(IpAddr::is_ipv6) {
        // Runtimes disable IPv6 if they expect none.
        write(sysctls, &format!("net/ipv6/conf/{}/disable_ipv6", pair.ifname), "0")?;
        write(sysctls, &format!("net/ipv6/conf/{}/accept_ra", pair.ifname), "0")?;
    }
    set_up(handle, index).await?;
    for ip in &pair.addresses {
        let length = if ip.is_ipv4() { 32 } else { 128 };
        let added = add_address(handle, index, *ip, length).await;
        added.map_err(KernelError::asked(format!("address {ip} in the container")))?;
        default_by(handle, *ip, index).await?;
    }
    Ok(shown(&link, pair))
}

/// Adds a default route to the host. If another interface has one already, this interface gets a
/// route table and a rule for packets from its address, and a default route of lower priority
/// for when the first is removed.
async fn default_by(handle: &Handle, ip: IpAddr, link: u32) -> Result<(), KernelError> {
    let asked = || KernelError::asked("the default route in the container");
    match handle.route().add(default_route(ip, link)).execute().await {
        Err(error) if has_errno(&error, Errno::EXIST) => {}
        added => return added.map_err(asked()),
    }
    remove_old_rules(handle).await?;
    let own = TABLES + link;
    let mut second = default_route(ip, link);
    second.attributes.push(RouteAttribute::Priority(own));
    handle.route().add(second).execute().await.map_err(asked())?;
    let mut route = default_route(ip, link);
    route.header.table = RouteHeader::RT_TABLE_UNSPEC;
    route.attributes.push(RouteAttribute::Table(own));
    handle.route().add(route).execute().await.map_err(asked())?;
    let rule = handle.rule().add().table_id(own).action(RuleAction::ToTable);
    let added = match ip {
        IpAddr::V4(ip) => rule.v4().source_prefix(ip, 32).execute().await,
        IpAddr::V6(ip) => rule.v6().source_prefix(ip, 128).execute().await,
    };
    added.map_err(KernelError::asked("the rule for a second interface of the container"))
}

/// Removes rules of interfaces that no longer exist; their tables vanished with the links.
async fn remove_old_rules(handle: &Handle) -> Result<(), KernelError> {
    let links = dump_links(handle).await?;
    let is_old = |table: u32| {
        let index = table.checked_sub(TABLES).filter(|index| *index < TABLES);
        index.is_some_and(|index| !links.iter().any(|link| link.header.index == index))
    };
    for version in [IpVersion::V4, IpVersion::V6] {
        let rules: Vec<_> = handle.rule().get(version).execute().collect().await;
        for rule in rules.into_iter().flatten() {
            let table = rule.attributes.iter().find_map(|attribute| match attribute {
                RuleAttribute::Table(table) => Some(*table),
                _ => None,
            });
            if table.is_some_and(is_old) {
                let removed = handle.rule().del(rule).execute().await;
                removed.map_err(KernelError::asked("the end of a rule in the container"))?;
            }
        }
    }
    Ok(())
}

fn default_route(of: IpAddr, link: u32) -> RouteMessage {
    match of {
        IpAddr::V4(_) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .output_interface(link)
            .gateway(GATEWAY_V4)
            .onlink()
            .build(),
        IpAddr::V6(_) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .output_interface(link)
            .gateway(GATEWAY_V6)
            .build(),
    }
}

/// Gives the host's end its IPv4 address. Its scope is the host, so that the kernel does not choose it as the source
/// of the host's own packets to the container.
async fn add_gateway_v4(handle: &Handle, link: u32) -> Result<(), rtnetlink::Error> {
    let mut ask = handle.address().add(link, IpAddr::V4(GATEWAY_V4), 32);
    ask.message_mut().header.scope = AddressScope::Host;
    ask.execute().await
}

async fn add_address(
    handle: &Handle,
    link: u32,
    ip: IpAddr,
    length: u8,
) -> Result<(), rtnetlink::Error> {
    let mut ask = handle.address().add(link, ip, length);
    if ip.is_ipv6() {
        // The allocation guarantees that the address is unique, so no duplicate detection.
        ask.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    ask.execute().await
}

/// Makes the host's end answer ARP for every address that has a route, without delay: containers that an earlier
/// release attached have on-link routes.
fn host_settings(sysctls: &Sysctls, link: &str, ips: &[IpAddr]) -> Result<(), KernelError> {
    if ips.iter().any(IpAddr::is_ipv4) {
        write(sysctls, &format!("net/ipv4/conf/{link}/proxy_arp"), "1")?;
        write(sysctls, &format!("net/ipv4/neigh/{link}/proxy_delay"), "0")?;
    }
    if ips.iter().any(IpAddr::is_ipv6) {
        write(sysctls, &format!("net/ipv6/conf/{link}/disable_ipv6"), "0")?;
    }
    Ok(())
}

/// The first setting that differs from [`host_settings`], as a message.
#[must_use]
pub fn wrong_setting(sysctls: &Sysctls, link: &str, ips: &[IpAddr]) -> Option<String> {
    let (v4, v6) = (ips.iter().any(IpAddr::is_ipv4), ips.iter().any(IpAddr::is_ipv6));
    let v4 = v4.then(|| (format!("net/ipv4/conf/{link}/proxy_arp"), "1"));
    let v6 = v6.then(|| (format!("net/ipv6/conf/{link}/disable_ipv6"), "0"));
    v4.into_iter().chain(v6).find_map(|(name, wanted)| {
        let found = sysctls.read(&name).unwrap_or_default();
        (found != wanted).then(|| format!("{name} is {found:?}, not {wanted}"))
    })
}

fn write(sysctls: &Sysctls, name: &str, value: &str) -> Result<(), KernelError> {
    let path = sysctls.path(name).display().to_string();
    sysctls.write(name, value).map_err(|source| KernelError::Sysctl { path, source })
}

async fn set_up(handle: &Handle, index: u32) -> Result<(), KernelError> {
    let message = LinkUnspec::new_with_index(index).up().build();
    handle.link().change(message).execute().await.map_err(KernelError::asked("a link up"))
}

async fn find(handle: &Handle, name: &str) -> Result<LinkMessage, KernelError> {
    let missing = || KernelError::asked(format!("link {name}"))(rtnetlink::Error::RequestFailed);
    look_up(handle, name).await?.ok_or_else(missing)
}

/// `None`: the link does not exist. A failed query is an error.
async fn look_up(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, KernelError> {
    let mut found = handle.link().get().match_name(name.to_owned()).execute();
    match found.next().await {
        None => Ok(None),
        Some(Err(error)) if has_errno(&error, Errno::NODEV) => Ok(None),
        Some(link) => link.map(Some).map_err(KernelError::asked(format!("link {name}"))),
    }
}

/// The host's end with this name, if it exists.
///
/// # Errors
/// [`KernelError`]: the query failed.
pub async fn host_end(handle: &Handle, name: &str) -> Result<Option<HostEnd>, KernelError> {
    Ok(look_up(handle, name).await?.as_ref().map(HostEnd::from))
}

/// Deletes a link of the host, if it exists.
///
/// # Errors
/// [`KernelError`].
pub async fn delete(handle: &Handle, name: &str) -> Result<(), KernelError> {
    let Some(link) = look_up(handle, name).await? else { return Ok(()) };
    let deleted = handle.link().del(link.header.index).execute().await;
    match deleted {
        // It vanished with its namespace in the meantime.
        Err(error) if has_errno(&error, Errno::NODEV) => Ok(()),
        deleted => deleted.map_err(KernelError::asked(format!("the end of link {name}"))),
    }
}

/// Routes a container's address to its link.
///
/// # Errors
/// [`KernelError`].
pub async fn route(
    handle: &Handle,
    table: u32,
    ip: IpAddr,
    host_link: &str,
) -> Result<(), KernelError> {
    let index = find(handle, host_link).await?.header.index;
    host_routes::set(handle, table, ip, index).await
}

/// The host's end of an attachment's pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostEnd {
    pub index: u32,
    pub up: bool,
}

/// Host ends of pairs, by name.
///
/// # Errors
/// [`KernelError`].
pub async fn host_ends(handle: &Handle) -> Result<BTreeMap<String, HostEnd>, KernelError> {
    let links = dump_links(handle).await?;
    let named = links.iter().filter_map(|link| Some((name_of(link)?, HostEnd::from(link))));
    Ok(named.filter(|(name, _)| name.starts_with(LINK_PREFIX)).collect())
}

impl From<&LinkMessage> for HostEnd {
    fn from(link: &LinkMessage) -> Self {
        Self { index: link.header.index, up: link.header.flags.contains(LinkFlags::Up) }
    }
}

/// Restores the host side of an attachment: settings and link-local addresses of the host's end (that of IPv6
/// is lost when it goes down), and host routes.
///
/// # Errors
/// [`KernelError`].
pub async fn restore(
    handle: &Handle,
    sysctls: &Sysctls,
    table: u32,
    (host_link, index): (&str, u32),
    ips: &[IpAddr],
) -> Result<(), KernelError> {
    host_settings(sysctls, host_link, ips)?;
    if ips.iter().any(IpAddr::is_ipv4) {
        match add_gateway_v4(handle, index).await {
            Err(error) if has_errno(&error, Errno::EXIST) => {}
            added => added.map_err(KernelError::asked("the host's address of the pair"))?,
        }
    }
    if ips.iter().any(IpAddr::is_ipv6) {
        match add_address(handle, index, IpAddr::V6(GATEWAY_V6), 64).await {
            Err(error) if has_errno(&error, Errno::EXIST) => {}
            added => added.map_err(KernelError::asked("the host's address of the pair"))?,
        }
    }
    for ip in ips {
        host_routes::set(handle, table, *ip, index).await?;
    }
    Ok(())
}

/// State of an attachment inside its container.
#[derive(Clone, Debug, Default)]
pub struct Inside {
    /// Whether the interface exists and is up.
    pub up: bool,
    pub addresses: Vec<IpNet>,
    /// Whether it has a default route, for IPv4 and IPv6.
    pub default: (bool, bool),
}

/// Reads the state of an interface inside a container.
///
/// # Errors
/// [`KernelError`].
pub async fn look(netns: &Netns, ifname: &str) -> Result<Inside, KernelError> {
    let ifname = ifname.to_owned();
    let looked = netns.within("the namespace", async move |handle| {
        let Some(link) = look_up(&handle, &ifname).await? else { return Ok(Inside::default()) };
        let index = link.header.index;
        let addresses = dump_addresses(&handle).await?;
        let addresses = addresses.iter().filter(|message| message.header.index == index);
        let mut inside = Inside {
            up: link.header.flags.contains(LinkFlags::Up),
            addresses: addresses.filter_map(whole_address).collect(),
            default: (false, false),
        };
        for (family, v4) in [(AddressFamily::Inet, true), (AddressFamily::Inet6, false)] {
            let mut ask = RouteMessage::default();
            ask.header.address_family = family;
            let routes = dump_routes(&handle, ask).await?;
            let found = routes.iter().any(|route| {
                let through = route.attributes.contains(&RouteAttribute::Oif(index));
                through && route.header.destination_prefix_length == 0
            });
            *(if v4 { &mut inside.default.0 } else { &mut inside.default.1 }) = found;
        }
        Ok(inside)
    });
    looked.await
}

fn whole_address(message: &AddressMessage) -> Option<IpNet> {
    let ip = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    IpNet::new(ip?, message.header.prefix_len).ok()
}

fn shown(link: &LinkMessage, pair: &Pair) -> Link {
    let mut shown = Link { name: String::new(), mac: String::new(), mtu: pair.mtu };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => shown.name.clone_from(name),
            LinkAttribute::Address(mac) => {
                let bytes: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
                shown.mac = bytes.join(":");
            }
            LinkAttribute::Mtu(mtu) => shown.mtu = *mtu,
            _ => {}
        }
    }
    shown
}

//! Reads the host's links, addresses and neighbours, and watches them for changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::StreamExt;
use rtnetlink::packet_core::{NLM_F_REPLACE, NetlinkPayload};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::routes::is_host_route;
use super::taken::Taken;
use super::{
    KernelError, Way, dump_addresses, dump_links, dump_neighbours, dump_routes, is_of_vip, name_of,
    network, own_ip,
};
use crate::ownership::{LINK_PREFIX, ROUTE_PROTOCOL};
use crate::routes::{Facts, Gateway, Link};

/// Links of the host.
#[derive(Clone, Debug, Default)]
pub struct Links {
    /// Links that are up and not ours.
    pub foreign: Vec<Link>,
    /// MTU of each link, by name.
    pub mtu: BTreeMap<String, u32>,
}

impl Links {
    /// MTU of a link.
    #[must_use]
    pub fn mtu_of(&self, index: u32) -> Option<u32> {
        let link = self.foreign.iter().find(|link| link.index == index)?;
        self.mtu.get(&link.name).copied()
    }
}

/// Reads the links and their networks.
///
/// # Errors
/// [`KernelError`].
pub async fn links(handle: &Handle) -> Result<Links, KernelError> {
    let (all, addresses) = (dump_links(handle).await?, dump_addresses(handle).await?);
    let mut links = Links::default();
    for link in &all {
        let Some(name) = name_of(link) else { continue };
        let index = link.header.index;
        if name.starts_with(LINK_PREFIX) {
            continue;
        }
        links.mtu.extend(mtu_of(link).map(|mtu| (name.clone(), mtu)));
        let flags = link.header.flags;
        if flags.contains(LinkFlags::Up) && !flags.contains(LinkFlags::Loopback) {
            let here = addresses.iter().filter(|address| address.header.index == index);
            let here = here.filter(|address| !is_of_vip(address));
            let prefixes = here.filter_map(prefix_of).collect();
            links.foreign.push(Link { index, name, prefixes });
        }
    }
    Ok(links)
}

fn mtu_of(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

/// The network of an address; `None` for link-local ones, which do not identify a network.
fn prefix_of(message: &AddressMessage) -> Option<ipnet::IpNet> {
    let ip = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    })?;
    let local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    if local { None } else { network(ip, message.header.prefix_len) }
}

/// The gateway towards an address; `None` if it is on a link.
pub async fn gateway(handle: &Handle, ip: IpAddr) -> Option<Gateway> {
    let Way { via, link, .. } = Way::from(&route_to(handle, ip).await?);
    Some(Gateway { via: via?, link: link? })
}

/// The link towards another host, and the preferred source address.
pub async fn reach(handle: &Handle, ip: IpAddr) -> Option<(u32, Option<IpAddr>)> {
    let route = route_to(handle, ip).await?;
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    let source = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(ip) => super::address(ip),
        _ => None,
    });
    Some((Way::from(&route).link?, source))
}

/// The kernel's route to an address.
async fn route_to(handle: &Handle, ip: IpAddr) -> Option<RouteMessage> {
    let length = if ip.is_ipv4() { 32 } else { 128 };
    let mut ask = RouteMessageBuilder::<IpAddr>::new().destination_prefix(ip, length).ok()?.build();
    // With strict checks the kernel refuses requests with other header fields set.
    ask.header = RouteHeader {
        address_family: ask.header.address_family,
        destination_prefix_length: length,
        ..RouteHeader::default()
    };
    handle.route().get(ask).execute().next().await?.ok()
}

/// Addresses of this host towards others, IPv4 first, at most one of each family: the source address of the
/// route to the first reachable one of `others`; else an address of the default route's link.
///
/// # Errors
/// [`KernelError`].
pub async fn own_addresses(handle: &Handle, others: &[IpAddr]) -> Result<Vec<IpAddr>, KernelError> {
    let mut own = Vec::new();
    let addresses = dump_addresses(handle).await?;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let v4 = family == AddressFamily::Inet;
        let mut source = None;
        for other in others.iter().filter(|other| other.is_ipv4() == v4) {
            source = source.or(reach(handle, *other).await.and_then(|(_, source)| source));
        }
        if let Some(source) = source {
            own.push(source);
            continue;
        }
        let mut ask = RouteMessage::default();
        (ask.header.address_family, ask.header.table) = (family, RouteHeader::RT_TABLE_MAIN);
        let routes = dump_routes(handle, ask).await?;
        let default = routes.iter().find(|route| route.header.destination_prefix_length == 0);
        let link = default.and_then(|route| Way::from(route).link);
        let on_it = addresses.iter().find(|address| {
            let header = &address.header;
            Some(header.index) == link
                && header.family == family
                && header.scope == AddressScope::Universe
                && !is_of_vip(address)
        });
        own.extend(on_it.and_then(own_ip));
    }
    Ok(own)
}

/// Which of these addresses do not answer on their link; also makes the kernel probe them again. An address
/// that is being probed counts as silent if it has never answered, or not recently.
///
/// # Errors
/// [`KernelError`].
pub async fn silent(
    handle: &Handle,
    asked: &BTreeMap<IpAddr, u32>,
) -> Result<BTreeSet<IpAddr>, KernelError> {
    if asked.is_empty() {
        return Ok(BTreeSet::new());
    }
    let all = dump_neighbours(handle).await?;
    let unanswered = |entry: &&NeighbourMessage| {
        matches!(entry.header.state, NeighbourState::Failed | NeighbourState::Incomplete)
    };
    let silent = all
        .iter()
        .filter(unanswered)
        .filter_map(neighbour_ip)
        .filter(|ip| asked.contains_key(ip))
        .collect();
    let states: BTreeMap<IpAddr, NeighbourState> =
        all.iter().filter_map(|entry| Some((neighbour_ip(entry)?, entry.header.state))).collect();
    for (ip, link) in asked {
        let Some((state, flags)) = probing(states.get(ip).copied()) else { continue };
        let mut probe = handle.neighbours().add(*link, *ip).replace();
        let header = &mut probe.message_mut().header;
        (header.state, header.flags) = (state, flags);
        if let Err(error) = probe.execute().await {
            tracing::debug!(%ip, %error, "neighbour probe failed");
        }
    }
    Ok(silent)
}

/// State that makes the kernel probe a neighbour now; a recent answer would
/// otherwise be trusted for up to 45 s.
fn probing(state: Option<NeighbourState>) -> Option<(NeighbourState, NeighbourFlags)> {
    match state {
        // It is being probed, or never is.
        Some(
            NeighbourState::Probe
            | NeighbourState::Incomplete
            | NeighbourState::Permanent
            | NeighbourState::Noarp,
        ) => None,
        Some(NeighbourState::Reachable | NeighbourState::Stale | NeighbourState::Delay) => {
            Some((NeighbourState::Probe, NeighbourFlags::empty()))
        }
        _ => Some((NeighbourState::None, NeighbourFlags::Use)),
    }
}

fn neighbour_ip(entry: &NeighbourMessage) -> Option<IpAddr> {
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })
}

/// Watches the kernel for changes until `stop`. If that fails, the timers of the reconcilers remain. `wake`: notified of
/// changes of links, addresses and our routes.
pub async fn watch_all(wake: [Arc<Notify>; 2], taken: Arc<Taken>, stop: CancellationToken) {
    let watching = async {
        let wake = || wake.iter().for_each(|waiting| waiting.notify_one());
        if let Err(error) = watch(&wake, &taken).await {
            tracing::warn!(%error, "watching the kernel failed: changes are found by the timer");
        }
        std::future::pending().await
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = watching => {}
    }
}

/// Calls `wake` on changes of links, addresses and our routes, and tells the attachment reconciler
/// when our routes are removed or our links change. Runs until it is dropped.
///
/// # Errors
/// The socket cannot be opened.
async fn watch(wake: &(impl Fn() + Sync), taken: &Taken) -> Result<(), KernelError> {
    let (connection, _handle, mut messages) = new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ])?;
    let listen = async {
        while let Some((message, _)) = messages.next().await {
            let replaces = message.header.flags & NLM_F_REPLACE != 0;
            let message = match message.payload {
                NetlinkPayload::InnerMessage(message) => message,
                // Events were lost: anything may have changed.
                NetlinkPayload::Overrun(_) => {
                    wake();
                    taken.everything();
                    continue;
                }
                _ => continue,
            };
            if concerns_routes(&message, replaces) {
                wake();
            }
            tell(&message, taken);
        }
    };
    tokio::select! {
        () = connection => {}
        () = listen => {}
    }
    Ok(())
}

/// Other programs' routes change all the time; if one replaces ours, the message contains ours. Links of
/// attachments do not affect routes to other hosts.
fn concerns_routes(message: &RouteNetlinkMessage, replaces: bool) -> bool {
    match message {
        RouteNetlinkMessage::DelRoute(route) => is_ours(route) && !is_host_route(route),
        RouteNetlinkMessage::NewRoute(route) => replaces && !is_ours(route),
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            !is_host_end(link)
        }
        // Every host end has link-local addresses, which do not affect routes.
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            prefix_of(address).is_some() && !is_of_vip(address)
        }
        _ => true,
    }
}

/// Records changes that affect attachments. A host link that goes down loses its
/// routes without a message for each.
fn tell(message: &RouteNetlinkMessage, taken: &Taken) {
    match message {
        RouteNetlinkMessage::DelRoute(route) if is_ours(route) && is_host_route(route) => {
            Way::from(route).to.into_iter().for_each(|ip| taken.route(ip));
        }
        // A route that replaces ours or takes precedence over it.
        RouteNetlinkMessage::NewRoute(route) if !is_ours(route) && is_whole(route) => {
            Way::from(route).to.into_iter().for_each(|ip| taken.route(ip));
        }
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            let name = name_of(link).filter(|name| name.starts_with(LINK_PREFIX));
            name.into_iter().for_each(|name| taken.link(name));
        }
        _ => {}
    }
}

/// Whether a route is to a single address.
fn is_whole(route: &RouteMessage) -> bool {
    matches!(
        (route.header.address_family, route.header.destination_prefix_length),
        (AddressFamily::Inet, 32) | (AddressFamily::Inet6, 128)
    )
}

fn is_ours(route: &RouteMessage) -> bool {
    u8::from(route.header.protocol) == ROUTE_PROTOCOL
}

fn is_host_end(link: &LinkMessage) -> bool {
    name_of(link).is_some_and(|name| name.starts_with(LINK_PREFIX))
}

/// Assembles the input of a plan.
#[must_use]
pub fn facts(
    links: &Links,
    gateways: BTreeMap<IpAddr, Gateway>,
    silent: BTreeSet<IpAddr>,
) -> Facts {
    Facts { links: links.foreign.clone(), gateways, silent }
}

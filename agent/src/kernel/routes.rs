//! Reads and writes our routes to blocks: those of [`ROUTE_PROTOCOL`] in one table, except host routes,
//! which belong to [`crate::attach`].
//!
//! Routes and links are not read atomically, so no decision here depends on a link's owner: a host route is
//! recognised by its form (a single address, on-link), and a removal names protocol, type and next hops of
//! the route that was read. A route that has changed since is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteMessage, RouteNextHop, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder, RouteNextHopBuilder};
use rustix::io::Errno;

use super::batch::{self, Ask};
use super::{KernelError, Way, address, dump_routes, has_errno, network};
use crate::ownership::ROUTE_PROTOCOL;
use crate::routes::{Change, Hop, Target};

/// The main table (rt_tables).
pub const MAIN_TABLE: u32 = 254;

/// A route table; the routes of our protocol in it are ours.
#[derive(Clone)]
pub struct RouteTable {
    handle: Handle,
    table: u32,
    writes: Arc<AtomicU64>,
}

impl RouteTable {
    /// The table with this number. `handle` needs strict checks, so that the kernel filters dumps.
    #[must_use]
    pub fn new(handle: Handle, table: u32) -> Self {
        Self { handle, table, writes: Arc::default() }
    }

    /// Number of changes requested since the start.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Our routes, except host routes.
    ///
    /// # Errors
    /// [`KernelError`].
    pub async fn read(&self) -> Result<BTreeMap<IpNet, Target>, KernelError> {
        let mut found = BTreeMap::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut ask = RouteMessage::default();
            ask.header.address_family = family;
            ask.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
            ask.attributes.push(RouteAttribute::Table(self.table));
            let routes = dump_routes(&self.handle, ask).await?;
            let ours = routes.iter().filter(|route| self.is_ours(route));
            found.extend(ours.filter_map(understand));
        }
        Ok(found)
    }

    /// Prefixes of other programs' routes in this table.
    ///
    /// # Errors
    /// [`KernelError`].
    pub async fn foreign(&self) -> Result<BTreeSet<IpNet>, KernelError> {
        let mut found = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut ask = RouteMessage::default();
            ask.header.address_family = family;
            ask.attributes.push(RouteAttribute::Table(self.table));
            let routes = dump_routes(&self.handle, ask).await?;
            let others = routes.iter().filter(|route| !self.is_ours(route));
            found.extend(others.filter_map(|route| {
                network(Way::from(route).to?, route.header.destination_prefix_length)
            }));
        }
        Ok(found)
    }

    /// Needed because a kernel without strict checks ignores the filter.
    fn is_ours(&self, route: &RouteMessage) -> bool {
        let table = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
        u8::from(route.header.protocol) == ROUTE_PROTOCOL
            && table.unwrap_or_else(|| u32::from(route.header.table)) == self.table
    }

    /// Applies changes in order. Returns those that failed.
    ///
    /// # Errors
    /// [`KernelError::Socket`]: the outcome is unknown.
    pub async fn apply(
        &self,
        changes: Vec<Change>,
    ) -> Result<Vec<(Change, KernelError)>, KernelError> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        self.writes.fetch_add(changes.len() as u64, Ordering::Relaxed);
        let asks = changes.iter().map(|change| match change {
            Change::Add(prefix, target) => Ask::Add(self.message(*prefix, target)),
            Change::Replace(prefix, target) => Ask::Replace(self.message(*prefix, target)),
            Change::Remove(prefix, target) => Ask::Remove(self.removal(*prefix, target)),
        });
        let asks = asks.collect();
        let done = tokio::task::spawn_blocking(move || batch::apply(asks)).await;
        let outcomes = done.map_err(std::io::Error::other)??;
        let failed = changes.into_iter().zip(outcomes).filter_map(|(change, outcome)| {
            let source = outcome.err().filter(|error| !is_gone(&change, error))?;
            let error = match &change {
                Change::Add(prefix, _) if has_errno(&source, Errno::EXIST) => {
                    KernelError::ForeignRoute { prefix: *prefix }
                }
                change => KernelError::Netlink { what: change.to_string(), source },
            };
            Some((change, error))
        });
        Ok(failed.collect())
    }

    /// A message that removes exactly the route that was read: the kernel compares protocol, type and next
    /// hops. A route of a form that we never write is removed without this comparison.
    fn removal(&self, prefix: IpNet, target: &Target) -> RouteMessage {
        let mut message = self.message(prefix, target);
        message.header.scope = RouteScope::NoWhere;
        if matches!(target, Target::Via(hops) if hops.is_empty()) {
            message.header.kind = RouteType::Unspec;
        }
        message
    }

    fn message(&self, prefix: IpNet, target: &Target) -> RouteMessage {
        let length = prefix.prefix_len();
        let message = match prefix.network() {
            IpAddr::V4(ip) => self
                .start(RouteMessageBuilder::<Ipv4Addr>::new(), target)
                .destination_prefix(ip, length)
                .build(),
            IpAddr::V6(ip) => self
                .start(RouteMessageBuilder::<Ipv6Addr>::new(), target)
                .destination_prefix(ip, length)
                .build(),
        };
        with_hops(message, target)
    }

    fn start<T>(&self, message: RouteMessageBuilder<T>, target: &Target) -> RouteMessageBuilder<T> {
        let message = message.table_id(self.table).protocol(RouteProtocol::from(ROUTE_PROTOCOL));
        match target {
            Target::Via(_) => message,
            Target::Unreachable => message.kind(RouteType::Unreachable),
        }
    }
}

/// Whether the route to remove was already gone.
fn is_gone(change: &Change, error: &rtnetlink::Error) -> bool {
    matches!(change, Change::Remove(..)) && has_errno(error, Errno::SRCH)
}

fn with_hops(mut message: RouteMessage, target: &Target) -> RouteMessage {
    match target {
        Target::Via(hops) if hops.len() > 1 => {
            let hops = hops.iter().filter_map(next_hop).collect();
            message.attributes.push(RouteAttribute::MultiPath(hops));
        }
        Target::Via(hops) => {
            for Hop { via, link } in hops {
                message.attributes.push(RouteAttribute::Gateway((*via).into()));
                message.attributes.push(RouteAttribute::Oif(*link));
            }
        }
        Target::Unreachable => {}
    }
    message
}

fn next_hop(hop: &Hop) -> Option<RouteNextHop> {
    let builder = match hop.via {
        IpAddr::V4(_) => RouteNextHopBuilder::new_ipv4(),
        IpAddr::V6(_) => RouteNextHopBuilder::new_ipv6(),
    };
    Some(builder.interface(hop.link).via(hop.via).ok()?.build())
}

/// Parses one of our routes. A route of unexpected form is given no next hops, which no
/// plan contains, so it is corrected.
fn understand(route: &RouteMessage) -> Option<(IpNet, Target)> {
    let Way { to, via, link } = Way::from(route);
    let mut hops: Vec<Hop> = Vec::new();
    for attribute in &route.attributes {
        if let RouteAttribute::MultiPath(parts) = attribute {
            hops.extend(parts.iter().filter_map(hop));
        }
    }
    if is_host_route(route) {
        return None;
    }
    let any = || match route.header.address_family {
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let prefix = network(to.unwrap_or_else(any), route.header.destination_prefix_length)?;
    let target = match route.header.kind {
        RouteType::Unreachable => Target::Unreachable,
        RouteType::Unicast => {
            hops.extend(via.zip(link).map(|(via, link)| Hop { via, link }));
            hops.sort_unstable();
            Target::Via(hops)
        }
        _ => Target::Via(Vec::new()),
    };
    Some((prefix, target))
}

/// Whether one of our routes is a host route: a single address on a link, without gateway. Routes
/// to blocks always have a gateway.
pub(super) fn is_host_route(route: &RouteMessage) -> bool {
    let header = &route.header;
    let whole = if header.address_family == AddressFamily::Inet { 32 } else { 128 };
    let Way { via, link, .. } = Way::from(route);
    header.kind == RouteType::Unicast
        && header.destination_prefix_length == whole
        && link.is_some()
        && via.is_none()
}

fn hop(part: &RouteNextHop) -> Option<Hop> {
    let via = part.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(ip) => address(ip),
        _ => None,
    });
    Some(Hop { via: via?, link: part.interface_index })
}

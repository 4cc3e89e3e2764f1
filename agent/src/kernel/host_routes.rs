//! Host routes: they lead to the addresses of containers, each through its link.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{Handle, RouteMessageBuilder};
use rustix::io::Errno;

use super::routes::is_host_route;
use super::{KernelError, Way, dump_routes, has_errno};
use crate::ownership::ROUTE_PROTOCOL;

/// Routes a container's address to a link, given by index. Replaces our route to the
/// address, but not another program's.
///
/// # Errors
/// [`KernelError::ForeignRoute`], or the kernel's error.
pub(super) async fn set(
    handle: &Handle,
    table: u32,
    ip: IpAddr,
    index: u32,
) -> Result<(), KernelError> {
    let wanted = message(table, ip, index)?;
    let asked = || KernelError::asked(format!("route {ip} dev {index}"));
    match handle.route().add(wanted.clone()).execute().await {
        Err(error) if has_errno(&error, Errno::EXIST) => {}
        added => return added.map_err(asked()),
    }
    let routes = list(handle, Some(table)).await?;
    if routes.contains(&(index, ip)) {
        return Ok(());
    }
    let foreign = || KernelError::ForeignRoute { prefix: IpNet::from(ip) };
    let Some((old, _)) = routes.iter().find(|(_, other)| *other == ip) else {
        return Err(foreign());
    };
    // Not with NLM_F_REPLACE: it replaces the first route of the prefix, which may be another program's.
    handle.route().del(message(table, ip, *old)?).execute().await.map_err(asked())?;
    match handle.route().add(wanted).execute().await {
        Err(error) if has_errno(&error, Errno::EXIST) => Err(foreign()),
        added => added.map_err(asked()),
    }
}

fn message(table: u32, ip: IpAddr, index: u32) -> Result<RouteMessage, KernelError> {
    let length = if ip.is_ipv4() { 32 } else { 128 };
    let route = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(ip, length)
        .map_err(|error| KernelError::Socket(std::io::Error::other(error)))?
        .output_interface(index)
        .table_id(table)
        .scope(if ip.is_ipv4() { RouteScope::Link } else { RouteScope::Universe })
        .protocol(RouteProtocol::from(ROUTE_PROTOCOL))
        .build();
    Ok(route)
}

/// Addresses of our host routes, by link; `table`: `None` for all tables.
///
/// # Errors
/// [`KernelError`].
pub async fn list(handle: &Handle, table: Option<u32>) -> Result<Vec<(u32, IpAddr)>, KernelError> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut ask = RouteMessage::default();
        ask.header.address_family = family;
        ask.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
        ask.attributes.extend(table.map(RouteAttribute::Table));
        let routes = dump_routes(handle, ask).await?;
        found.extend(routes.iter().filter_map(|route| {
            let Way { to, link, .. } = Way::from(route);
            // A kernel without strict checks ignores the filter.
            let ours = u8::from(route.header.protocol) == ROUTE_PROTOCOL;
            link.zip(to).filter(|_| ours && is_host_route(route))
        }));
    }
    Ok(found)
}

//! Finds all of Romana's objects in this namespace's kernel, whichever process created them, for `cleanup`.

use futures_util::StreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::{KernelError, Way, dump_links, dump_routes, has_errno, name_of};
use crate::ownership::{LINK_PREFIX, ROUTE_PROTOCOL};

/// A route of our protocol, in any table.
pub struct OwnRoute(RouteMessage);

impl OwnRoute {
    /// Its output link, if it has one.
    #[must_use]
    pub fn link(&self) -> Option<u32> {
        Way::from(&self.0).link
    }
}

impl std::fmt::Display for OwnRoute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let header = &self.0.header;
        let table = self.0.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
        let table = table.unwrap_or_else(|| u32::from(header.table));
        match Way::from(&self.0).to {
            Some(to) => write!(f, "{to}/{}", header.destination_prefix_length)?,
            None => f.write_str("default")?,
        }
        write!(f, " in table {table}")
    }
}

/// A veth link with one of our names.
pub struct OwnLink {
    pub index: u32,
    pub name: String,
    /// Its peer is in another namespace.
    pub in_use: bool,
}

/// Our routes in all tables.
///
/// # Errors
/// [`KernelError`].
pub async fn routes(handle: &Handle) -> Result<Vec<OwnRoute>, KernelError> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut ask = RouteMessage::default();
        ask.header.address_family = family;
        ask.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
        let routes = dump_routes(handle, ask).await?.into_iter();
        // A kernel without strict checks ignores the filter.
        let ours = routes.filter(|route| u8::from(route.header.protocol) == ROUTE_PROTOCOL);
        found.extend(ours.map(OwnRoute));
    }
    Ok(found)
}

/// Our links.
///
/// # Errors
/// [`KernelError`].
pub async fn links(handle: &Handle) -> Result<Vec<OwnLink>, KernelError> {
    let found = dump_links(handle).await?;
    let ours = found.iter().filter_map(|link| {
        let name = name_of(link).filter(|name| name.starts_with(LINK_PREFIX))?;
        let of_pair = link.attributes.iter().any(is_pair);
        let away = |it: &LinkAttribute| matches!(it, LinkAttribute::LinkNetNsId(_));
        let in_use = link.attributes.iter().any(away);
        of_pair.then_some(OwnLink { index: link.header.index, name, in_use })
    });
    Ok(ours.collect())
}

fn is_pair(attribute: &LinkAttribute) -> bool {
    let LinkAttribute::LinkInfo(infos) = attribute else { return false };
    infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)))
}

/// Removes a route as it was read; a missing route counts as removed.
///
/// # Errors
/// [`KernelError`].
pub async fn remove_route(handle: &Handle, route: OwnRoute) -> Result<(), KernelError> {
    let what = format!("the end of route {route}");
    ask(handle, RouteNetlinkMessage::DelRoute(route.0), what).await
}

/// Removes a link, with its peer and the routes through it.
///
/// # Errors
/// [`KernelError`].
pub async fn remove_link(handle: &Handle, link: &OwnLink) -> Result<(), KernelError> {
    let mut message = LinkMessage::default();
    message.header.index = link.index;
    ask(handle, RouteNetlinkMessage::DelLink(message), format!("the end of link {}", link.name))
        .await
}

async fn ask(
    handle: &Handle,
    message: RouteNetlinkMessage,
    what: String,
) -> Result<(), KernelError> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let asked = KernelError::asked(what);
    let mut answers = match handle.clone().request(message) {
        Ok(answers) => answers,
        Err(error) => return Err(asked(error)),
    };
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            let error = rtnetlink::Error::NetlinkError(error);
            let gone = [Errno::SRCH, Errno::NODEV, Errno::NOENT];
            return match gone.iter().any(|errno| has_errno(&error, *errno)) {
                true => Ok(()),
                false => Err(asked(error)),
            };
        }
    }
    Ok(())
}

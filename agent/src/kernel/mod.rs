//! Access to the kernel over netlink, one file per kind of object.

pub mod addresses;
pub mod announce;
mod batch;
pub mod connections;
pub mod disturbance;
pub mod facts;
pub mod host_routes;
pub mod leftovers;
pub mod links;
pub mod netns;
pub mod routes;
pub mod taken;

use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt;
use ipnet::IpNet;
use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rustix::io::Errno;
use tokio::sync::Mutex;

use crate::ownership::ADDRESS_PROTOCOL;

/// Set on the messages of a dump during which something changed (linux/netlink.h).
const NLM_F_DUMP_INTR: u16 = 0x10;

/// A request to the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("the kernel refuses: {what}")]
    Netlink {
        what: String,
        #[source]
        source: rtnetlink::Error,
    },
    /// A dump was interrupted by changes on every attempt.
    #[error("{what} was interrupted by changes {DUMP_ATTEMPTS} times")]
    Unsteady { what: &'static str },
    #[error(
        "another program has a route to {prefix} with the same metric: it is left alone; remove it, or \
         choose another CIDR for the network"
    )]
    ForeignRoute { prefix: IpNet },
    /// A setting of a link cannot be written.
    #[error(
        "cannot write {path}: in a container, mount /proc/sys/net of the host and name it by --sysctl-dir"
    )]
    Sysctl {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("no netlink socket")]
    Socket(#[from] std::io::Error),
}

impl KernelError {
    fn asked(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        |source| Self::Netlink { what: what.into(), source }
    }
}

/// Opens a netlink connection, served by its own task.
///
/// # Errors
/// [`KernelError`].
pub fn netlink() -> Result<rtnetlink::Handle, KernelError> {
    let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
    tokio::spawn(connection);
    Ok(handle)
}

/// The kernel runs one dump per socket at a time and refuses a second one with EBUSY, so dumps take turns.
static DUMP: Mutex<()> = Mutex::const_new(());
/// Attempts before a dump that is interrupted again and again is given up.
const DUMP_ATTEMPTS: u32 = 20;
/// Pause before the next attempt, times the number of attempts made.
const DUMP_BACK_OFF: Duration = Duration::from_millis(2);

/// Asks for a dump and collects the answers that `pick` takes. A dump that the kernel refuses as busy, or marks as
/// inconsistent because something changed while it was read (`NLM_F_DUMP_INTR`, netlink(7)), is repeated.
async fn dump<T>(
    handle: &Handle,
    ask: RouteNetlinkMessage,
    what: &'static str,
    pick: fn(RouteNetlinkMessage) -> Option<T>,
) -> Result<Vec<T>, KernelError> {
    let _turn = DUMP.lock().await;
    let mut attempt = 0;
    loop {
        attempt += 1;
        match dump_once(handle, ask.clone(), pick).await {
            Ok(Some(answers)) => return Ok(answers),
            Ok(None) if attempt < DUMP_ATTEMPTS => {}
            Ok(None) => return Err(KernelError::Unsteady { what }),
            Err(error) if is_busy(&error) && attempt < DUMP_ATTEMPTS => {}
            Err(error) => return Err(KernelError::asked(what)(error)),
        }
        tokio::time::sleep(DUMP_BACK_OFF * attempt).await;
    }
}

/// `None`: the dump is inconsistent.
async fn dump_once<T>(
    handle: &Handle,
    ask: RouteNetlinkMessage,
    pick: fn(RouteNetlinkMessage) -> Option<T>,
) -> Result<Option<Vec<T>>, rtnetlink::Error> {
    let mut message = NetlinkMessage::from(ask);
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut answers = handle.clone().request(message)?;
    let (mut found, mut steady) = (Vec::new(), true);
    while let Some(answer) = answers.next().await {
        steady &= answer.header.flags & NLM_F_DUMP_INTR == 0;
        match answer.payload {
            NetlinkPayload::InnerMessage(message) => found.extend(pick(message)),
            NetlinkPayload::Error(error) if error.code.is_some() => {
                return Err(rtnetlink::Error::NetlinkError(error));
            }
            _ => {}
        }
    }
    Ok(steady.then_some(found))
}

/// Whether an error is temporary.
fn is_busy(error: &rtnetlink::Error) -> bool {
    has_errno(error, Errno::BUSY) || has_errno(error, Errno::INTR)
}

/// Whether the kernel answered with this error number.
fn has_errno(error: &rtnetlink::Error, errno: Errno) -> bool {
    let rtnetlink::Error::NetlinkError(message) = error else { return false };
    message.raw_code() == -errno.raw_os_error()
}

async fn dump_links(handle: &Handle) -> Result<Vec<LinkMessage>, KernelError> {
    let ask = RouteNetlinkMessage::GetLink(LinkMessage::default());
    dump(handle, ask, "a dump of the links", |answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    })
    .await
}

async fn dump_addresses(handle: &Handle) -> Result<Vec<AddressMessage>, KernelError> {
    let ask = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    dump(handle, ask, "a dump of the addresses", |answer| match answer {
        RouteNetlinkMessage::NewAddress(address) => Some(address),
        _ => None,
    })
    .await
}

async fn dump_routes(handle: &Handle, ask: RouteMessage) -> Result<Vec<RouteMessage>, KernelError> {
    let ask = RouteNetlinkMessage::GetRoute(ask);
    dump(handle, ask, "a dump of the routes", |answer| match answer {
        RouteNetlinkMessage::NewRoute(route) => Some(route),
        _ => None,
    })
    .await
}

async fn dump_neighbours(handle: &Handle) -> Result<Vec<NeighbourMessage>, KernelError> {
    let ask = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    dump(handle, ask, "a dump of the neighbours", |answer| match answer {
        RouteNetlinkMessage::NewNeighbour(neighbour) => Some(neighbour),
        _ => None,
    })
    .await
}

/// The local address.
fn own_ip(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    })
}

/// Whether an address is one of ours: that of a VIP.
fn is_of_vip(message: &AddressMessage) -> bool {
    message.attributes.iter().any(|attribute| match attribute {
        AddressAttribute::Protocol(protocol) => u8::from(*protocol) == ADDRESS_PROTOCOL,
        _ => false,
    })
}

fn name_of(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

/// The destination and next hops of a route.
#[derive(Debug, Default)]
struct Way {
    to: Option<IpAddr>,
    via: Option<IpAddr>,
    link: Option<u32>,
}

impl From<&RouteMessage> for Way {
    fn from(route: &RouteMessage) -> Self {
        let mut way = Self::default();
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Destination(ip) => way.to = address(ip),
                RouteAttribute::Gateway(ip) => way.via = address(ip),
                RouteAttribute::Oif(index) => way.link = Some(*index),
                _ => {}
            }
        }
        way
    }
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

fn network(ip: IpAddr, length: u8) -> Option<IpNet> {
    Some(IpNet::new(ip, length).ok()?.trunc())
}

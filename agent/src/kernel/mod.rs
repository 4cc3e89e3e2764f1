//! The kernel's side of it: netlink, one file per kind of thing.

mod batch;
pub mod facts;
pub mod links;
pub mod packet_filter;
pub mod routes;

use std::net::IpAddr;

use futures_util::{Stream, TryStreamExt};
use ipnet::IpNet;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};

/// The kernel does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// It refused, or cannot be asked.
    #[error("the kernel refuses: {what}")]
    Netlink {
        /// What was asked.
        what: String,
        /// Why not.
        #[source]
        source: rtnetlink::Error,
    },
    /// A setting of a link cannot be made.
    #[error("cannot write {path}")]
    Sysctl {
        /// Which.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// No socket.
    #[error("no netlink socket")]
    Socket(#[from] std::io::Error),
}

impl KernelError {
    fn asked(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        |source| Self::Netlink { what: what.into(), source }
    }
}

/// Everything that a question is answered with.
async fn dump<T>(
    answers: impl Stream<Item = Result<T, rtnetlink::Error>>,
    what: &'static str,
) -> Result<Vec<T>, KernelError> {
    answers.try_collect().await.map_err(KernelError::asked(what))
}

/// What a route says of its way.
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

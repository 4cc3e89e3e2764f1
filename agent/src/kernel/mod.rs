//! The kernel's side of it: netlink, one file per kind of thing.

pub mod facts;
pub mod links;
pub mod routes;

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::route::RouteAddress;

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

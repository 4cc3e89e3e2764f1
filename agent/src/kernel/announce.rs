//! Sends whole Ethernet frames: announcements of addresses.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sendto, socket_with};

/// A packet socket that only sends.
#[derive(Debug)]
pub struct Announcer(OwnedFd);

impl Announcer {
    /// Opens the socket. It needs `CAP_NET_RAW`, and never blocks.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Without a protocol it receives nothing.
        Ok(Self(socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?))
    }

    /// Sends a frame on a link.
    ///
    /// # Errors
    /// The kernel refuses: the link is gone or down, or its queue is full.
    pub fn send(&self, link: u32, frame: &[u8]) -> io::Result<()> {
        let ethertype = match frame.get(12..14) {
            Some(&[high, low]) => u16::from_be_bytes([high, low]),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        sendto(&self.0, frame, SendFlags::empty(), &address(link, ethertype))?;
        Ok(())
    }
}

/// The `sockaddr_ll` of a link, in the bytes of a `sockaddr_in6`: rustix has no type for it, and ours would need
/// unsafe code. Protocol and index of the link are where port and flow information are; the rest is zero, as packet(7)
/// asks for a socket that sends whole frames. Linux does not look at the family of the address then (`packet_snd`); a
/// kernel that did would refuse, and announcements would be reported as failed.
fn address(link: u32, ethertype: u16) -> SocketAddrV6 {
    // The index is in the order of the host; flow information is written in that of the network.
    SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, ethertype, link.to_be(), 0)
}

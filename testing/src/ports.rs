//! Free ports.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// Below the range of ephemeral ports, so that no outgoing connection can occupy a
/// server's port while it is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Free loopback ports. All are bound before any is released, so they differ.
///
/// # Errors
/// There are not enough.
pub fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let mut held = Vec::new();
    let offset = u16::try_from(std::process::id() % 12_000).unwrap_or_default();
    for step in 0..PORTS.end - PORTS.start {
        if held.len() == count {
            break;
        }
        let port = PORTS.start + (offset.wrapping_mul(7).wrapping_add(step)) % 12_000;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push((port, listener));
        }
    }
    if held.len() < count {
        return Err(io::Error::other(format!("there are no {count} free ports")));
    }
    Ok(held.into_iter().map(|(port, _)| port).collect())
}

//! Free ports, and logs of processes other than replicas.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Below the range of ephemeral ports, so that no outgoing connection can occupy a
/// replica's port while it is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Free loopback ports. All are bound before any is released, so they differ.
///
/// # Errors
/// There are not enough.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
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
    ensure!(held.len() == count, "there are no {count} free ports");
    Ok(held.into_iter().map(|(port, _)| port).collect())
}

/// A log file for a process other than a replica.
pub(crate) fn log_file(dir: &Path, name: &str) -> Result<File> {
    let path = dir.join(name);
    File::create(&path).with_context(|| format!("make {}", path.display()))
}

//! The protocol between plugin and agent on the agent's unix socket: one request and one reply per
//! connection, each a 4-byte big-endian length followed by JSON.
//!
//! The plugin checks the syntax of the runtime's input (environment, network configuration) and formats the
//! answer for the requested version; the agent does everything else. So a plugin of one release can talk to
//! an agent of the next: fields are added, never changed.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::IpAddr;

use ipnet::IpNet;
use romana_statemachine::agent::PodRef;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Size limit of a message, bytes: GC lists every attachment of a host.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// An attachment's key: the same for ADD, CHECK and DEL (CNI spec, `CNI_CONTAINERID`, `CNI_IFNAME`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// The container id: letters, digits and `_ . -`.
    pub container_id: String,
    /// The interface in the container, at most 15 bytes.
    pub ifname: String,
}

/// A request of the plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub enum Request {
    /// Attach a container.
    Add(Add),
    /// Detach it. Succeeds also if nothing is left of it.
    Del { key: Key, network: String },
    /// Compare the kernel's state with the result of ADD.
    Check {
        key: Key,
        network: String,
        /// Path of the container's network namespace.
        netns: String,
        /// Addresses of this interface in `prevResult`.
        addresses: Vec<IpNet>,
    },
    /// Detach all attachments of the network but these.
    Gc {
        network: String,
        /// Attachments to keep.
        valid: Vec<Key>,
    },
    /// Whether an ADD is expected to succeed.
    Status { network: String },
}

/// An attachment to create.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Add {
    pub key: Key,
    /// Name of the network configuration.
    pub network: String,
    /// Path of the container's network namespace. `None`: addresses only (IPAM delegate).
    pub netns: Option<String>,
    /// The tenant: `K8S_POD_NAMESPACE`, else `tenant` of the configuration, else `default`.
    pub tenant: String,
    /// The segment: `segment` of the configuration or of `args`, else `default`.
    pub segment: String,
    /// The Kubernetes pod whose segment the control plane knows; `None`: there is none, or the segment was given.
    /// Agents of earlier releases take `segment`.
    #[serde(default)]
    pub segment_of: Option<PodRef>,
    /// Name of the pod or VM, for the audit log; empty if unknown.
    pub pod: String,
    /// Labels of the endpoint.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// MTU of the interface; `None`: the agent's default.
    pub mtu: Option<u32>,
    /// Requested MAC address (`runtimeConfig.mac`).
    pub mac: Option<String>,
    /// Requested addresses (`runtimeConfig.ips`, `args.cni.ips`, `IP=`); at most one per family.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
}

/// The agent's reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "lowercase")]
pub enum Reply {
    Added(Added),
    /// To other requests.
    Done {},
    /// The request failed; a failed ADD has left nothing behind.
    Failed(Failed),
}

/// The result of an ADD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// The host end of the pair, if one was created.
    pub host_link: Option<Link>,
    /// The container's end, named as requested.
    pub link: Option<Link>,
    /// Addresses of the container's end (/32, /128).
    pub addresses: Vec<IpNet>,
    /// Destinations routed on-link through the interface in the container: the default routes.
    pub routes: Vec<IpNet>,
}

/// A link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub name: String,
    pub mac: String,
    pub mtu: u32,
}

/// A failure, as a CNI error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// CNI error code (spec §5; plugin-specific from 100).
    pub code: u32,
    pub msg: String,
    #[serde(default)]
    pub details: String,
}

/// The message, and the remedy.
impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, msg, details } = self;
        write!(f, "{msg} (code {code})")?;
        if details.is_empty() { Ok(()) } else { write!(f, ": {details}") }
    }
}

/// A digest of a request; equal requests have equal digests.
#[must_use]
pub fn digest(request: &Request) -> String {
    let text = serde_json::to_vec(request).unwrap_or_default();
    romana_statemachine::Digest::of(&text).to_string().chars().take(32).collect()
}

/// Sends a message.
///
/// # Errors
/// The peer has closed the connection, or the message is too long.
pub fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    if body.len() > FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"));
    }
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend_from_slice(&body);
    to.write_all(&frame)
}

/// Receives a message.
///
/// # Errors
/// The peer has closed the connection, or its message is malformed or too long.
pub fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

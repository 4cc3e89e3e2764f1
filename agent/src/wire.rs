//! What the plugin and the agent say to each other over the agent's unix socket: one request and one
//! reply per connection, each a 4-byte big-endian length and JSON.
//!
//! The plugin checks the syntax of what the runtime gave it (environment, network configuration) and
//! shapes the answer for the version that was asked for; the agent does everything else. So a plugin
//! of one release can speak to an agent of the next: fields are added, never changed.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest request or reply, bytes: GC lists every attachment of a host.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// An attachment's key: the same for ADD, CHECK and DEL (CNI spec, `CNI_CONTAINERID`, `CNI_IFNAME`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// The container. Letters, digits and `_ . -`.
    pub container_id: String,
    /// The interface in the container, at most 15 bytes.
    pub ifname: String,
}

/// What the plugin asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub enum Request {
    /// Attach a container.
    Add(Add),
    /// Detach it. Done whether or not there is anything left.
    Del {
        /// Which attachment.
        key: Key,
        /// Name of the network.
        network: String,
    },
    /// Compare what is there with what was given out.
    Check {
        /// Which attachment.
        key: Key,
        /// Name of the network.
        network: String,
        /// Path of the container's network namespace.
        netns: String,
        /// Addresses of this interface in `prevResult`.
        addresses: Vec<IpNet>,
    },
    /// Detach everything of the network but these.
    Gc {
        /// Name of the network.
        network: String,
        /// Attachments that stay.
        valid: Vec<Key>,
    },
    /// Whether an ADD can be expected to work.
    Status {
        /// Name of the network.
        network: String,
    },
}

/// An attachment to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Add {
    /// Which attachment.
    pub key: Key,
    /// Name of the network configuration.
    pub network: String,
    /// Path of the container's network namespace. `None`: addresses only (IPAM delegate).
    pub netns: Option<String>,
    /// The tenant: `K8S_POD_NAMESPACE`, else `tenant` of the configuration, else `default`.
    pub tenant: String,
    /// The segment: `segment` of the configuration or of `args`, else `default`.
    pub segment: String,
    /// The pod's or VM's name, for people; empty if unknown.
    pub pod: String,
    /// Labels of the endpoint.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// MTU of the interface; `None`: the agent's.
    pub mtu: Option<u32>,
    /// MAC address asked for (`runtimeConfig.mac`).
    pub mac: Option<String>,
    /// Addresses asked for (`runtimeConfig.ips`, `args.cni.ips`, `IP=`); at most one per family.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "lowercase")]
pub enum Reply {
    /// To ADD.
    Added(Added),
    /// To the others.
    Done {},
    /// Not done; a failed ADD has left nothing behind.
    Failed(Failed),
}

/// What an ADD made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// The host end of the pair, if one was made.
    pub host_link: Option<Link>,
    /// The container's end, named as asked.
    pub link: Option<Link>,
    /// Addresses, as they are on the container's end (/32, /128).
    pub addresses: Vec<IpNet>,
    /// Destinations routed on-link through the interface in the container: the default routes.
    pub routes: Vec<IpNet>,
}

/// A link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: String,
    /// Its MTU.
    pub mtu: u32,
}

/// Why not, as a CNI error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// CNI error code (spec §5; own ones from 100).
    pub code: u32,
    /// What and why.
    pub msg: String,
    /// What to do.
    #[serde(default)]
    pub details: String,
}

/// What and why, and what to do.
impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, msg, details } = self;
        write!(f, "{msg} (code {code})")?;
        if details.is_empty() { Ok(()) } else { write!(f, ": {details}") }
    }
}

/// A name for a request, the same for the same one.
#[must_use]
pub fn digest(request: &Request) -> String {
    let text = serde_json::to_vec(request).unwrap_or_default();
    romana_statemachine::Digest::of(&text).to_string().chars().take(32).collect()
}

/// Sends a message.
///
/// # Errors
/// When the other side is gone, or the message is too long.
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
/// When the other side is gone, or what it says does not parse or is too long.
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

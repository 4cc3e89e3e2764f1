//! The network configuration, from standard input.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::command::Command;
use super::env::is_identifier;
use super::{CniError, Version, version};
use crate::ipc::Key;
use crate::ownership::{PLUGIN_TYPE, SOCKET, STATE_DIR};

/// A network configuration. Unknown keys belong to other plugins or the runtime (spec, section 1).
#[derive(Clone, Debug, Deserialize)]
pub struct NetConf {
    #[serde(rename = "cniVersion", default)]
    cni_version: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// Name of the plugin.
    #[serde(rename = "type", default, deserialize_with = "or_default")]
    kind: String,
    /// Set where this plugin is used for IPAM only.
    #[serde(default, deserialize_with = "object")]
    ipam: Option<Ipam>,
    #[serde(default = "socket", deserialize_with = "socket_or_default")]
    pub socket: String,
    /// The agent's state directory.
    #[serde(rename = "stateDir", default = "state_dir", deserialize_with = "state_dir_or_default")]
    pub state_dir: String,
    /// Default tenant of containers.
    #[serde(default)]
    pub tenant: Option<String>,
    /// Segment of the containers.
    #[serde(default)]
    pub segment: Option<String>,
    /// MTU of the containers' links; 0: the agent's default.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Passed through to the result.
    #[serde(default)]
    pub dns: Option<Value>,
    /// Result of the preceding plugin in the chain.
    #[serde(rename = "prevResult", default)]
    pub prev_result: Option<Value>,
    /// Capabilities that the configuration declares.
    #[serde(default, deserialize_with = "or_default")]
    capabilities: BTreeMap<String, bool>,
    /// Runtime configuration, by capability.
    #[serde(rename = "runtimeConfig", default, deserialize_with = "object")]
    pub runtime: Runtime,
    /// Arguments of the container's operator.
    #[serde(default, deserialize_with = "object")]
    pub args: Args,
    /// Valid attachments, for GC. Go writes `null` for an empty list; only an absent
    /// key means that no list was given.
    #[serde(rename = "cni.dev/valid-attachments", default, deserialize_with = "present")]
    valid: Option<Vec<Valid>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Ipam {
    #[serde(rename = "type", default, deserialize_with = "or_default")]
    kind: String,
    /// As above, if this plugin is used for IPAM.
    socket: Option<String>,
    #[serde(rename = "stateDir")]
    state_dir: Option<String>,
    tenant: Option<String>,
    segment: Option<String>,
}

/// Capability arguments (CNI conventions).
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Runtime {
    /// Requested addresses, with or without a prefix length.
    #[serde(default, deserialize_with = "or_default")]
    pub ips: Vec<String>,
    /// Requested MAC address.
    #[serde(default)]
    pub mac: Option<String>,
    #[serde(rename = "portMappings", default)]
    port_mappings: Option<Value>,
    #[serde(default)]
    bandwidth: Option<Value>,
}

/// `args` of the configuration.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Args {
    #[serde(default, deserialize_with = "object")]
    pub cni: CniArgs,
}

/// `args.cni` (CNI conventions).
#[derive(Clone, Debug, Default, Deserialize)]
pub struct CniArgs {
    /// Requested addresses.
    #[serde(default, deserialize_with = "or_default")]
    pub ips: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub labels: Vec<Label>,
}

/// A label.
#[derive(Clone, Debug, Deserialize)]
pub struct Label {
    pub key: String,
    pub value: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Valid {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

/// Accepts `null`, which Go writes for an empty list or map.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// As [`or_default`], for structs: serde would also read a list as their fields in order.
fn object<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(T::default()),
        value if value.is_object() => T::deserialize(value).map_err(D::Error::custom),
        _ => Err(D::Error::custom("it is not a JSON object")),
    }
}

fn socket_or_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(socket))
}

fn state_dir_or_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(state_dir))
}

fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    or_default(deserializer).map(Some)
}

fn socket() -> String {
    SOCKET.into()
}

fn state_dir() -> String {
    STATE_DIR.into()
}

impl NetConf {
    /// Parses a configuration.
    ///
    /// # Errors
    /// Code 6: not a configuration. Code 1: unsupported version.
    pub fn parse(stdin: &[u8]) -> Result<Self, CniError> {
        let whole = |value: Value| match value.is_object() {
            // serde would read a list as the fields in order.
            false => Err(serde_json::Error::custom("it is not a JSON object")),
            true => Self::deserialize(value),
        };
        let parsed: Result<Self, _> = serde_json::from_slice(stdin).and_then(whole);
        let mut config = parsed.map_err(|error| {
            let why = if error.is_eof() {
                "unexpected end of JSON input".into()
            } else {
                error.to_string()
            };
            CniError::new(6, format!("error unmarshall network config: {why}"), "")
        })?;
        config.version()?;
        if config.is_ipam() {
            config.take_ipam();
        }
        Ok(config)
    }

    /// Values in `ipam` take precedence: the rest belongs to the main plugin.
    fn take_ipam(&mut self) {
        let Some(ipam) = self.ipam.clone() else { return };
        self.socket = ipam.socket.unwrap_or_else(|| self.socket.clone());
        self.state_dir = ipam.state_dir.unwrap_or_else(|| self.state_dir.clone());
        self.tenant = ipam.tenant.or_else(|| self.tenant.take());
        self.segment = ipam.segment.or_else(|| self.segment.take());
    }

    /// Version of the answer.
    ///
    /// # Errors
    /// Never fails after [`Self::parse`].
    pub fn version(&self) -> Result<Version, CniError> {
        Version::parse(self.cni_version.as_deref().unwrap_or(version::UNNAMED))
    }

    /// Whether another plugin uses this one for IPAM.
    #[must_use]
    pub fn is_ipam(&self) -> bool {
        self.kind != PLUGIN_TYPE && self.ipam.as_ref().is_some_and(|ipam| ipam.kind == PLUGIN_TYPE)
    }

    /// Checks what a command requires.
    pub(super) fn check(&self, command: Command) -> Result<(), CniError> {
        let (name, since) = match command {
            Command::Check => ("CHECK", Version::V0_4_0),
            Command::Gc => ("GC", Version::V1_1_0),
            Command::Status => ("STATUS", Version::V1_1_0),
            Command::Add | Command::Del | Command::Version => ("", Version::parse("0.3.1")?),
        };
        if self.version()? < since {
            return Err(CniError::new(1, format!("config version does not allow {name}"), ""));
        }
        if self.name.is_empty() {
            return Err(CniError::new(7, "missing network name", ""));
        }
        if !is_identifier(&self.name) {
            return Err(CniError::new(7, "invalid characters found in network name", &*self.name));
        }
        self.check_ipam(command)?;
        let given =
            [("portMappings", &self.runtime.port_mappings), ("bandwidth", &self.runtime.bandwidth)];
        for (capability, value) in given {
            let declared = self.capabilities.get(capability).copied().unwrap_or(false);
            if declared && value.as_ref().is_some_and(|value| !is_empty(value)) {
                let msg = format!("unsupported field: capabilities.{capability} = true");
                let details = "declare it for a plugin that does it, such as portmap or bandwidth";
                return Err(CniError::new(2, msg, details));
            }
        }
        Ok(())
    }

    /// Refuses addresses in another IPAM plugin's section, which would be ignored.
    fn check_ipam(&self, command: Command) -> Result<(), CniError> {
        let other = self.ipam.as_ref().map(|ipam| ipam.kind.as_str()).unwrap_or_default();
        let matters = matches!(command, Command::Add | Command::Check) && self.kind == PLUGIN_TYPE;
        if !matters || other.is_empty() || other == PLUGIN_TYPE {
            return Ok(());
        }
        let msg = format!("ipam.type {other:?} does nothing: Romana gives the addresses");
        Err(CniError::new(7, msg, "take `ipam` out of the network configuration"))
    }

    /// Keys of the valid attachments.
    pub(super) fn valid(&self) -> Result<Vec<Key>, CniError> {
        let valid = self.valid.as_ref().ok_or_else(|| {
            CniError::new(
                7,
                "cni.dev/valid-attachments is missing",
                "nothing is removed on a guess",
            )
        })?;
        let key = |valid: &Valid| Key {
            container_id: valid.container_id.clone(),
            ifname: valid.ifname.clone(),
        };
        Ok(valid.iter().map(key).collect())
    }

    /// The requested addresses.
    pub(super) fn ips(&self, args: &BTreeMap<String, String>) -> Result<Vec<IpAddr>, CniError> {
        let asked = self.runtime.ips.iter().chain(&self.args.cni.ips);
        let asked = asked
            .map(String::as_str)
            .chain(args.get("IP").into_iter().flat_map(|ip| ip.split(',')));
        let mut ips = Vec::new();
        for text in asked {
            let address = text.split('/').next().unwrap_or(text);
            let ip = address.parse().map_err(|_| {
                CniError::new(7, format!("{text:?} is no address"), "write 10.0.0.1 or fd00::1")
            })?;
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
        Ok(ips)
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

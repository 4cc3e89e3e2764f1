//! The runtime's request, from the environment.

use std::collections::BTreeMap;

use super::CniError;
use super::command::Command;
use crate::ipc::Key;

/// Longest interface name (IFNAMSIZ minus the terminator).
const IFNAME_BYTES_MAX: usize = 15;
/// Longest container id, so that an allocation name fits.
const CONTAINER_BYTES_MAX: usize = 200;

/// The environment variables that CNI defines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Env(BTreeMap<String, String>);

/// A validated call.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) command: Command,
    /// The attachment; `None` for GC and STATUS.
    pub(super) key: Option<Key>,
    pub(super) netns: Option<String>,
    pub(super) args: BTreeMap<String, String>,
}

impl Env {
    /// Selects the CNI variables. A value that is not UTF-8 counts as absent.
    pub fn new(vars: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>) -> Self {
        let texts = vars.into_iter().filter_map(|(name, value)| {
            let pair = (name.into_string().ok()?, value.into_string().ok()?);
            pair.0.starts_with("CNI_").then_some(pair)
        });
        Self(texts.collect())
    }

    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(super) fn command(&self) -> Result<Command, CniError> {
        let name = self.get("CNI_COMMAND");
        let unknown = || CniError::new(4, format!("unknown CNI_COMMAND: {name}"), "");
        Command::named(name).ok_or_else(unknown)
    }
}

impl Call {
    /// Checks what a command requires; the error names everything that is missing.
    pub(super) fn read(env: &Env, command: Command) -> Result<Self, CniError> {
        let needed: &[&str] = match command {
            Command::Add | Command::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Command::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Command::Gc | Command::Status | Command::Version => &[],
        };
        let missing: Vec<&str> =
            needed.iter().copied().filter(|name| env.get(name).is_empty()).collect();
        if !missing.is_empty() {
            let msg = format!("required env variables [{}] missing", missing.join(","));
            return Err(CniError::new(4, msg, ""));
        }
        let key = match needed {
            [] => None,
            _ => Some(Key {
                container_id: container_id(env.get("CNI_CONTAINERID"))?,
                ifname: ifname(env.get("CNI_IFNAME"))?,
            }),
        };
        let netns = Some(env.get("CNI_NETNS")).filter(|path| !path.is_empty()).map(str::to_owned);
        let args = arguments(env.get("CNI_ARGS"), command)?;
        Ok(Self { command, key, netns, args })
    }
}

fn container_id(text: &str) -> Result<String, CniError> {
    if !is_identifier(text) {
        return Err(CniError::new(4, "invalid characters in containerID", text));
    }
    if text.len() > CONTAINER_BYTES_MAX {
        let details = format!("at most {CONTAINER_BYTES_MAX} bytes");
        return Err(CniError::new(4, "the containerID is too long", details));
    }
    Ok(text.into())
}

/// The specification's pattern for container ids and network names.
pub(super) fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn ifname(text: &str) -> Result<String, CniError> {
    let wrong = |msg: &str| Err(CniError::new(4, msg, text));
    if text.len() > IFNAME_BYTES_MAX {
        return wrong("interface name is too long: at most 15 bytes");
    }
    if text == "." || text == ".." {
        return wrong("interface name is . or ..");
    }
    if text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) {
        return Err(CniError::new(
            4,
            "interface name contains / or : or whitespace characters",
            "",
        ));
    }
    // It becomes part of an allocation name.
    if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte)) {
        return wrong("interface name has a character other than letters, digits and . _ - @");
    }
    Ok(text.into())
}

/// Keys that this plugin understands: its own, Kubernetes' and those of the conventions.
const KNOWN: [&str; 9] = [
    "IgnoreUnknown",
    "K8S_POD_NAMESPACE",
    "K8S_POD_NAME",
    "K8S_POD_INFRA_CONTAINER_ID",
    "K8S_POD_UID",
    "ROMANA_TENANT",
    "ROMANA_SEGMENT",
    "IP",
    "MAC",
];
/// Values that Go parses as true.
const TRUE: [&str; 6] = ["1", "t", "T", "true", "TRUE", "True"];

/// Parses `KEY=VALUE;…`. DEL ignores what it cannot read. Other commands refuse what is malformed or unknown,
/// unless `IgnoreUnknown` is set: its author expects an effect.
fn arguments(text: &str, command: Command) -> Result<BTreeMap<String, String>, CniError> {
    let mut found = BTreeMap::new();
    let mut wrong = Vec::new();
    for pair in text.split(';').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some((key, value)) => _ = found.insert(key.to_owned(), value.to_owned()),
            None => wrong.push(pair.to_owned()),
        }
    }
    let matters = matches!(command, Command::Add | Command::Check);
    if matters && !wrong.is_empty() {
        let msg = format!("CNI_ARGS: {} is not KEY=VALUE", wrong.join(", "));
        return Err(CniError::new(4, msg, "write it as KEY=VALUE;KEY=VALUE"));
    }
    let ignored = found.get("IgnoreUnknown").is_some_and(|value| TRUE.contains(&value.as_str()));
    let unknown: Vec<&str> =
        found.keys().map(String::as_str).filter(|key| !KNOWN.contains(key)).collect();
    if matters && !ignored && !unknown.is_empty() {
        let msg = format!("CNI_ARGS: unknown args [{}]", unknown.join(","));
        return Err(CniError::new(4, msg, "add IgnoreUnknown=1 if they are for another plugin"));
    }
    Ok(found)
}

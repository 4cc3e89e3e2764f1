//! The result of ADD, in the format of the requested version.

use serde_json::{Map, Value, json};

use super::config::NetConf;
use super::env::Call;
use super::{CniError, Version};
use crate::ipc::{Added, Link};

/// Prints the result. With a `prevResult`, the result is that plus what was added.
pub(super) fn print(call: &Call, config: &NetConf, added: Added) -> Result<String, CniError> {
    let version = config.version()?;
    let mut result = match &config.prev_result {
        Some(Value::Object(previous)) => previous.clone(),
        Some(Value::Null) | None => Map::new(),
        Some(_) => return Err(unreadable("it")),
    };
    result.insert("cniVersion".into(), version.as_str().into());
    let sandbox = call.netns.as_deref().unwrap_or_default();
    let mut own = None;
    if added.link.is_some() {
        let links = list(&mut result, "interfaces")?;
        links.extend(added.host_link.map(|link| shown(&link, None, version)));
        own = Some(links.len());
        links.extend(added.link.map(|link| shown(&link, Some(sandbox), version)));
    }
    let ips = list(&mut result, "ips")?;
    for address in &added.addresses {
        let mut ip = json!({"address": address.to_string()});
        if let Some(own) = own {
            ip["interface"] = own.into();
        }
        if version < Version::V1_0_0 {
            ip["version"] = if address.addr().is_ipv4() { "4" } else { "6" }.into();
        }
        ips.push(ip);
    }
    if !added.routes.is_empty() {
        let routes = list(&mut result, "routes")?;
        routes.extend(added.routes.iter().map(|to| json!({"dst": to.to_string()})));
    }
    if !result.contains_key("dns") {
        let dns = config.dns.clone().filter(Value::is_object);
        result.insert("dns".into(), dns.unwrap_or_else(|| json!({})));
    }
    Ok(Value::Object(result).to_string())
}

fn list<'a>(
    result: &'a mut Map<String, Value>,
    name: &'static str,
) -> Result<&'a mut Vec<Value>, CniError> {
    let list = result.entry(name).or_insert_with(|| json!([]));
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut().ok_or_else(|| unreadable(name))
}

fn shown(link: &Link, sandbox: Option<&str>, version: Version) -> Value {
    let mut shown = json!({"name": link.name, "mac": link.mac});
    if let Some(sandbox) = sandbox {
        shown["sandbox"] = sandbox.into();
    }
    if version >= Version::V1_1_0 {
        shown["mtu"] = link.mtu.into();
    }
    shown
}

/// `prevResult` is malformed.
pub(super) fn unreadable(what: &str) -> CniError {
    CniError::new(6, format!("prevResult: {what} cannot be read"), "")
}

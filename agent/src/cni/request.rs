//! The request to the agent.

use std::collections::BTreeMap;

use ipnet::IpNet;
use romana_statemachine::agent::PodRef;
use serde_json::Value;

use super::command::Command;
use super::config::NetConf;
use super::env::Call;
use super::{CniError, result};
use crate::ipc::{Add, Key, Request};

/// Default tenant and segment.
const DEFAULT: &str = "default";

/// Builds the agent's request for a call.
pub(super) fn request(call: &Call, config: &NetConf) -> Result<Request, CniError> {
    let network = config.name.clone();
    let key =
        || call.key.clone().unwrap_or(Key { container_id: String::new(), ifname: String::new() });
    Ok(match call.command {
        Command::Add => Request::Add(add(call, config, key())?),
        Command::Del => Request::Del { key: key(), network },
        Command::Check => Request::Check {
            key: key(),
            network,
            netns: call.netns.clone().unwrap_or_default(),
            addresses: given_out(call, config)?,
        },
        Command::Gc => Request::Gc { network, valid: config.valid()? },
        Command::Status | Command::Version => Request::Status { network },
    })
}

fn add(call: &Call, config: &NetConf, key: Key) -> Result<Add, CniError> {
    let said = |name: &str| call.args.get(name).filter(|value| !value.is_empty()).cloned();
    let default = || DEFAULT.to_owned();
    let tenant = said("K8S_POD_NAMESPACE").or_else(|| said("ROMANA_TENANT"));
    let tenant = tenant.or_else(|| config.tenant.clone());
    let segment = said("ROMANA_SEGMENT").or_else(|| config.segment.clone());
    let pod = || {
        let (namespace, name) = (said("K8S_POD_NAMESPACE")?, said("K8S_POD_NAME")?);
        Some(PodRef { namespace, name, uid: said("K8S_POD_UID").unwrap_or_default() })
    };
    let segment_of = if segment.is_none() { pod() } else { None };
    let labels = config.args.cni.labels.iter();
    let labels: BTreeMap<_, _> =
        labels.map(|label| (label.key.clone(), label.value.clone())).collect();
    Ok(Add {
        key,
        network: config.name.clone(),
        netns: if config.is_ipam() { None } else { call.netns.clone() },
        tenant: tenant.unwrap_or_else(default),
        segment: segment.unwrap_or_else(default),
        segment_of,
        pod: said("K8S_POD_NAME").unwrap_or_default(),
        labels,
        mtu: config.mtu.filter(|mtu| *mtu > 0),
        mac: config.runtime.mac.clone().filter(|mac| !mac.is_empty()).or_else(|| said("MAC")),
        ips: config.ips(&call.args)?,
    })
}

/// Our addresses in `prevResult`: those of the call's interface. CHECK without any
/// is an error (spec, section 2).
fn given_out(call: &Call, config: &NetConf) -> Result<Vec<IpNet>, CniError> {
    let missing = |what: &str| CniError::new(7, format!("prevResult {what}"), "");
    let previous = config.prev_result.as_ref().ok_or_else(|| missing("is missing"))?;
    let list = |name: &str| previous.get(name).and_then(Value::as_array);
    let ips = list("ips").map(Vec::as_slice).unwrap_or_default();
    let own = if config.is_ipam() {
        None
    } else {
        let ifname = call.key.as_ref().map_or("", |key| &key.ifname);
        let inside = |link: &Value| {
            let sandbox = link.get("sandbox").and_then(Value::as_str).unwrap_or_default();
            link.get("name").and_then(Value::as_str) == Some(ifname) && !sandbox.is_empty()
        };
        let at = list("interfaces").and_then(|links| links.iter().position(inside));
        Some(at.ok_or_else(|| missing(&format!("does not have interface {ifname}")))?)
    };
    let mine = |ip: &&Value| match (own, ip.get("interface").and_then(Value::as_u64)) {
        (Some(own), Some(link)) => usize::try_from(link) == Ok(own),
        _ => own.is_none(),
    };
    let address = |ip: &Value| ip.get("address")?.as_str()?.parse().ok();
    let addresses = ips.iter().filter(mine).map(address);
    addresses.collect::<Option<_>>().ok_or_else(|| result::unreadable("an address"))
}

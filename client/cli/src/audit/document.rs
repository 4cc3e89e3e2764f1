//! A state as JSON, in the form that the servers use.

use std::io;

use romana_statemachine::State;
use serde_json::{Value, json};

use crate::failure::Failure;

/// Fields of the topology that are omitted if empty.
const OPTIONAL: [&str; 4] = ["tenants", "addresses", "assignment", "skip_first_last"];

/// The state in the form of `GET /v1/snapshot`.
pub(super) fn document(state: &State) -> Result<Value, Failure> {
    let ipam = state.ipam();
    let blocks = ipam.blocks().map(|block| {
        let owner = block.owner();
        json!({
            "cidr": block.cidr, "network": owner.network, "group": block.group,
            "host": owner.host, "tenant": owner.tenant, "segment": owner.segment,
            "live": block.live,
        })
    });
    let tenants = state.tenants().map(|(id, tenant)| {
        let segments =
            tenant.segments.iter().map(|(id, labels)| json!({"id": id, "labels": labels}));
        json!({"id": id, "labels": tenant.labels, "segments": segments.collect::<Vec<_>>()})
    });
    let routers = state
        .routers()
        .map(|(key, host)| json!({"prefix": key.prefix, "table": key.table, "host": host}));
    let held = state.held().map(
        |held| json!({"since": held.since, "waiting": held.waiting.iter().collect::<Vec<_>>()}),
    );
    let value = |value: serde_json::Result<Value>| {
        value.map_err(|error| Failure::io("JSON", io::Error::other(error)))
    };
    let mut settings = json!(state.settings());
    if let (Some(all), Value::Object(agents)) =
        (settings.as_object_mut(), json!(state.agent_settings()))
    {
        all.extend(agents);
    }
    let conflicts = state.conflicts().map(|(host, list)| (host.to_string(), json!(list)));
    let conflicts = Value::Object(conflicts.collect());
    let mut topology = value(serde_json::to_value(state.topology_document()))?;
    prune(&mut topology);
    Ok(json!({
        "revision": state.revision(), "digest": state.digest(), "at": state.at().0,
        "topology": topology,
        "settings": settings, "conflicts": conflicts, "version": state.version(),
        "retention": state.retention(), "signed": state.signed(), "held": held,
        "members": state.members().collect::<Vec<_>>(),
        "blackouts": ipam.blackouts().map(|cidr| json!({"cidr": cidr})).collect::<Vec<_>>(),
        "hosts": value(serde_json::to_value(state.hosts().collect::<Vec<_>>()))?,
        "blocks": blocks.collect::<Vec<_>>(),
        "addresses": value(serde_json::to_value(ipam.addresses_after(None).collect::<Vec<_>>()))?,
        "tenants": tenants.collect::<Vec<_>>(),
        "policies": value(serde_json::to_value(state.policies().collect::<Vec<_>>()))?,
        "endpoints": value(serde_json::to_value(state.endpoints().collect::<Vec<_>>()))?,
        "vips": value(serde_json::to_value(state.vips().collect::<Vec<_>>()))?,
        "routers": routers.collect::<Vec<_>>(),
    }))
}

/// Omits null, and optional fields without content, as in a hand-written topology.
fn prune(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, value| {
                let says_nothing = match value {
                    Value::Array(items) => items.is_empty(),
                    Value::Object(members) => members.is_empty(),
                    Value::Bool(on) => !*on,
                    _ => false,
                };
                !(value.is_null() || says_nothing && OPTIONAL.contains(&name.as_str()))
            });
            // Keys of label maps are user data, not field names.
            let ours = |name: &str| !matches!(name, "labels" | "assignment");
            members.iter_mut().filter(|(name, _)| ours(name)).for_each(|(_, value)| prune(value));
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

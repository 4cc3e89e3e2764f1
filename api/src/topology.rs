//! `/v1/topology`. The document is a [`romana_statemachine::topology::TopologySpec`].

use romana_statemachine::State;
use serde_json::Value;

/// Members that are omitted when they have their default.
const OPTIONAL: [&str; 4] = ["tenants", "addresses", "assignment", "skip_first_last"];

/// The topology document as users write it: without default values. `None`: none was set.
#[must_use]
pub fn document(state: &State) -> Option<Value> {
    let spec = state.topology_document()?;
    // The vocabulary has text keys and finite numbers only, so it always has a JSON form.
    let mut document = serde_json::to_value(&spec).unwrap_or_default();
    prune(&mut document);
    Some(document)
}

fn prune(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, value| {
                let is_default = match value {
                    Value::Null => return false,
                    Value::Array(items) => items.is_empty(),
                    Value::Object(members) => members.is_empty(),
                    Value::Bool(on) => !*on,
                    _ => false,
                };
                !(is_default && OPTIONAL.contains(&name.as_str()))
            });
            // Keys of label maps belong to users and are kept as they are.
            let ours = |name: &str| !matches!(name, "labels" | "assignment");
            members.iter_mut().filter(|(name, _)| ours(name)).for_each(|(_, value)| prune(value));
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

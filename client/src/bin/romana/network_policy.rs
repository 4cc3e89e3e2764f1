//! Kubernetes NetworkPolicy objects in a document of policies: made policies of ours before they are sent.

use romana_statemachine::policy::document::to_document;
use romana_statemachine::policy::kubernetes::NetworkPolicy;
use serde_json::Value;

use crate::failure::Failure;

/// The document to send: Kubernetes objects are translated, any other document is left as it is.
pub(crate) fn translate(document: Value) -> Result<Value, Failure> {
    let Some(kind) = document.get("kind").and_then(Value::as_str) else { return Ok(document) };
    let objects = match (kind, document.get("items")) {
        ("List" | "NetworkPolicyList", Some(Value::Array(items))) => items.clone(),
        ("List" | "NetworkPolicyList", _) => return Err(Failure::usage("items: it is not a list")),
        _ => vec![document],
    };
    objects.into_iter().map(one).collect()
}

fn one(mut object: Value) -> Result<Value, Failure> {
    let kind = object.get("kind").and_then(Value::as_str);
    if let Some(kind) = kind.filter(|kind| *kind != "NetworkPolicy") {
        return Err(Failure::usage(format!("kind: {kind} is not NetworkPolicy")));
    }
    let version = object.get("apiVersion").and_then(Value::as_str);
    if let Some(version) = version.filter(|version| *version != "networking.k8s.io/v1") {
        return Err(Failure::usage(format!("apiVersion: {version} is not networking.k8s.io/v1")));
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.entry("namespace").or_insert_with(|| "default".into());
    }
    let read = serde_json::from_value::<NetworkPolicy>(object);
    let read = read.map_err(|error| Failure::usage(format!("NetworkPolicy: {error}")))?;
    let policy = read.policy().map_err(|refusal| Failure::usage(refusal.to_string()))?;
    let document = serde_json::to_value(to_document(&policy));
    document.map_err(|error| Failure::usage(error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn network_policies_are_translated() {
        let web = json!({"kind": "NetworkPolicy", "metadata": {"name": "web"}, "spec": {}});
        let list = json!({"kind": "List", "items": [web]});
        for document in [web, list] {
            assert_eq!(translate(document).unwrap()[0]["name"], "kube.default.web");
        }
        let own = json!({"name": "p"});
        assert_eq!(translate(own.clone()).unwrap(), own);
        assert!(translate(json!({"kind": "Pod", "metadata": {"name": "web"}})).is_err());
    }
}

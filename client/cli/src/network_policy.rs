//! Kubernetes NetworkPolicy objects in policy documents: converted to Romana policies before they are sent.

use romana_statemachine::policy::document::to_document;
use romana_statemachine::policy::kubernetes::NetworkPolicy;
use serde_json::Value;

use crate::failure::Failure;

/// The document to send: converts Kubernetes objects, keeps any other document, and joins several into a list.
pub(crate) fn translate(documents: Vec<Value>) -> Result<Value, Failure> {
    let mut documents = documents.into_iter().map(translate_one).collect::<Result<Vec<_>, _>>()?;
    if documents.len() == 1 {
        return Ok(documents.remove(0));
    }
    let lists = documents.into_iter().flat_map(|document| match document {
        Value::Array(policies) => policies,
        Value::Object(mut members) => match members.get_mut("securitypolicies") {
            Some(Value::Array(policies)) => std::mem::take(policies),
            _ => vec![members.into()],
        },
        other => vec![other],
    });
    Ok(lists.collect())
}

fn translate_one(document: Value) -> Result<Value, Failure> {
    let Some(kind) = document.get("kind").and_then(Value::as_str) else { return Ok(document) };
    let objects = match (kind, document.get("items")) {
        ("List" | "NetworkPolicyList", Some(Value::Array(items))) => items.clone(),
        ("List" | "NetworkPolicyList", _) => {
            return Err(Failure::document("items: it is not a list"));
        }
        _ => vec![document],
    };
    objects.into_iter().map(one).collect()
}

fn one(mut object: Value) -> Result<Value, Failure> {
    let kind = object.get("kind").and_then(Value::as_str);
    if let Some(kind) = kind.filter(|kind| *kind != "NetworkPolicy") {
        return Err(Failure::document(format!("kind: {kind} is not NetworkPolicy")));
    }
    let version = object.get("apiVersion").and_then(Value::as_str);
    if let Some(version) = version.filter(|version| *version != "networking.k8s.io/v1") {
        return Err(Failure::document(format!(
            "apiVersion: {version} is not networking.k8s.io/v1"
        )));
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        let namespace = metadata.entry("namespace").or_insert(Value::Null);
        if namespace.is_null() {
            *namespace = "default".into();
        }
    }
    let read = serde_json::from_value::<NetworkPolicy>(object);
    let read = read.map_err(|error| Failure::document(format!("NetworkPolicy: {error}")))?;
    let policy = read.policy().map_err(|refusal| Failure::document(refusal.to_string()))?;
    let document = serde_json::to_value(to_document(&policy));
    document.map_err(|error| Failure::document(error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn network_policies_are_translated() {
        let web = json!({"kind": "NetworkPolicy", "metadata": {"name": "web"}, "spec": {}});
        let list = json!({"kind": "List", "items": [web]});
        let null = json!({"kind": "NetworkPolicy", "metadata": {"name": "web", "namespace": null}, "spec": {}});
        for document in [web.clone(), list, null] {
            assert_eq!(translate(vec![document]).unwrap()[0]["name"], "kube.default.web");
        }
        let own = json!({"name": "p"});
        assert_eq!(translate(vec![own.clone()]).unwrap(), own);
        let seeds = json!({"securitypolicies": [{"name": "q"}]});
        let several = translate(vec![web, own, seeds]).unwrap();
        let names: Vec<_> = several.as_array().unwrap().iter().map(|one| &one["name"]).collect();
        assert_eq!(names, ["kube.default.web", "p", "q"]);
        assert!(translate(vec![json!({"kind": "Pod", "metadata": {"name": "web"}})]).is_err());
    }
}

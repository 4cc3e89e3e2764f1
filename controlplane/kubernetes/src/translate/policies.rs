//! NetworkPolicies → policies: completely, or not at all.

use romana_statemachine::Refusal;
use romana_statemachine::command::{Imported, ObjectKey};
use romana_statemachine::policy::{Policy, kubernetes};
use serde_json::{Value, json};

use crate::desired::{Desired, Translation};
use crate::objects::{NetworkPolicy, Store};
use crate::problem::ObjectRef;

pub(super) fn translate(policies: &Store<NetworkPolicy>, out: &mut Translation) {
    for policy in policies.values() {
        let object = ObjectRef::of(&**policy);
        match policy_of(&object, &policy.spec) {
            Ok(translated) => {
                out.want(Desired::of(&**policy, Imported::Policy(translated)));
                continue;
            }
            Err(Fault::Form(why)) => out.problem(&object, "InvalidPolicy", why),
            Err(Fault::Refused(refusal)) => out.problems.push(object.refused(&refusal)),
        }
        // The policy in force stays: without it, what it isolates would be open.
        if let Ok(name) = policy_of(&object, &Value::Null).map(|empty| empty.name) {
            out.kept.insert(ObjectKey::Policy(name));
        }
    }
}

/// Why a policy cannot be translated.
enum Fault {
    /// Its spec has a field that this release does not know, or of another type.
    Form(String),
    Refused(Refusal),
}

fn policy_of(object: &ObjectRef, spec: &Value) -> Result<Policy, Fault> {
    let metadata = json!({"name": object.name, "namespace": object.namespace});
    let whole = json!({"metadata": metadata, "spec": spec});
    let read: kubernetes::NetworkPolicy = serde_json::from_value(whole).map_err(|error| {
        Fault::Form(format!("its spec is not understood, and the policy is not applied: {error}."))
    })?;
    read.policy().map_err(Fault::Refused)
}

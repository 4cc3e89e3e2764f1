//! What an operator has made, and objects of the API server that ask for the same: they must not get it.

use romana_statemachine::command::{HostSource, ObjectKey};
use romana_statemachine::{Command, State};
use serde_json::{Value, json};

/// A host, whose Node has another rack.
pub(super) const HOST: &str = "own-host";
const HOST_IP: &str = "172.31.1.1";
/// A tenant, whose namespace has labels: it takes those, and stays.
pub(super) const TENANT: &str = "t3";
/// A policy, of which there is a NetworkPolicy with other rules.
const POLICY: &str = "kube.k0.own";
/// A VIP, of which there is a Service with another address.
const VIP: &str = "own.k0";
const VIP_IP: &str = "192.168.98.1";

/// The operator's commands; the tenant is one of the workload's.
#[must_use]
pub fn commands() -> Vec<Command> {
    let all = json!([
        {"AddHost": {"name": HOST, "ip": HOST_IP, "labels": {"rack": "0"}}},
        {"SetPolicy": {"name": POLICY, "applied_to": [{"Tenant": "t0"}],
            "isolates_ingress": true, "isolates_egress": false}},
        {"RequestVip": {"name": VIP, "ip": VIP_IP, "candidates": [HOST]}},
    ]);
    // The document is a constant of this file, and a test reads it.
    serde_json::from_value(all).unwrap_or_default()
}

/// The Node of the operator's host.
pub(super) fn node() -> Value {
    json!({
        "metadata": {"name": HOST, "labels": {"rack": "1"}},
        "status": {"addresses": [{"type": "InternalIP", "address": HOST_IP}]},
    })
}

/// Objects of the operator's names, and the lists that they are created in.
pub(super) fn objects() -> [(String, Value); 2] {
    let spec = json!({"podSelector": {}, "ingress": [{"ports": [{"port": 1}]}]});
    let policy = json!({"metadata": {"name": "own"}, "spec": spec});
    let annotation = json!({"auto": false, "ip": "192.168.98.2"}).to_string();
    let metadata = json!({"name": "own", "annotations": {"romanaip": annotation}});
    let service = json!({"metadata": metadata, "spec": {"ports": [{"port": 80}]}});
    [
        ("/apis/networking.k8s.io/v1/namespaces/k0/networkpolicies".into(), policy),
        ("/api/v1/namespaces/k0/services".into(), service),
    ]
}

/// Whether an object is the operator's.
pub(super) fn is_own(key: &ObjectKey) -> bool {
    match key {
        ObjectKey::Host(name) => name.as_str() == HOST,
        ObjectKey::Tenant(id) => id.as_str() == TENANT,
        ObjectKey::Policy(name) => name.as_str() == POLICY,
        ObjectKey::Vip(name) => name.as_str() == VIP,
        ObjectKey::Endpoint(_) | ObjectKey::Kubernetes => false,
    }
}

/// What of the operator's is no longer as the operator made it.
pub(super) fn differences(state: &State) -> Vec<String> {
    let mut found = Vec::new();
    for key in state.sources().map(|(key, _)| key).filter(|key| is_own(key)) {
        found.push(format!("{key} of an operator has got a source"));
    }
    if state.tenant(&TENANT.into()).is_none() {
        found.push(format!("tenant {TENANT} of an operator is gone"));
    }
    for command in commands() {
        let same = match &command {
            Command::AddHost(spec) => state.host(&spec.name).is_some_and(|host| {
                (host.ip, &host.labels, host.source)
                    == (spec.ip, &spec.labels, HostSource::Operator)
            }),
            Command::SetPolicy(policy) => state.policy(&policy.name) == Some(policy),
            Command::RequestVip(spec) => state
                .vip(&spec.name)
                .is_some_and(|vip| (vip.ip, &vip.candidates) == (spec.ip, &spec.candidates)),
            _ => true,
        };
        if !same {
            found.push(format!("an operator's object was changed or removed: {command}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn the_commands_can_be_read() {
        assert_eq!(commands().len(), 3);
        assert!(HOST_IP.parse::<IpAddr>().is_ok());
    }
}

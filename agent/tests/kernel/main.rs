//! The agent on a real kernel: hosts, racks and a control plane in network namespaces. Needs root, `ip`,
//! `iptables`, `ipset`,
//! `conntrack` and `ping`.

#[path = "../policy/cluster.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "only its strategies are used here")]
mod cluster;
#[path = "../policy/interpreter.rs"]
#[allow(dead_code, reason = "cluster uses it")]
mod interpreter;

mod attachment_modes;
mod churn;
mod cleanup;
mod cni;
mod connectivity;
mod cyclonus;
mod handover;
mod lab;
mod names;
mod nat;
mod podman;
mod policy;
mod probe;
mod random;
mod reconciliation;
mod routes;
mod trouble;
mod upgrade;
mod vips;

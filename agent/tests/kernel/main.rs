//! The agent on a real kernel: hosts, racks and a control plane in network namespaces. Needs root, `ip`,
//! `iptables`, `ipset`,
//! `conntrack` and `ping`.

mod cni;
mod cyclonus;
mod lab;
mod nat;
mod podman;
mod policy;
mod probe;
mod routes;
mod truth;
mod ways;

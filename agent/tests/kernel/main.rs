//! The agent on a real kernel: hosts, racks and a control plane in network namespaces. Needs root, `ip`,
//! `iptables` and `ping`.

mod cni;
mod lab;
mod nat;
mod podman;
mod routes;
mod truth;
mod ways;

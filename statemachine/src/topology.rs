//! Topology: networks, and the tree of prefix groups that each is carved into.
//!
//! [`TopologySpec`] is the document (the seeds' JSON, in and out), [`Topology`] what comes of it:
//! per network a flat list of [`Group`]s with their CIDRs. A leaf group is named by its CIDR:
//! networks do not overlap and leaves do not either, so that is unique in the cluster.

mod spec;
pub use spec::{GroupSpec, MapSpec, NetworkSpec, TopologySpec};

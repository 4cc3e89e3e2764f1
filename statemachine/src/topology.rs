//! Topology: networks, and the tree of prefix groups that each is carved into.
//!
//! [`TopologySpec`] is the document (JSON, in and out), [`Topology`] its compiled form: per network a flat
//! list of [`Group`]s with their CIDRs. A leaf group is named by its CIDR: neither networks nor leaves overlap, so it
//! is unique in the cluster.

mod builtin;
mod carve;
mod change;
mod plan;
mod spec;
mod zone_labels;

pub use builtin::{builtin, builtin_names};
pub use carve::{Group, Network, Topology};
pub(crate) use change::{decide_set, evolve_set};
pub use plan::{
    PlannedChange, PlannedGroup, PlannedHandover, PlannedMove, PlannedNetwork, TopologyPlan,
};
pub use spec::{GroupSpec, MapSpec, NetworkSpec, TopologySpec};
pub(crate) use zone_labels::both_names;

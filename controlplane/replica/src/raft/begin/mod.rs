//! How a replica begins: what is on its disk, its parts and tasks, and the cluster, if it is new.

pub(super) mod founding;
pub(super) mod open;
pub(super) mod start;

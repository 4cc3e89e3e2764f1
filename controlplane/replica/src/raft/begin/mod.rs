//! Startup of a replica: opens its files, builds its components, starts its tasks, and founds a new cluster.

pub(super) mod founding;
pub(super) mod open;
pub(super) mod start;

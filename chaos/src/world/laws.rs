//! One file for each law.

pub(super) mod causes;
pub(super) mod converged;
pub(super) mod fail_static;
pub(super) mod foreign;
pub(super) mod imports;
pub(super) mod in_use;
pub(super) mod log_time;
pub(super) mod policy;
pub(super) mod same_state;
pub(super) mod valid;
pub(super) mod vips;

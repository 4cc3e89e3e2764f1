//! One file for each law.

pub(super) mod acked;
pub(super) mod address_once;
pub(super) mod audit;
pub(super) mod backup;
pub(super) mod blocks;
pub(super) mod chain;
pub(super) mod digest;
pub(super) mod exclusive;
pub(super) mod feed;
pub(super) mod kubernetes;
pub(super) mod linearizable;
pub(super) mod live;
pub(super) mod liveness;
pub(super) mod local_reads;
pub(super) mod log_time;
pub(crate) mod memory;
pub(super) mod no_phantom;
pub(super) mod one_history;
pub(super) mod real_time;
pub(super) mod replay;
pub(super) mod reuse;
pub(super) mod served;
pub(super) mod who;

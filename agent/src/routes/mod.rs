//! Routes to the blocks of other hosts, and `unreachable` routes for the free part of this host's blocks.
//!
//! `plan` computes the desired routes, `diff` the changes. Both are pure; `crate::kernel` reads and writes.

mod diff;
mod plan;

pub use diff::{Change, diff, missing, sparing};
pub use plan::{Facts, Gateway, Hop, Link, Options, Plan, Skipped, Target, plan};

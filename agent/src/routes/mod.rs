//! Routes to the blocks of other hosts, and `unreachable` ones for what is free of the own blocks.
//!
//! `plan` says what should be in the kernel, `diff` what to change. Both are pure; `crate::kernel` reads
//! and writes.

mod diff;
mod plan;

pub use diff::{Change, diff, missing, sparing};
pub use plan::{Facts, Gateway, Hop, Link, Options, Plan, Skipped, Target, plan};

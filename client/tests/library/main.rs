//! The library against a server that misbehaves.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod audit;
mod calls;
mod follow;
#[path = "../support/mod.rs"]
mod support;

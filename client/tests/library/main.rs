//! The library against a server that misbehaves.

mod calls;
mod follow;
#[path = "../support.rs"]
mod support;

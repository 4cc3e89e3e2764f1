//! `romana` from the outside: arguments, output and exit codes, one file per case.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod alone;
mod backup;
mod config;
mod connectivity;
mod directories;
mod goldens;
mod guides;
mod openstack;
mod readme;
mod real;
mod shapes;
#[path = "../../../tests/support/mod.rs"]
mod support;
mod sysdump;
mod three;

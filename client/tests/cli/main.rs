//! `romana` as its users meet it: arguments, output and exit codes, one file per case.

mod config;
mod goldens;
#[path = "../support.rs"]
mod support;

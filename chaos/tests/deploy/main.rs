//! What is in `deploy/` fits the programs: every overlay renders and holds together, the programs accept the options that
//! manifests and units give them, metrics that the dashboard and the alerts name exist, and a real API server takes the
//! manifests where there is one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api_server;
mod kustomize;
mod manifests;
mod monitoring;
mod programs;
mod rbac;
mod units;

use std::path::{Path, PathBuf};

use romana_chaos::cluster::find_romanad;
use romana_testing::{must, output};

/// The folder `deploy`.
fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").canonicalize().unwrap()
}

/// A program of ours, which `cargo build --workspace --bins` made.
fn built(name: &str) -> PathBuf {
    let romanad = find_romanad(None).expect("cargo build --workspace --bins comes first");
    romanad.with_file_name(name)
}

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
use std::process::{Command, Output};

use romana_chaos::cluster::find_romanad;

/// The folder `deploy`.
fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").canonicalize().unwrap()
}

/// A program of ours, which `cargo build --workspace --bins` made.
fn built(name: &str) -> PathBuf {
    let romanad = find_romanad(None).expect("cargo build --workspace --bins comes first");
    romanad.with_file_name(name)
}

/// Runs a program to its end.
fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error} (deploy/test-setup.sh installs what the tests need)")
    })
}

/// Standard output of a program that must succeed.
fn must(command: &mut Command) -> String {
    let output = output(command);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

//! Programs that a script of this folder builds, for the tests of several crates.

use std::path::PathBuf;
use std::process::Command;

/// The path that a script prints. `None` where it cannot build the program and this is not CI (exit status 3).
pub(crate) fn built(script: &str, arguments: &[&str]) -> Option<PathBuf> {
    let script = format!("{}/../deploy/{script}", env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(&script).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{script}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(3) {
        eprintln!("not run: {said}");
        return None;
    }
    assert!(output.status.success(), "{said}");
    Some(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

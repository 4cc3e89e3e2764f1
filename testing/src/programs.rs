//! Programs that tests run, and those that scripts in `deploy/` build.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs a program to its end.
///
/// # Panics
/// It is missing.
#[must_use]
pub fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error} (deploy/test-setup.sh installs what the tests need)")
    })
}

/// Standard output of a program that must succeed.
///
/// # Panics
/// It is missing, or fails.
pub fn must(command: &mut Command) -> String {
    let output = output(command);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The path that a script prints. `None` where it cannot build the program and this is not CI (exit status 3).
///
/// # Panics
/// The script fails.
#[must_use]
pub fn built(script: &str, arguments: &[&str]) -> Option<PathBuf> {
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

/// `romanad` of the previous release: built when it is not there. `None` in a clone without history.
#[must_use]
pub fn previous() -> Option<PathBuf> {
    built("previous.sh", &[])
}

/// The `romana-agent` that came with a `romanad`.
///
/// # Panics
/// The path has no file name.
#[must_use]
pub fn agent_of(romanad: &Path) -> PathBuf {
    let name = romanad.file_name().and_then(|name| name.to_str()).expect("a name");
    romanad.with_file_name(name.replace("romanad", "romana-agent"))
}

//! The programs of the release before this one, for the tests of several crates.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The previous `romanad`: built when it is not there. `None` in a clone without history.
pub(crate) fn previous() -> Option<PathBuf> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/previous.sh");
    let output = Command::new(script).output().expect("run deploy/previous.sh");
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(3) {
        eprintln!("not run: {said}");
        return None;
    }
    assert!(output.status.success(), "{said}");
    Some(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// The `romana-agent` that came with a `romanad`.
#[allow(dead_code, reason = "not all tests run an agent")]
pub(crate) fn agent_of(romanad: &Path) -> PathBuf {
    let name = romanad.file_name().and_then(|name| name.to_str()).expect("a name");
    romanad.with_file_name(name.replace("romanad", "romana-agent"))
}

//! The programs of the release before this one, for the tests of several crates.

#[path = "built.rs"]
mod built;

use std::path::{Path, PathBuf};

/// The previous `romanad`: built when it is not there. `None` in a clone without history.
pub(crate) fn previous() -> Option<PathBuf> {
    built::built("previous.sh", &[])
}

/// The `romana-agent` that came with a `romanad`.
#[allow(dead_code, reason = "not all tests run an agent")]
pub(crate) fn agent_of(romanad: &Path) -> PathBuf {
    let name = romanad.file_name().and_then(|name| name.to_str()).expect("a name");
    romanad.with_file_name(name.replace("romanad", "romana-agent"))
}

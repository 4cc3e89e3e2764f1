//! The mutants can be built: each patch applies. `make mutants` checks that the judge detects them.

use std::path::Path;
use std::process::Command;

#[test]
fn every_patch_applies_and_says_what_it_plants() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let dir = std::fs::read_dir(root.join("chaos/mutants")).expect("chaos/mutants");
    let mut count = 0;
    for path in dir.map(|entry| entry.expect("a file").path()) {
        if path.extension().is_none_or(|extension| extension != "patch") {
            continue;
        }
        count += 1;
        let text = std::fs::read_to_string(&path).expect("a patch");
        let says = text.lines().next().unwrap_or_default();
        assert!(says.ends_with('.') && !says.starts_with("diff"), "{}", path.display());
        let path = path.canonicalize().expect("a path");
        let mut check = Command::new("git");
        check.args(["apply", "--check"]).arg(&path).current_dir(&root);
        let output = check.output().expect("git is installed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", path.display());
    }
    assert!(count >= 13, "{count}");
}

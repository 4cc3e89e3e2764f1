//! Checks the structure of the workspace: dependencies between crates, which crates use openraft, what the
//! state machine may use, and the length of files and functions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

/// Allowed dependencies between our crates. A crate that is not listed may have none.
const ARROWS: &[(&str, &[&str])] = &[
    ("romana-statemachine", &[]),
    ("romana-api", &["romana-statemachine"]),
    ("romana-client", &["romana-api", "romana-daemon", "romana-statemachine"]),
    ("romana-cli", &["romana-api", "romana-client", "romana-daemon", "romana-statemachine"]),
    ("romana-daemon", &["romana-statemachine"]),
    ("romana-apiserver", &["romana-daemon"]),
    ("romana-storage", &["romana-daemon", "romana-statemachine"]),
    ("romana-replica", &["romana-api", "romana-daemon", "romana-statemachine", "romana-storage"]),
    (
        "romana-controlplane",
        &[
            "romana-api",
            "romana-apiserver",
            "romana-daemon",
            "romana-kubernetes",
            "romana-replica",
            "romana-statemachine",
            "romana-storage",
        ],
    ),
    ("romana-kubernetes", &["romana-apiserver", "romana-statemachine"]),
    ("romana-agent", &["romana-api", "romana-client", "romana-daemon", "romana-statemachine"]),
    ("romana-dns", &["romana-apiserver", "romana-client", "romana-daemon", "romana-statemachine"]),
    (
        "romana-chaos",
        &[
            "romana-agent",
            "romana-client",
            "romana-replica",
            "romana-statemachine",
            "romana-testing",
        ],
    ),
    ("romana-testing", &[]),
    ("romana-chaos-raft", &["romana-replica", "romana-statemachine", "romana-storage"]),
];

/// Dependencies allowed for tests only.
const TEST_ARROWS: &[(&str, &[&str])] = &[
    ("romana-controlplane", &["romana-client"]),
    ("romana-agent", &["romana-testing"]),
    ("romana-cli", &["romana-testing"]),
    ("romana-dns", &["romana-testing"]),
    ("romana-kubernetes", &["romana-testing"]),
    ("romana-statemachine", &["romana-testing"]),
];

/// Allowed dependencies of the pure crate.
const PURE: &[&str] = &["blake3", "imbl", "ipnet", "lz4_flex", "postcard", "serde", "thiserror"];

/// Words that must not occur in the pure crate: clocks, threads, files, hash order, floats.
const IMPURE: &[&str] = &[
    "std::",
    "HashMap",
    "HashSet",
    "RandomState",
    "SystemTime",
    "Instant",
    "thread::",
    "f32",
    "f64",
    "async ",
    "static mut",
];

/// Limits: lines of a file without inline tests, and lines of a function.
const FILE_LINES_MAX: usize = 700;
const FUNCTION_LINES_MAX: usize = 70;

/// Files that may be longer, and why. Only ever shorten this list.
const LONG_FILES: &[(&str, &str)] = &[];

/// Functions that may be longer (`file::function`), and why. Only ever shorten this list.
const LONG_FUNCTIONS: &[(&str, &str)] = &[];

/// What `cargo metadata` says about our crates.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    rename: Option<String>,
    /// `dev` or `build`; `None`: a normal one.
    kind: Option<String>,
    optional: bool,
}

fn metadata() -> Metadata {
    let asked = ["metadata", "--no-deps", "--format-version", "1", "--locked", "--offline"];
    let output = Command::new(env!("CARGO")).args(asked).output().expect("cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("what cargo metadata prints")
}

fn ours(metadata: &Metadata) -> &[Package] {
    &metadata.packages
}

fn allowed(
    table: &[(&'static str, &'static [&'static str])],
    name: &str,
) -> BTreeSet<&'static str> {
    table.iter().filter(|(from, _)| *from == name).flat_map(|(_, to)| to.iter().copied()).collect()
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.map(|entry| entry.expect("a directory entry").path()) {
            if entry.is_dir() {
                open.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                found.push(entry);
            }
        }
    }
    found.sort();
    found
}

/// A source file without its inline tests.
fn production(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("a source file");
    match text.find("#[cfg(test)]\nmod ") {
        Some(at) if text[at..].lines().nth(1).is_some_and(|line| line.ends_with('{')) => {
            text[..at].to_owned()
        }
        _ => text,
    }
}

/// Code without comments and string literals, line by line: sufficient for a search for words.
fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_text = false;
    for line in text.lines() {
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' if in_text => _ = chars.next(),
                '"' => in_text = !in_text,
                '\'' if !in_text && chars.peek() == Some(&'"') => _ = chars.next(),
                '/' if !in_text && chars.peek() == Some(&'/') => break,
                c if !in_text => out.push(c),
                _ => {}
            }
        }
        out.push('\n');
    }
    out
}

fn root(package: &Package) -> PathBuf {
    package.manifest_path.parent().expect("a manifest is in a directory").to_owned()
}

/// Source files of all our crates (without tests), by path from the workspace's root.
fn all_sources(metadata: &Metadata) -> BTreeMap<String, PathBuf> {
    let mut all = BTreeMap::new();
    for package in ours(metadata) {
        for path in sources(&root(package).join("src")) {
            let shown = path.strip_prefix(&metadata.workspace_root).expect("inside the workspace");
            all.insert(shown.display().to_string(), path);
        }
    }
    all
}

#[test]
fn arrows_between_rooms() {
    let metadata = metadata();
    let names: BTreeSet<&str> =
        ours(&metadata).iter().map(|package| package.name.as_str()).collect();
    for package in ours(&metadata) {
        for dependency in &package.dependencies {
            if !names.contains(dependency.name.as_str()) {
                continue;
            }
            let mut may = allowed(ARROWS, &package.name);
            if dependency.kind.as_deref() == Some("dev") {
                may.extend(allowed(TEST_ARROWS, &package.name));
            }
            let (from, to) = (&package.name, dependency.name.as_str());
            assert!(may.contains(to), "{from} must not know {to}; it may know {may:?}");
        }
    }
}

/// Dependencies that no source names, and why they are there.
const UNNAMED: &[(&str, &str)] = &[];

#[test]
fn no_dependency_is_unused() {
    let metadata = metadata();
    let mut unused = Vec::new();
    for package in ours(&metadata) {
        let nested: Vec<PathBuf> = ours(&metadata).iter().map(root).collect();
        let own = root(package);
        let text: String = ["src", "tests", "benches", "examples"]
            .iter()
            .flat_map(|dir| sources(&own.join(dir)))
            .filter(|path| {
                !nested
                    .iter()
                    .any(|root| *root != own && root.starts_with(&own) && path.starts_with(root))
            })
            .map(|path| code(&std::fs::read_to_string(path).expect("a source file")))
            .collect();
        for dependency in &package.dependencies {
            let name = dependency.rename.as_deref().unwrap_or(&dependency.name).replace('-', "_");
            let excused = UNNAMED.iter().any(|(known, _)| *known == dependency.name);
            if !excused && !text.lines().any(|line| has_word(line, &name)) {
                unused.push(format!("{} does not use {}", package.name, dependency.name));
            }
        }
    }
    assert!(unused.is_empty(), "{}", unused.join("\n"));
}

#[test]
fn openraft_is_known_in_one_folder() {
    let metadata = metadata();
    for package in ours(&metadata) {
        let knows =
            package.dependencies.iter().any(|dependency| dependency.name.starts_with("openraft"));
        assert!(!knows || package.name == "romana-replica", "{} knows openraft", package.name);
    }
    for (shown, path) in all_sources(&metadata) {
        let home = shown.starts_with("controlplane/replica/src/raft");
        let mentions = code(&production(&path)).contains("openraft");
        assert!(
            home || !mentions,
            "{shown} mentions openraft; only controlplane/replica/src/raft may"
        );
    }
}

#[test]
fn sled_is_known_in_one_file() {
    let metadata = metadata();
    let knowing: Vec<String> = all_sources(&metadata)
        .into_iter()
        .filter(|(_, path)| code(&production(path)).contains("sled::"))
        .map(|(shown, _)| shown)
        .collect();
    assert!(knowing.len() <= 1, "more than one file knows sled: {knowing:?}");
}

#[test]
fn the_state_machine_is_pure() {
    let metadata = metadata();
    let package = ours(&metadata)
        .iter()
        .find(|package| package.name == "romana-statemachine")
        .expect("the state machine");
    for dependency in &package.dependencies {
        // Optional: schemas of the vocabulary, which the API alone asks for.
        let normal = dependency.kind.is_none() && !dependency.optional;
        let fine = !normal || PURE.contains(&dependency.name.as_str());
        assert!(fine, "the state machine depends on {}", dependency.name);
    }
    let src = root(package).join("src");
    let lib = std::fs::read_to_string(src.join("lib.rs")).expect("lib.rs");
    assert!(lib.contains("#![no_std]"), "the state machine is not no_std");
    for path in sources(&src).iter().filter(|path| !path.ends_with("tests.rs")) {
        let code = code(&production(path));
        for word in IMPURE {
            let at = code.lines().position(|line| has_word(line, word));
            assert!(at.is_none(), "{}: line {at:?} has {word:?}", path.display());
        }
    }
}

/// Whether a line contains a word that is not the end of a longer one.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(part);
        let after = line[at + word.len()..].chars().next().is_some_and(part);
        !before && (!after || !word.ends_with(part))
    })
}

#[test]
fn nothing_is_unsafe() {
    let metadata = metadata();
    for package in ours(&metadata) {
        let manifest = std::fs::read_to_string(&package.manifest_path).expect("a manifest");
        let inherits = manifest.contains("[lints]\nworkspace = true");
        assert!(inherits, "{} does not take the workspace's lints", package.name);
    }
    let manifest = metadata.workspace_root.join("Cargo.toml");
    let manifest = std::fs::read_to_string(manifest).expect("the workspace's manifest");
    assert!(manifest.contains("unsafe_code = \"forbid\""), "unsafe code is not forbidden");
    for (shown, path) in all_sources(&metadata) {
        let code = code(&std::fs::read_to_string(path).expect("a source file"));
        assert!(!code.lines().any(|line| has_word(line, "unsafe")), "{shown} has unsafe code");
    }
}

#[test]
fn files_are_not_too_long() {
    for (shown, path) in all_sources(&metadata()) {
        let lines = production(&path).lines().count();
        let excused = LONG_FILES.iter().any(|(file, _)| *file == shown);
        assert!(
            lines <= FILE_LINES_MAX || excused,
            "{shown} has {lines} lines, the most is {FILE_LINES_MAX}: split it"
        );
        assert!(
            lines > FILE_LINES_MAX || !excused,
            "{shown} is short again: strike it off the list"
        );
    }
}

/// Functions of a formatted source file: name and lines from signature to closing brace.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let words = ["pub ", "pub(crate) ", "pub(super) ", "const ", "async "];
        let mut rest = trimmed;
        while let Some(shorter) = words.iter().find_map(|word| rest.strip_prefix(word)) {
            rest = shorter;
        }
        let Some(signature) = rest.strip_prefix("fn ") else { continue };
        let name: String =
            signature.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let close = format!("{}}}", &line[..line.len() - trimmed.len()]);
        // A function on one line, or a declaration without a body.
        let short = line.ends_with('}') || line.ends_with(';');
        let length = if short {
            1
        } else {
            lines[at..]
                .iter()
                .position(|line| *line == close || declaration_ends(line, &close))
                .map_or(1, |more| more + 1)
        };
        found.push((name, length));
    }
    found
}

/// The last line of a declaration without a body, with a signature of several lines.
fn declaration_ends(line: &str, close: &str) -> bool {
    let indent = &close[..close.len() - 1];
    line.strip_prefix(indent).is_some_and(|rest| rest.starts_with(')') && rest.ends_with(';'))
}

#[test]
fn functions_are_not_too_long() {
    for (shown, path) in all_sources(&metadata()) {
        for (name, lines) in functions(&production(&path)) {
            let key = format!("{shown}::{name}");
            let excused = LONG_FUNCTIONS.iter().any(|(function, _)| *function == key);
            assert!(
                lines <= FUNCTION_LINES_MAX || excused,
                "{key} has {lines} lines, the most is {FUNCTION_LINES_MAX}: split it"
            );
        }
    }
}

#[test]
fn exceptions_have_reasons_and_exist() {
    for (what, reason) in LONG_FILES.iter().chain(LONG_FUNCTIONS) {
        assert!(reason.len() > 20, "{what} has no reason");
        let file = what.split("::").next().unwrap_or_default();
        assert!(metadata().workspace_root.join(file).exists(), "{what} is gone: strike it off");
    }
}

#[test]
fn tools_are_there_in_ci() {
    if std::env::var_os("CI").is_none() {
        return;
    }
    for (tool, argument) in [("cc", "--version"), ("etcd", "--version")] {
        let works = std::process::Command::new(tool)
            .arg(argument)
            .output()
            .is_ok_and(|out| out.status.success());
        assert!(works, "{tool} is missing: deploy/test-setup.sh installs it");
    }
}

#[test]
fn the_inspector_is_not_blind() {
    let text = "let a = \"unsafe // \\\" f64\"; // unsafe\nlet b: f64 = 'x';\n";
    assert_eq!(code(text), "let a = ; \nlet b: f64 = 'x';\n");
    assert!(has_word("let b: f64 = 1", "f64") && !has_word("let bf64 = 1", "f64"));
    assert!(has_word("use std::io", "std::") && !has_word("mystd::io", "std::"));
    let text = "impl A {\n    pub async fn one(\n        self,\n    ) {\n        x();\n    }\n\n    fn two() {}\n}\n\
                trait B {\n    fn three(\n        self,\n    ) -> u8;\n}\n";
    let found = functions(text);
    let expected = [("one", 5), ("two", 1), ("three", 3)];
    assert_eq!(found, expected.map(|(name, lines)| (name.to_owned(), lines)));
}

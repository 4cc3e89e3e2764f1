//! Messages for people must not contain values in debug format: every `{value:?}` in a format string of the
//! sources must be quoted text, or be on the list below.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// Names of external texts, which are shown in quotes.
const QUOTED: [&str; 16] = [
    "text", "name", "value", "url", "path", "essence", "shown", "wanted", "given", "other",
    "machine", "theirs", "ours", "key", "found", "version",
];
/// Other values with a readable debug format: durations (`250ms`, `10s`), and enumerations of words.
const OTHERS: [&str; 7] =
    ["within", "patience", "PATIENCE", "WORK_TIMEOUT", "state", "attempt", "nature"];

/// Sources of programs, without tests.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    let rooms = [
        "statemachine",
        "daemon",
        "apiserver",
        "controlplane/storage",
        "controlplane/replica",
        "controlplane/kubernetes",
        "controlplane",
        "client",
        "client/cli",
        "agent",
        "dns",
    ];
    for room in rooms {
        let mut left = vec![root.join(room).join("src")];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
                let path = entry.path();
                if path.is_dir() {
                    left.extend((entry.file_name() != "tests").then_some(path));
                } else if path.extension().is_some_and(|end| end == "rs")
                    && entry.file_name() != "tests.rs"
                {
                    let text = fs::read_to_string(&path).unwrap();
                    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
                    found.push((path, text.to_owned()));
                }
            }
        }
    }
    assert!(found.len() > 200, "{} sources", found.len());
    found
}

/// The text between a brace and `end`, on each line that formats a message. Asserts are excluded.
fn in_braces<'a>(source: &'a str, end: &str) -> Vec<(&'a str, &'a str)> {
    let said = |line: &&str| !line.trim_start().starts_with("//") && !line.contains("assert");
    let mut found = Vec::new();
    for line in source.lines().filter(said) {
        for (at, _) in line.match_indices(end) {
            let before = &line[..at];
            if let Some(open) = before.rfind('{') {
                found.push((&before[open + 1..], line));
            }
        }
    }
    found
}

#[test]
fn values_are_shown_as_people_write_them() {
    let mut wrong = Vec::new();
    for (path, source) in sources() {
        for (name, line) in in_braces(&source, ":?}") {
            // `{:?}`: the value follows the text.
            let argument = line.rsplit_once("\", ").map_or("", |(_, argument)| argument);
            let texts = ["&*why", "call.path(\"id\")", "given", "text"];
            let known = match name {
                "" => texts.iter().any(|text| argument.starts_with(text)),
                name => QUOTED.contains(&name) || OTHERS.contains(&name),
            };
            // A log visitor gets values in debug form, and a digest covers the whole form.
            let exempt = line.contains("format_args!") || line.contains("named(\"ROMANA-G-\"");
            if !known && !exempt {
                wrong.push(format!("{}: {}", path.display(), line.trim()));
            }
        }
        for end in ["ms} ms", "_ms}", "ms}ms", "free_bytes}"] {
            let of = in_braces(&source, end).into_iter();
            wrong.extend(of.map(|(_, line)| format!("{}: {}", path.display(), line.trim())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

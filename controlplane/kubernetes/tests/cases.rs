//! Cases: objects of Kubernetes and what becomes of them. A file of `cases/` is one cluster, step by step:
//!
//! ```text
//! # comment
//! do JSON            a command that something else has put into the log (as in POST /v1/batch)
//! @+MILLIS           time passes
//! delete KIND NAME   the object is deleted; NAME as namespace/name
//! list               the objects are those of a complete list of the API server
//! merge NAME JSON    the Service is changed by a merge patch; NAME as namespace/name
//! writes             from here on, what is written into Services is shown, and taken by the API server
//! YAML               an object in flow style: created, or replaced (may span lines until its brackets are closed)
//! ---
//! the commands that are proposed, what the log does, the problems, and what is held back
//! ```
//! Steps are separated by an empty line. `UPDATE=1 cargo test` writes what comes after `---`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::fmt::Write;
use std::path::Path;

use cluster::Cluster;
use romana_testing::goldens::check_steps;

/// Brackets that are open at the end of a text; those in single quotes do not count.
fn open_brackets(text: &str) -> i64 {
    let text: String = text.split('\'').step_by(2).collect();
    let count = |c: char| i64::try_from(text.matches(c).count()).unwrap();
    count('{') + count('[') - count('}') - count(']')
}

/// Carries out the lines of a step. Returns whether what is written into Services is to be shown from here on.
fn step(cluster: &mut Cluster, text: &str, out: &mut String) -> bool {
    let (mut lines, mut shows) = (text.lines(), false);
    while let Some(line) = lines.next() {
        let mut line = line.trim().to_owned();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        while open_brackets(&line) > 0 {
            line.push(' ');
            line.push_str(lines.next().expect("brackets are closed").trim());
        }
        if let Some(ms) = line.strip_prefix("@+") {
            cluster.at += ms.parse::<u64>().unwrap();
        } else if let Some(command) = line.strip_prefix("do ") {
            let command = serde_json::from_str(command).unwrap_or_else(|e| panic!("{line}: {e}"));
            cluster.apply(&[command], out);
        } else if line == "list" {
            cluster.listed();
        } else if line == "writes" {
            shows = true;
        } else if let Some(change) = line.strip_prefix("merge ") {
            let (name, patch) = change.split_once(' ').expect("a name and a patch");
            let patch = serde_json::from_str(patch).unwrap_or_else(|e| panic!("{line}: {e}"));
            cluster.merge(name, &patch);
        } else if let Some(name) = line.strip_prefix("delete ") {
            let (kind, name) = name.split_once(' ').expect("a kind and a name");
            cluster.delete(kind, name);
        } else {
            let object = serde_yaml_ng::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
            cluster.put(object);
        }
    }
    shows
}

#[test]
fn cases() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let begin = || (Cluster::new(), false);
    check_steps(&folder, 6, begin, |(cluster, shows), given, out| {
        *shows |= step(cluster, given, out);
        let guarded = cluster.pass(out);
        for problem in &guarded.plan.problems {
            writeln!(out, "problem: {problem}").unwrap();
        }
        if let Some(why) = &guarded.held {
            writeln!(out, "held, {} objects: {why}", guarded.count).unwrap();
        }
        if *shows {
            cluster.write(out);
        }
    });
}

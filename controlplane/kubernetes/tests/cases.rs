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
use std::fs;
use std::path::{Path, PathBuf};

use cluster::Cluster;

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

fn run(path: &Path) -> (String, String) {
    let text = fs::read_to_string(path).unwrap();
    let (mut cluster, mut fresh, mut shows) = (Cluster::new(), String::new(), false);
    for part in text.split("\n\n").map(|part| part.trim_matches('\n')) {
        let given = part.split_once("\n---").map_or(part, |(given, _)| given);
        let mut out = String::new();
        shows |= step(&mut cluster, given, &mut out);
        let guarded = cluster.pass(&mut out);
        for problem in &guarded.plan.problems {
            writeln!(out, "problem: {problem}").unwrap();
        }
        if let Some(why) = &guarded.held {
            writeln!(out, "held, {} objects: {why}", guarded.count).unwrap();
        }
        if shows {
            cluster.write(&mut out);
        }
        if !fresh.is_empty() {
            fresh.push('\n');
        }
        write!(fresh, "{given}\n---\n{out}").unwrap();
    }
    (text, fresh)
}

#[test]
fn cases() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|end| end == "txt")).collect();
    files.sort();
    assert!(files.len() > 5);
    let mut wrong = Vec::new();
    for file in files {
        let name = file.display().to_string();
        let (text, fresh) = run(&file);
        if text != fresh && std::env::var_os("UPDATE").is_some() {
            fs::write(&file, &fresh).unwrap();
        } else if text != fresh {
            let differs = text.lines().zip(fresh.lines()).find(|(old, new)| old != new);
            let (old, new) = differs.unwrap_or(("(shorter)", "(or longer)"));
            wrong.push(format!("{name}\n- {old}\n+ {new}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

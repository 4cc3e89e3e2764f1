//! Raft in one process: fixed seeds, a seed derived from the commit, and lying disks, which the laws must
//! detect. Needs `make sim-build`, which `make unit` runs.

use std::path::PathBuf;
use std::process::{Command, Output};

fn program() -> PathBuf {
    let own = std::env::current_exe().expect("a test has a program");
    // <target>/debug/deps/raft-…
    let target = own.ancestors().nth(3).expect("a target directory");
    let program = target.join("debug/chaos-raft");
    assert!(program.exists(), "{} is missing: run `make sim-build`", program.display());
    program
}

fn chaos_raft(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).output().expect("it can be run")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn hold(seed: u64, count: u64) {
    let output = chaos_raft(&["sweep", "--seed", &seed.to_string(), "--count", &count.to_string()]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn every_law_holds_in_fixed_seeds() {
    hold(1, 60);
}

/// Each of these seeds found a bug (`chaos/BUGS.md`).
#[test]
fn every_law_holds_where_one_was_broken() {
    for seed in [1076, 1122, 1317, 1322, 1854] {
        hold(seed, 1);
    }
}

/// Other seeds with every commit.
#[test]
fn every_law_holds_in_seeds_of_the_commit() {
    let mut head = Command::new("git");
    head.args(["rev-parse", "--short=7", "HEAD"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let head = head.output().expect("git is installed");
    let digits = String::from_utf8_lossy(&head.stdout).trim().to_owned();
    let seed =
        u64::from_str_radix(&digits, 16).unwrap_or_else(|_| panic!("not a commit: {digits}"));
    hold(seed << 8, 60);
}

#[test]
fn a_seed_is_a_run() {
    let run = |seed: &str| said(&chaos_raft(&["run", "--seed", seed]));
    for seed in ["3", "17"] {
        let (one, again) = (run(seed), run(seed));
        assert!(one.contains("trace"), "{one}");
        assert_eq!(one, again);
    }
    assert_ne!(run("3"), run("17"));
}

/// Log and history alone, in more dangerous situations than a cluster reaches.
#[test]
fn stories_end_well() {
    let output = chaos_raft(&["stories"]);
    assert!(output.status.success(), "{}", said(&output));
}

/// A control plane that skips a sync, or acknowledges before it, is equivalent to one on such a disk.
#[test]
fn disks_that_lie_are_noticed() {
    for lie in ["sync", "late-sync", "directory"] {
        let output = chaos_raft(&["sweep", "--count", "20", "--first", "--lie", lie]);
        assert_eq!(output.status.code(), Some(1), "{lie} is not noticed: {}", said(&output));
        assert!(said(&output).contains("BROKEN"), "{lie}: {}", said(&output));
        let told = said(&chaos_raft(&["stories", "--count", "1000", "--lie", lie]));
        for part in ["the history", "the log"] {
            assert!(told.contains(&format!("BROKEN: {part} ")), "{lie}: {part}: {told}");
        }
    }
}

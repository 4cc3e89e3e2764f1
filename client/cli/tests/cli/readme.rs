//! Runs the code blocks of README.md. Every new command is run here as well, or is listed below with the reason why
//! it cannot be.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use super::real::{Dev, program};

/// Prefixes of commands that no test of this package can run, with the reason.
const NOT_RUN: &[(&str, &str)] = &[
    ("make demo", "a release build; `real.rs` runs the demo itself"),
    ("make test", "it is what runs this test"),
    ("make chaos", "a quarter of an hour; shorter runs are in chaos/tests"),
    ("make judge", "a release build and a minute; chaos/tests/smoke.rs is the same, shorter"),
    ("make sim", "a build of its own; chaos/tests/raft.rs runs some seeds"),
    ("make mutants", "builds of changed copies; chaos/tests/mutants.rs checks that each applies"),
    ("make bench", "a release build and an idle machine"),
    ("make test-policy", "root and minutes; agent/tests/kernel has a sample"),
    ("cargo build --release", "a release build: the programs of this build are run instead"),
    ("target/release/romanad --dev", "it runs already: the commands are about it"),
    ("romana-agent status", "an agent needs root; agent/tests/kernel asks agents all the time"),
    ("dig @127.0.0.1", "nothing answers on port 53 here; dns/tests/live asks with dig"),
    ("romana connectivity test", "an agent needs root; agent/tests/kernel/connectivity.rs runs it"),
];

/// Commands that exit with another code than 0 here, with the reason.
const EXIT_CODES: &[(&str, i32)] = &[
    // No agent reports the addresses in use on node-17.
    ("romana ipam check", 1),
    // The replica that was added was never started.
    ("romana doctor", 1),
];

/// A command and its output in the README.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) line: String,
    printed: Vec<String>,
}

/// The commands of all code blocks, in order.
pub(crate) fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in text.split("```").skip(1).step_by(2) {
        let (kind, body) = block.split_once('\n').unwrap();
        let body = body.replace("\\\n", " ");
        for line in body.lines().filter(|line| !line.trim().is_empty()) {
            let command = match kind {
                "sh" => Some(line),
                "" => line.strip_prefix("$ "),
                _ => panic!("a code block of an unknown kind: {kind}"),
            };
            match command {
                Some(command) => {
                    let command = command.split(" #").next().unwrap().trim();
                    let line = command.trim_end_matches('&').trim().to_owned();
                    steps.push(Step { line, printed: Vec::new() });
                }
                None => steps.last_mut().unwrap().printed.push(line.to_owned()),
            }
        }
    }
    steps
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs a command of the README: `romana` against the replica; daemons only with `--check`.
pub(crate) fn run(dev: &Dev, line: &str) -> Output {
    let line = line.trim_start_matches("target/release/");
    let (name, rest) = line.split_once(' ').unwrap();
    match name {
        "romana" => dev.run(rest),
        "romanad" | "romana-agent" | "romana-dns" => Command::new(program(name))
            .args(rest.split_whitespace())
            .arg("--check")
            .env_clear()
            .output()
            .unwrap(),
        other => panic!("{other} is neither run nor named as one that cannot be: {line}"),
    }
}

/// Compares output, ignoring column widths and revisions.
fn same(shown: &[String], printed: &str) -> bool {
    let words = |line: &str| -> Vec<String> {
        let mut words: Vec<String> = line.split_whitespace().map(Into::into).collect();
        if words.last().is_some_and(|last| last.parse::<u64>().is_ok()) {
            words.pop();
        }
        words
    };
    let lines = printed.lines().map(words).filter(|line| !line.is_empty());
    let lines: Vec<Vec<String>> = lines.collect();
    shown.iter().all(|line| lines.contains(&words(line)))
}

#[test]
fn the_readme_is_true() {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let dev = Dev::start();
    std::os::unix::fs::symlink(root().join("deploy"), dev.dir.path().join("deploy")).unwrap();
    let policy = r#"{"name": "web", "applied_to": [{"tenant": "shop", "segment": "frontend"}],
        "direction": "ingress", "peers": [{"tenant": "shop"}],
        "rules": [{"protocol": "tcp", "ports": [80]}]}"#;
    dev.file("web.json", policy);
    let kubernetes = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: np\n  \
        namespace: other\nspec:\n  podSelector: {}\n";
    dev.file("networkpolicy.yaml", kubernetes);
    let (mut wrong, mut ran, mut unused) = (Vec::new(), 0, NOT_RUN.to_vec());
    for Step { line, printed } in steps(&text) {
        if NOT_RUN.iter().any(|(begin, _)| line.starts_with(begin)) {
            unused.retain(|(begin, _)| !line.starts_with(begin));
            continue;
        }
        if line.starts_with("romana policy check") {
            // The output is about this address.
            dev.run("host add node-4 192.168.20.4 --label rack=rack-1");
            dev.run("address allocate guest --host node-4 -t guests --ip 10.111.0.9");
        }
        let output = run(&dev, &line);
        ran += 1;
        if line.starts_with("romana cluster add") {
            let until = Instant::now() + Duration::from_secs(20);
            while !dev.ok("cluster status").contains("10.0.0.4:9601") {
                assert!(Instant::now() < until, "the new member is not shown");
            }
        }
        let wanted = EXIT_CODES.iter().find(|(begin, _)| line.starts_with(begin));
        let code = output.status.code();
        if code != Some(wanted.map_or(0, |(_, code)| *code)) {
            wrong.push(format!("{line}: {output:?}"));
        } else if !same(&printed, &String::from_utf8_lossy(&output.stdout)) {
            wrong.push(format!("{line} does not print {printed:?}: {output:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(ran > 20 && unused.is_empty(), "{ran} ran; not in the README: {unused:?}");
}

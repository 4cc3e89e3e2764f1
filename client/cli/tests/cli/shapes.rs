//! Malformed responses: whatever a server sends with status 200, no command accepts it as a valid response.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::support::{Act, Fake, until};

/// The commands of `commands.txt`: exit code and arguments.
pub(crate) fn commands() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = include_str!("commands.txt").lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_once(' ').unwrap())
}

/// Files that the commands read.
pub(crate) const FILES: [(&str, &str); 2] = [
    ("topology.json", include_str!("../../src/demo/topology.json")),
    (
        "policy.json",
        r#"{"securitypolicies":[{"name":"p1","direction":"ingress","applied_to":[{"tenant":"shop",
            "segment":"web"}],"peers":[{"peer":"any"}],"rules":[{"protocol":"tcp","ports":[22]}]}]}"#,
    ),
];

/// Commands that are not tested here: those without a server, the one that retries until a replica responds, and the one
/// that archives whatever comes.
const LEFT_OUT: [&str; 6] =
    ["completion", "audit replay", "backup verify", "backup show", "events follow", "sysdump"];

const ANSWERS: [&str; 8] = [
    "[]",
    "{}",
    "null",
    "\"added\"",
    "[[{}],1]",
    "<html>It works!</html>",
    r#"{"items":{}}"#,
    r#"{"items":[[]],"revision":1}"#,
];

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_never_success() {
    let home = tempfile::tempdir().unwrap();
    for (name, text) in FILES {
        std::fs::write(home.path().join(name), text).unwrap();
    }
    let mut wrong = Vec::new();
    for answer in ANSWERS {
        let fake = Fake::start(Some(answer.into()), move |_, _| Act::ok(answer)).await;
        let left_out = |words: &str| LEFT_OUT.iter().any(|begin| words.starts_with(begin));
        for (_, words) in commands().filter(|(code, words)| *code != "-" && !left_out(words)) {
            let output = Command::new(env!("CARGO_BIN_EXE_romana"))
                .args(words.split_whitespace())
                .env_clear()
                .env("HOME", home.path())
                .env("ROMANA_ROOT_URL", fake.server().to_string())
                .env("ROMANA_TIMEOUT", "2s")
                .current_dir(home.path())
                .stdin(Stdio::null())
                .kill_on_drop(true)
                .output();
            let output = tokio::time::timeout(std::time::Duration::from_secs(60), output);
            let Ok(output) = output.await else {
                wrong.push(format!("{words} with {answer} does not end"));
                continue;
            };
            let output = output.unwrap();
            if output.status.success() {
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                wrong.push(format!("{words} with {answer} says {said:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The one command that retries reports the response once, and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn who_follows_says_what_comes_in_place_of_events() {
    let answer = "<html>It works!</html>\n";
    let asked = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&asked);
    let fake = Fake::start(Some(answer.into()), move |number, _| {
        counted.store(number as u64, Ordering::Relaxed);
        Act::ok(answer)
    })
    .await;
    let mut follow = Command::new(env!("CARGO_BIN_EXE_romana"))
        .args(["events", "follow", "--from", "0"])
        .env_clear()
        .env("ROMANA_ROOT_URL", fake.server().to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(follow.stderr.take().unwrap()).lines();
    let first = said.next_line().await.unwrap().unwrap();
    assert!(
        first.starts_with("note: ") && first.contains("is no record: <html>It works"),
        "{first}"
    );
    let before = asked.load(Ordering::Relaxed);
    until("it asks again", Duration::from_secs(60), async || {
        asked.load(Ordering::Relaxed) > before + 5
    })
    .await;
    follow.kill().await.unwrap();
    assert_eq!(said.next_line().await.unwrap(), None, "once is enough");
}

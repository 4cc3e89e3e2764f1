//! Cases in `cases/*.txt`: a command, the server's responses, and the expected result.
//!
//! ```text
//! $ host list -f json            the arguments
//! | {"networks": []}             standard input, line by line
//! < GET /v1/hosts 200 {…}        the server's response to that method and path
//! ---
//! > GET /v1/hosts                the request it got, with the body
//! …                              standard output
//! ! …                            standard error
//! = 0                            the exit code
//! ```
//!
//! `UPDATE=1 cargo test -p romana-cli --test cli` writes the actual results instead of comparing.

use std::path::Path;
use std::process::Stdio;

use romana_testing::goldens::{self, Goldens};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::support::{Act, Fake};

/// The server's responses, by method and path.
fn answers(case: &str) -> Vec<(String, u16, String)> {
    let lines = case.lines().filter_map(|line| line.strip_prefix("< "));
    lines
        .map(|line| {
            let parts: Vec<&str> = line.splitn(4, ' ').collect();
            let [method, path, status, body] = parts[..] else { panic!("bad answer: {line}") };
            (format!("{method} {path}"), status.parse().unwrap(), body.to_owned())
        })
        .collect()
}

async fn run(case: &str) -> String {
    let answers = answers(case);
    let fake = Fake::start(None, move |_, seen| {
        let asked = seen.line.trim_end_matches(" HTTP/1.1");
        match answers.iter().find(|(wanted, ..)| wanted == asked) {
            Some((_, _, body)) if body == "CUT" => Act::Cut,
            Some((_, _, body)) if body.starts_with("LINES ") => Act::Pieces(
                body[6..].split(" ;; ").map(|line| format!("{line}\n")).collect(),
                false,
            ),
            Some((_, status, body)) => Act::status(*status, body),
            None => {
                Act::status(404, r#"{"error":{"code":"Unscripted","message":"not in the case"}}"#)
            }
        }
    })
    .await;
    let line = case.lines().find_map(|line| line.strip_prefix("$ ")).unwrap();
    let stdin: Vec<&str> = case.lines().filter_map(|line| line.strip_prefix("| ")).collect();
    let home = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_romana"))
        .args(line.split_whitespace())
        .env_clear()
        .env("HOME", home.path())
        .env("USER", "tester")
        .env("ROMANA_ROOT_URL", fake.server().to_string())
        .env("ROMANA_TIMEOUT", "2s")
        .current_dir(home.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    // A command that does not read stdin may have exited already.
    _ = input.write_all(stdin.join("\n").as_bytes()).await;
    drop(input);
    let output = child.wait_with_output().await.unwrap();
    let mut text = String::new();
    for seen in fake.seen() {
        let line = format!("> {} {}", seen.line.trim_end_matches(" HTTP/1.1"), seen.body);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.push_str(&String::from_utf8(output.stdout).unwrap());
    for line in String::from_utf8(output.stderr).unwrap().lines() {
        text.push_str(format!("! {line}").trim_end());
        text.push('\n');
    }
    // Ports differ between runs.
    let text = text.replace(&fake.server().to_string(), "http://SERVER");
    format!("{text}= {}\n", output.status.code().unwrap_or(-1))
}

#[tokio::test]
async fn every_case_comes_out_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/cases");
    let mut goldens = Goldens::default();
    for file in goldens::files(&folder, 90) {
        let case = goldens::read(&file);
        let script = goldens::input(&case);
        goldens.compare(&file, &format!("{script}---\n{}", run(script).await));
    }
    goldens.assert();
}

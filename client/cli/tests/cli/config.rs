//! Precedence of flag, environment, file and default, through the program itself.

use std::fs;
use std::process::{Command, Output};

use crate::support::{Act, Fake};

/// Runs `romana` with a home directory that has this configuration file, in an otherwise empty environment.
fn romana(file: &str, env: &[(&str, &str)], args: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    if !file.is_empty() {
        fs::write(home.path().join(".romana.yaml"), file).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_romana"));
    command.env_clear().env("HOME", home.path()).env("ROMANA_TIMEOUT", "1s");
    command.envs(env.iter().copied()).args(args).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn flag_then_environment_then_file() {
    let fake = |name: &'static str| async move {
        Fake::start(None, move |_, _| Act::ok(format!(r#"{{"id":"{name}"}}"#))).await
    };
    let (flag, env, file) = (fake("flag").await, fake("env").await, fake("file").await);
    let text = format!("RootURL: {}\nFormat: yaml\n", file.server());
    let (flag, env) = (flag.server().to_string(), env.server().to_string());
    for (variables, args, expected) in [
        (vec![], vec!["tenant", "show", "t"], "id: file\n"),
        (vec![("ROMANA_ROOT_URL", &*env)], vec!["tenant", "show", "t"], "id: env\n"),
        (
            vec![("ROMANA_ROOT_URL", &*env), ("ROMANA_FORMAT", "table")],
            vec!["tenant", "show", "t", "-r", &*flag, "-f", "json"],
            "{\n  \"id\": \"flag\"\n}\n",
        ),
    ] {
        let output = romana(&text, &variables, &args);
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{output:?}");
    }
}

#[test]
fn a_bad_configuration_is_a_usage_error() {
    for (file, args) in [
        ("RootPort: many", vec!["host", "list"]),
        ("Colour: red", vec!["host", "list"]),
        ("", vec!["host", "list", "-c", "/nonexistent/romana.yaml"]),
        ("", vec!["host", "list", "-r", "ftp://x"]),
        ("", vec!["host", "list", "-p", "0"]),
        ("", vec!["host", "list", "-f", "xml"]),
        ("", vec!["host"]),
        ("", vec!["nonsense"]),
        ("", vec!["host", "add", "h", "not-an-ip"]),
        ("", vec!["policy", "add", "/nonexistent/policy.json", "-f", "json"]),
    ] {
        let output = romana(file, &[], &args);
        let code = output.status.code();
        assert_eq!(code, Some(2), "{args:?} {output:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn a_usage_error_comes_in_the_format_that_was_asked_for() {
    for (file, env, args) in [
        ("", vec![], vec!["host", "nonsense", "-f", "json"]),
        ("", vec![], vec!["-fjson", "nonsense"]),
        ("", vec![], vec!["-f", "json"]),
        ("", vec![], vec!["host", "list", "-f", "json", "-p", "0"]),
        ("", vec![], vec!["host", "list", "-f", "json", "-r", "ftp://x"]),
        ("", vec![("ROMANA_FORMAT", "json")], vec!["host"]),
        ("Format: json", vec![], vec!["host", "add", "h", "not-an-ip"]),
        ("Format: yaml", vec![], vec!["host", "add", "h", "not-an-ip"]),
        ("RootPort: many", vec![], vec!["host", "list", "-f", "json"]),
    ] {
        let output = romana(file, &env, &args);
        assert_eq!(output.status.code(), Some(2), "{args:?} {output:?}");
        let error: serde_json::Value = serde_json::from_slice(&output.stderr)
            .unwrap_or_else(|why| panic!("{args:?}: {why}: {output:?}"));
        assert_eq!(error["error"]["code"], "Usage");
        assert!(!error["error"]["message"].as_str().unwrap().is_empty());
    }
    let output = romana("", &[], &["host", "nonsense"]);
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: "), "{output:?}");
    let output = romana("", &[], &["--help", "-f", "json"]);
    assert!(output.status.success() && !output.stdout.is_empty());
}

/// Runs `romana` with a named pipe without a writer as `pipe` or as the configuration file, and with a timeout.
fn beside_a_pipe(config: bool, args: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    let name = if config { ".romana.yaml" } else { "pipe" };
    assert!(Command::new("mkfifo").arg(home.path().join(name)).status().unwrap().success());
    Command::new("timeout")
        .args(["20", env!("CARGO_BIN_EXE_romana")])
        .args(args)
        .env_clear()
        .env("HOME", home.path())
        .current_dir(home.path())
        .output()
        .unwrap()
}

#[test]
fn only_regular_files_are_read() {
    for (config, args) in [
        (true, "host list"),
        (false, "-c pipe host list"),
        (false, "-c /dev/zero host list"),
        (false, "-c / host list"),
        (false, "topology update pipe"),
        (false, "topology plan /dev/zero"),
        (false, "policy add pipe"),
        (false, "policy check /dev/zero"),
        (false, "audit replay pipe"),
        (false, "audit replay /dev/zero"),
        (false, "backup verify pipe"),
        (false, "backup show pipe"),
        (false, "backup show /dev/zero"),
        (false, "backup restore pipe"),
        (false, "backup restore /dev/zero"),
    ] {
        let output = beside_a_pipe(config, &args.split(' ').collect::<Vec<_>>());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{args}: {output:?}");
        assert!(said.contains("not a regular file"), "{args}: {said}");
    }
}

#[test]
fn nobody_there_is_unavailable() {
    let output = romana("", &[], &["host", "list", "-r", "127.0.0.1:1", "-f", "json"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["code"], "Unavailable");
}

/// The log of attempts is plain text if stderr is not a terminal, and contains no debug representations.
#[test]
fn what_is_tried_is_text() {
    let output = romana("", &[], &["host", "list", "-v", "-r", "127.0.0.1:1", "--timeout", "1s"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("it does not accept connections"), "{said}");
    for machine in ["\u{1b}", "NotSent", "Os {"] {
        assert!(!said.contains(machine), "{machine:?}: {said}");
    }
}

#[test]
fn completion_and_version_need_no_cluster() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = romana("", &[], &["completion", shell]);
        let script = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && script.contains("romana"), "{shell}");
    }
    let output = romana("", &[], &["--version"]);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("romana "));
}

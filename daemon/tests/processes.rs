//! Runs the examples as processes: health, signals, exit codes, and a task that dies.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// An example, which cargo builds next to the tests.
fn example(name: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let path: PathBuf = tests.parent().unwrap().with_file_name("examples").join(name);
    assert!(path.exists(), "{} is not built: build the examples", path.display());
    Command::new(path)
}

/// Kills the process when the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // The process may have ended already.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

impl Running {
    fn start(command: &mut Command) -> (Self, BufReader<ChildStderr>) {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        (Self(child), log)
    }

    /// Sends a signal; returns the exit code.
    fn end(mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
        self.0.wait().unwrap().code()
    }
}

/// Reads the health address from the log.
fn address(log: &mut impl BufRead) -> String {
    let mut text = String::new();
    loop {
        let start = text.len();
        assert_ne!(log.read_line(&mut text).unwrap(), 0, "it ended: {text}");
        let line: Value = serde_json::from_str(&text[start..]).unwrap();
        if let Some(address) = line["address"].as_str() {
            return address.into();
        }
    }
}

fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: idle\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.into())
}

#[test]
fn a_daemon_reports_its_health_and_stops_as_told() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut command = example("idle");
        command.args(["--metrics", "127.0.0.1:0", "--log-format", "json"]);
        let (idle, mut log) = Running::start(&mut command);
        let address = address(&mut log);
        assert_eq!(get(&address, "/healthz"), (200, "ok\n".into()));
        let (status, text) = get(&address, "/readyz");
        assert_eq!((status, text.contains("ready")), (200, true), "{text}");
        let (status, text) = get(&address, "/status");
        let said: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, &said["program"], &said["ready"]), (200, &"idle".into(), &true.into()));
        let (status, text) = get(&address, "/metrics");
        assert_eq!(status, 200);
        assert!(text.contains("\nidle_ready 1\n") && text.ends_with("# EOF\n"), "{text}");
        assert_eq!(get(&address, "/nothing").0, 404);
        // An open connection does not delay the stop.
        let waiting = TcpStream::connect(&address).unwrap();
        assert_eq!(idle.end(signal), Some(0));
        drop(waiting);
    }
}

#[test]
fn configuration_is_checked_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("idle.toml");
    for (text, code) in [("metrics = '127.0.0.1:1'", 0), ("metric = '127.0.0.1:1'", 2)] {
        std::fs::write(&file, text).unwrap();
        let out = example("idle").arg("--check").arg("--config").arg(&file).output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(code), "{said}");
        assert_eq!(said.contains("idle.toml is not a valid configuration"), code == 2, "{said}");
    }
    // An address in use.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let out = example("idle").args(["--metrics", &address]).output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(said.contains(&format!("idle: cannot listen on {address}: ")), "{said}");
}

#[test]
fn a_task_that_dies_ends_the_daemon_and_is_named() {
    let out = example("dies").output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{said}");
    let line = |start: &str| said.lines().any(|line| line.contains(start));
    assert!(line("ERROR"), "{said}");
    assert!(said.lines().any(|line| line == "dies: task ill panicked: it was to die"), "{said}");
}

//! `romana connectivity` on real hosts: it passes on healthy ones, names each kind of breakage, and leaves nothing.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::lab::{Lab, beside, run, until};
use crate::routes::{flat, start_all};

const REPLICAS: &str = "http://10.77.0.250:9610,http://10.77.0.250:9620,http://10.77.0.250:9630";

/// Three hosts with the plugin installed, as an operator does it, and policy enforced.
fn lab() -> Lab {
    let mut lab = Lab::one_link();
    lab.closed_topology(&flat());
    start_all(&mut lab);
    for host in ["h1", "h2"] {
        let text = |path: PathBuf| path.to_str().expect("a path").to_owned();
        let [bin, conf] = ["bin", "net.d"].map(|part| text(place(&lab, host).join(part)));
        let (socket, state) = (text(lab.socket(host)), text(lab.dir().join(host)));
        let words = ["install", "--bin-dir", &bin, "--conf-dir", &conf, "--socket", &socket];
        run(env!("CARGO_BIN_EXE_romana-agent"), &[&words[..], &["--state-dir", &state]].concat());
    }
    lab
}

fn place(lab: &Lab, host: &str) -> PathBuf {
    lab.dir().join(format!("cni-{host}"))
}

/// `romana connectivity` on a host. `ip netns exec` would hide the namespaces that it makes from the agent.
fn command(lab: &Lab, host: &str, verb: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", lab.ns(host))).arg(beside("romana"));
    command.args(["--format", "json", "--rootURL", REPLICAS, "connectivity", verb]);
    command.arg("--cni-bin-dir").arg(place(lab, host).join("bin"));
    command.arg("--cni-conf-dir").arg(place(lab, host).join("net.d"));
    // Tests run at the same time: each looks for what is its own.
    command.args(["--id", &id(verb)]).stdin(Stdio::null());
    command
}

/// The id of this process's `test` or `serve`.
fn id(verb: &str) -> String {
    format!("{}{:x}", &verb[..1], std::process::id())
}

/// Whether there are namespaces of this process's tests.
fn is_made() -> bool {
    let ours = ["test", "serve"].map(|verb| format!("rmct-{}-", id(verb)));
    let listed = std::fs::read_dir("/run/netns").expect("namespaces");
    let names = listed.map(|entry| entry.expect("a name").file_name());
    let mut names = names.map(|name| name.to_string_lossy().into_owned());
    names.any(|name| ours.iter().any(|prefix| name.starts_with(prefix)))
}

/// The rows of a test, and its exit code.
fn test(lab: &Lab, host: &str) -> (Vec<Value>, Option<i32>) {
    let output = command(lab, host, "test").output().expect("it runs");
    let Output { stdout, stderr, status } = output;
    let report: Value = serde_json::from_slice(&stdout).unwrap_or_else(|error| {
        panic!("{error}: {} {}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr))
    });
    (report["items"].as_array().expect("rows").clone(), status.code())
}

/// The rows with this result.
fn with<'a>(rows: &'a [Value], result: &str) -> Vec<&'a Value> {
    rows.iter().filter(|row| row["result"] == result).collect()
}

/// Whether a failed row has this check and says this.
fn names(rows: &[Value], check: &str, why: &str) -> bool {
    let says = |row: &&Value| {
        row["check"] == check && row["why"].as_str().is_some_and(|text| text.contains(why))
    };
    with(rows, "failed").iter().any(|row| says(row) && row["remedy"] != "")
}

/// An endpoint for tests of other hosts, until it is stopped.
struct Serving(Child);

impl Serving {
    fn start(lab: &Lab, host: &str) -> Self {
        let mut child =
            command(lab, host, "serve").stdout(Stdio::piped()).spawn().expect("it runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it serves");
        let said: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(said["host"], host);
        Self(child)
    }

    /// Stops it as Ctrl-C does; it must end well.
    fn stop(mut self) {
        run("kill", &["-INT", &self.0.id().to_string()]);
        assert!(self.0.wait().expect("it ends").success());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended already.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Nothing that a test made is left: namespaces, links, addresses, policies.
fn is_clean(lab: &Lab, host: &str) -> bool {
    !is_made()
        && lab.links(host).is_empty()
        && lab.allocated(host).is_empty()
        && lab.romana(&["policy", "list"])["items"].as_array().is_some_and(Vec::is_empty)
}

#[test]
fn healthy_hosts_pass_and_nothing_is_left_in_namespaces() {
    let lab = lab();
    let (rows, code) = test(&lab, "h1");
    let skipped = with(&rows, "skipped");
    assert!(
        skipped.len() == 1 && skipped[0]["remedy"].as_str().unwrap().contains("serve"),
        "{rows:#?}"
    );
    assert_eq!((with(&rows, "failed"), code), (vec![], Some(0)), "{rows:#?}");
    let serving = Serving::start(&lab, "h2");
    let (rows, code) = test(&lab, "h1");
    assert_eq!(
        (with(&rows, "failed"), with(&rows, "skipped"), code),
        (vec![], vec![], Some(0)),
        "{rows:#?}"
    );
    // Every promise, in both families.
    for (check, count) in [
        ("addresses", 6),
        ("pod to pod, same host", 10),
        ("pod to pod, other host", 10),
        ("host to pod", 2),
        ("pod to host", 4),
        ("policy", 8),
    ] {
        let found = rows.iter().filter(|row| row["check"] == check).count();
        assert_eq!(found, count, "{check}: {rows:#?}");
    }
    serving.stop();
    until("nothing is left", || is_clean(&lab, "h1") && is_clean(&lab, "h2"));
}

#[test]
fn what_is_in_the_way_is_named_in_namespaces() {
    let mut lab = lab();
    let serving = Serving::start(&lab, "h2");
    let rule = |lab: &Lab, verb: &str, table: &str, chain: &str, rest: &[&str]| {
        let words = ["iptables", "-w", "-t", table, verb, chain];
        assert!(lab.try_exec("h1", &[&words[..], rest].concat()).is_some());
    };
    let drop = ["-p", "tcp", "--dport", "7001", "-j", "DROP"];
    rule(&lab, "-I", "raw", "PREROUTING", &drop);
    let (rows, code) = test(&lab, "h1");
    assert_eq!(code, Some(1));
    for check in ["pod to pod, same host", "pod to pod, other host"] {
        assert!(names(&rows, check, "raw: -A PREROUTING"), "{check}: {rows:#?}");
    }
    rule(&lab, "-D", "raw", "PREROUTING", &drop);
    let masquerade = ["-p", "tcp", "--dport", "7001", "-j", "SNAT", "--to-source", "10.77.0.1"];
    rule(&lab, "-A", "nat", "POSTROUTING", &masquerade);
    let (rows, _) = test(&lab, "h1");
    assert!(names(&rows, "pod to pod, other host", "10.77.0.1 arrives instead"), "{rows:#?}");
    rule(&lab, "-D", "nat", "POSTROUTING", &masquerade);
    // An agent that does not look after routes, and one of them is gone.
    lab.stop_agent("h1");
    lab.start_agent("h1", &["--routes=false"]);
    let served = lab.allocated("h2").into_iter().find(|(_, ip)| ip.is_ipv4()).expect("served").1;
    let block = lab.romana(&["block", "show", &served.to_string()]);
    let block = block["block"]["cidr"].as_str().unwrap_or_else(|| panic!("{block}")).to_owned();
    lab.try_exec("h1", &["ip", "route", "delete", &block]);
    let (rows, _) = test(&lab, "h1");
    let lost = format!("this host has no way to {served}");
    assert!(names(&rows, "pod to pod, other host", &lost), "{rows:#?}");
    // An agent that does not enforce policy.
    lab.stop_agent("h1");
    lab.start_agent("h1", &["--policy=false"]);
    let (rows, code) = test(&lab, "h1");
    assert!(names(&rows, "policy", "the agent on h1 does not enforce policy"), "{rows:#?}");
    assert_eq!(code, Some(1));
    // No agent at all: said at once, and nothing is made.
    lab.stop_agent("h1");
    let (rows, code) = test(&lab, "h1");
    assert!(rows.len() == 1 && names(&rows, "this host", "does not accept"), "{rows:#?}");
    assert_eq!(code, Some(1));
    serving.stop();
}

#[test]
fn a_test_that_is_stopped_leaves_nothing_in_namespaces() {
    let lab = lab();
    for signal in ["-INT", "-TERM"] {
        let mut child = command(&lab, "h1", "test").stdout(Stdio::null()).spawn().expect("it runs");
        until("it has begun", is_made);
        run("kill", &[signal, &child.id().to_string()]);
        assert_eq!(child.wait().expect("it ends").code(), Some(1));
        assert!(!is_made(), "its namespaces are removed before it ends");
        until("nothing is left", || is_clean(&lab, "h1"));
    }
    // The state directory of the agent has no trace either.
    assert_eq!(lab.attachment_count("h1"), 0);
    assert!(Path::new(&lab.socket("h1")).exists());
}

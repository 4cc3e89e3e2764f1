//! Tests against real `romanad` processes: one replica for the nouns, three for the demo.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use romana_client::{Client, ClientConfig, Server};
use romana_statemachine::{Digest, Record, State};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::shapes::{FILES, commands};

/// The `romanad` of this build.
pub(crate) fn romanad() -> PathBuf {
    program("romanad")
}

/// A program of this build; builds it if only this package was built.
pub(crate) fn program(name: &str) -> PathBuf {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_romana")).with_file_name(name);
    if !program.is_file() {
        let built = Command::new(env!("CARGO")).args(["build", "--bin", name]).status();
        assert!(built.unwrap().success() && program.is_file(), "{name} cannot be built");
    }
    program
}

/// A free port below the ephemeral range, so that tests running in parallel do not get it.
pub(crate) fn free_port() -> u16 {
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    std::iter::repeat_with(|| rand::random_range(20_000..32_000)).find(free).unwrap()
}

/// A replica in development mode. Killed when dropped.
pub(crate) struct Dev {
    pub(crate) api: u16,
    peer: u16,
    pub(crate) dir: TempDir,
    child: Child,
}

impl Dev {
    pub(crate) fn start() -> Self {
        let (api, peer) = (free_port(), free_port());
        let dir = tempfile::tempdir().unwrap();
        let child = Self::spawn(&dir, api, peer);
        let dev = Self { api, peer, dir, child };
        // The client waits until the replica serves.
        dev.ok("host list --timeout 30s");
        dev.soon("cluster status", 0);
        dev
    }

    fn spawn(dir: &TempDir, api: u16, peer: u16) -> Child {
        let log = File::options().create(true).append(true).open(dir.path().join("log")).unwrap();
        Command::new(romanad())
            .args(["--dev", "--listen", &format!("127.0.0.1:{api}")])
            .args(["--peer-listen", &format!("127.0.0.1:{peer}"), "--data-dir"])
            .arg(dir.path().join("data"))
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Kills it with SIGKILL, like a power failure.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again.
    pub(crate) fn start_again(&mut self) {
        self.child = Self::spawn(&self.dir, self.api, self.peer);
        self.ok("host list --timeout 30s");
    }

    pub(crate) fn run(&self, line: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_romana"))
            .args(line.split_whitespace())
            .env_clear()
            .env("HOME", self.dir.path())
            .env("ROMANA_ROOT_PORT", self.api.to_string())
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a command that succeeds, and returns its output.
    pub(crate) fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        assert!(output.status.success(), "{line}: {output:?}\n{log}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command until it exits with this code: peers learn of leader and membership changes with a delay.
    pub(crate) fn soon(&self, line: &str, code: i32) -> Output {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let output = self.run(line);
            if output.status.code() == Some(code) || Instant::now() > until {
                return output;
            }
        }
    }

    pub(crate) fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("-f json {line}"))).unwrap()
    }

    /// Runs a command that is refused, and returns the code of the refusal.
    pub(crate) fn refused(&self, line: &str) -> String {
        let output = self.run(&format!("-f json {line}"));
        assert_eq!(output.status.code(), Some(1), "{line}: {output:?}");
        let error: Value = serde_json::from_slice(&output.stderr).unwrap();
        error["error"]["code"].as_str().unwrap().to_owned()
    }

    /// The response of `GET /v1/snapshot`.
    fn snapshot(&self) -> Value {
        let server = Server::parse("127.0.0.1", self.api).unwrap();
        let client = async || {
            let client = Client::new(ClientConfig::new(vec![server])).unwrap();
            client.get("/v1/snapshot").await.unwrap()
        };
        tokio::runtime::Runtime::new().unwrap().block_on(client())
    }

    pub(crate) fn file(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn a_plan_that_would_be_refused_fails(dev: &Dev) {
    let other = json!({"networks": [{"name": "n", "cidr": "10.9.0.0/16"}],
        "topologies": [{"networks": ["n"], "map": [{}]}]});
    dev.file("other.json", &other.to_string());
    let refused = dev.run("topology plan other.json");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stdout).contains("it would be refused"));
}

/// Adds, drains and labels hosts.
fn hosts(dev: &Dev) {
    dev.ok("host add h1 192.168.0.1 --label rack=rack-1");
    dev.ok("host add h2 192.168.0.2 10.111.64.0/18 9604 --label rack=rack-2");
    assert_eq!(dev.refused("host add h3 192.168.0.3 --label rack=rack-9"), "NoGroupForHost");
    assert_eq!(dev.refused("host add h9 192.168.0.1 --label rack=rack-1"), "HostAddressInUse");
    dev.ok("host drain h2");
    assert_eq!(dev.json("host show 192.168.0.2")["state"], "draining");
    dev.ok("host up h2");
    dev.ok("host label h1 zone=a");
    assert_eq!(dev.json("host show h1")["labels"]["zone"], "a");
}

/// Allocates and releases addresses.
fn addresses(dev: &Dev) {
    let first = dev.json("address allocate a1 --host h1 -t shop -s web");
    assert_eq!(first["ip"], "10.111.0.0");
    assert_eq!(dev.json("address allocate a1 --host h1 -t shop -s web"), first);
    assert_eq!(dev.refused("address allocate a1 --host h2 -t shop -s web"), "AddressNameInUse");
    assert_eq!(dev.json("address allocate a2 --host h2 -t shop -s web")["ip"], "10.111.64.0");
    assert_eq!(dev.json("address list --host h2")["items"][0]["name"], "a2");
    assert!(dev.ok("block show 10.111.0.3").contains("10.111.0.0/29 on h1 for shop/web"));
    assert_eq!(dev.refused("host remove h1"), "HostInUse");
    a_plan_that_would_be_refused_fails(dev);
    assert!(dev.ok("address release a1").contains("released"));
    assert!(dev.ok("address release a1").contains("was not live"));
    dev.ok("host remove h1 --force");
}

/// Checks, adds and removes policies.
fn policies(dev: &Dev) {
    dev.ok("blackout add 10.111.0.0/24");
    assert_eq!(dev.json("blackout list")["items"][0]["cidr"], "10.111.0.0/24");
    dev.ok("blackout remove 10.111.0.0/24");
    dev.ok("tenant create shop -l team=a");
    dev.ok("segment add shop web");
    assert!(dev.ok("segment list shop").contains("web"));
    dev.file(
        "policy.json",
        r#"{"securitypolicies":[{"name":"p1","direction":"ingress","applied_to":[{"tenant":"shop",
            "segment":"web"}],"peers":[{"peer":"any"}],"rules":[{"protocol":"tcp","ports":[22]}]}]}"#,
    );
    assert!(dev.ok("policy check policy.json").starts_with("p1 (valid, new)"));
    dev.ok("policy add policy.json");
    assert!(dev.ok("policy list").contains("shop/web"));
    assert!(dev.ok("policy explain p1").contains("in force as it is"));
    dev.ok("policy remove p1");
    assert_eq!(dev.refused("policy show p1"), "PolicyNotFound");
}

/// Settings, routes and checks.
fn settings_and_checks(dev: &Dev) {
    assert_eq!(dev.ok("vip pool set edge=192.168.98.0/28"), "1 VIP pool set\n");
    assert_eq!(dev.refused("vip add v1 --auto --pool side"), "VipPoolNotFound");
    // A request that is repeated keeps its address.
    for _ in 0..2 {
        assert_eq!(dev.json("vip add v1 --auto --pool edge")["ip"], "192.168.98.1");
    }
    assert_eq!(dev.json("vip pool list")["items"][0]["vips"], 1);
    dev.ok("vip add v1 192.168.99.1 --candidate h2");
    assert!(dev.ok("vip list").contains("192.168.99.1"));
    dev.ok("vip remove v1");
    dev.ok("vip pool set --none");
    assert_eq!(dev.json("vip pool list")["items"], json!([]));
    assert_eq!(dev.json("settings set address_reuse_delay=5s")["address_reuse_delay_ms"], 5000);
    dev.ok("settings set history_retention=30d history_retention_size=10GiB");
    assert_eq!(dev.json("settings show")["history_retention_ms"], 2_592_000_000_u64);
    assert!(dev.ok("settings set history_retention=off").contains("for ever"));
    assert_eq!(dev.json("settings show")["history_retention_bytes"], 10_u64 << 30);
    assert!(dev.ok("route explain 10.111.64.0").contains("10.111.64.0/18"));
    assert!(dev.ok("network list").contains("my-network"));
    assert!(dev.ok("ipam show").contains("10.111.64.0/18"));
    // No agent reports the addresses in use; there are no other findings.
    let output = dev.run("-f json ipam check");
    assert_eq!(output.status.code(), Some(1), "what is not known is not well: {output:?}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["problems"], json!([]));
    let codes = found["differences"].as_array().unwrap().iter().map(|found| &found["code"]);
    assert!(codes.into_iter().all(|code| code == "AddressesUnverified"), "{found}");
    assert!(dev.ok("doctor").contains("leader"));
    dev.ok("cluster resume");
}

#[test]
fn every_noun_works_against_a_real_replica() {
    let dev = Dev::start();
    let log = std::fs::read_to_string(dev.dir.path().join("log")).unwrap();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "a clean start is quiet: {log}");
    assert_eq!(dev.refused("host add h1 192.168.0.1"), "NoTopology");
    dev.file("topology.json", include_str!("../../src/demo/topology.json"));
    assert_eq!(dev.json("topology plan topology.json")["changed"], true);
    assert_eq!(dev.ok("topology update topology.json"), "Topology updated successfully.\n");
    // The output of `topology show` is valid input.
    dev.file("again.json", &dev.ok("-f json topology show"));
    dev.ok("topology update again.json");

    hosts(&dev);
    addresses(&dev);
    policies(&dev);
    settings_and_checks(&dev);

    let revision = dev.json("cluster status")["revision"].as_u64().unwrap();
    let events = dev.ok(&format!("-f json events follow --from 0 --until {revision}"));
    assert!(events.lines().count() as u64 >= revision, "{events}");
    assert!(events.contains("AddressReleased") && events.contains("PolicyRemoved"));
    replays_to_the_live_state(&dev, &events);
    the_past_is_told(&dev);
}

#[test]
fn every_command_runs_against_a_real_replica() {
    let dev = Dev::start();
    FILES.iter().for_each(|(name, text)| dev.file(name, text));
    let mut wrong = Vec::new();
    for (code, words) in commands().filter(|(code, _)| *code != "-") {
        let code: i32 = code.parse().unwrap();
        let output =
            if words.starts_with("cluster") { dev.soon(words, code) } else { dev.run(words) };
        if output.status.code() != Some(code) {
            wrong.push(format!("{words}: {output:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn doctor_explains_an_installation_that_does_not_work() {
    let dev = Dev::start();
    let findings = |line: &str| -> (Vec<String>, Option<i32>) {
        let output = dev.run(&format!("-f json {line}"));
        let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("{line}: {error}: {output:?}");
        });
        let items = found["items"].as_array().unwrap().iter();
        let text = |item: &Value| {
            let [result, check, what] = ["result", "check", "what"].map(|key| item[key].as_str());
            assert!(result == Some("ok") || item["remedy"] != "", "what to do is missing: {item}");
            format!("{} {}: {}", result.unwrap(), check.unwrap(), what.unwrap())
        };
        (items.map(text).collect(), output.status.code())
    };
    let says = |found: &(Vec<String>, Option<i32>), text: &str| {
        assert!(found.0.iter().any(|line| line.starts_with(text)), "{text}: {found:#?}");
    };
    // Nothing there, and something else there.
    let nobody = findings("-r 127.0.0.1:1 --timeout 1s doctor");
    assert_eq!(nobody.1, Some(3));
    says(&nobody, "bad leader: no replica tells the cluster's status");
    says(&nobody, "bad replica: http://127.0.0.1:1: it does not accept connections");
    let bare = findings("doctor");
    assert_eq!(bare.1, Some(0));
    says(&bare, "warning topology: no topology is set");
    dev.file("topology.json", include_str!("../../src/demo/topology.json"));
    dev.ok("topology update topology.json");
    dev.ok("host add h1 192.168.0.1 --label rack=rack-1");
    let empty = dev.dir.path().join("empty");
    let local = format!("doctor --local --cni-conf-dir {0} --cni-bin-dir {0}", empty.display());
    says(&findings(&local), "bad cni: ");
    let well = findings("doctor --local=false");
    assert_eq!(well.1, Some(0), "{well:#?}");
    says(&well, "ok versions: all run ");
    says(&well, "ok groups: all 4 have addresses left");
}

#[test]
fn files_are_written_where_the_path_leads() {
    let dev = Dev::start();
    let at = |name: &str| dev.dir.path().join(name);
    for (write, check) in
        [("backup save ", "backup verify "), ("audit export -o ", "audit replay ")]
    {
        std::fs::write(at("real"), "old").unwrap();
        _ = std::fs::remove_file(at("link"));
        std::os::unix::fs::symlink("real", at("link")).unwrap();
        dev.ok(&format!("{write}link"));
        assert!(at("link").is_symlink(), "{write} replaced a link");
        dev.ok(&format!("{check}real"));
        // Through a pipe, and to stdout by its device name.
        _ = std::fs::remove_file(at("pipe"));
        assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        let reader = Command::new("cat").arg(at("pipe")).stdout(Stdio::piped()).spawn().unwrap();
        dev.ok(&format!("{write}pipe"));
        std::fs::write(at("piped"), reader.wait_with_output().unwrap().stdout).unwrap();
        dev.ok(&format!("{check}piped"));
        std::fs::write(at("piped"), dev.run(&format!("{write}/dev/stdout")).stdout).unwrap();
        dev.ok(&format!("{check}piped"));
        dev.ok(&format!("{write}/dev/null"));
        assert_eq!(dev.run(&format!("{write}.")).status.code(), Some(1), "a directory");
        let left = std::fs::read_dir(dev.dir.path()).unwrap().map(|file| file.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("partial")).collect();
        assert_eq!(left, Vec::<std::ffi::OsString>::new());
    }
}

#[test]
fn a_log_file_has_each_command_and_verbose_more() {
    let dev = Dev::start();
    let log =
        |dev: &Dev| std::fs::read_to_string(dev.dir.path().join("cli.log")).unwrap_or_default();
    dev.file(".romana.yaml", "LogFile: cli.log\n");
    let quiet = dev.run("host list");
    assert!(quiet.status.success() && quiet.stderr.is_empty(), "{quiet:?}");
    assert!(
        log(&dev).contains("command=\"host list\"") && !log(&dev).contains("DEBUG"),
        "{}",
        log(&dev)
    );
    assert_eq!(dev.refused("host show nobody"), "HostNotFound");
    assert!(log(&dev).contains("HostNotFound"), "{}", log(&dev));
    let verbose = dev.run("-v -r 127.0.0.1:1 --timeout 1s host list");
    let said = String::from_utf8_lossy(&verbose.stderr).into_owned();
    assert!(said.contains("DEBUG") && said.contains("attempt failed"), "{verbose:?}");
    assert!(log(&dev).contains("DEBUG"), "{}", log(&dev));
    dev.file(".romana.yaml", "LogFile: /dev/full\n");
    assert!(dev.run("host list").status.success());
    _ = std::fs::remove_file(dev.dir.path().join("pipe"));
    assert!(Command::new("mkfifo").arg(dev.dir.path().join("pipe")).status().unwrap().success());
    dev.file(".romana.yaml", "LogFile: pipe\n");
    let output = dev.run("host list");
    assert!(String::from_utf8_lossy(&output.stderr).contains("no log in pipe"), "{output:?}");
}

/// Who had the released address, and the log of its events.
fn the_past_is_told(dev: &Dev) {
    let held = dev.json("audit who 10.111.0.0");
    assert_eq!(held["items"][0]["name"], "a1");
    assert_eq!(held["items"][0]["reason"], "requested");
    let [from, to] = ["from", "to"].map(|it| held["items"][0][it]["revision"].as_u64().unwrap());
    assert_eq!(dev.json(&format!("audit who 10.111.0.0 --at {from}"))["items"], held["items"]);
    assert_eq!(dev.json(&format!("audit who 10.111.0.0 --at {to}"))["items"], json!([]));
    assert_eq!(dev.ok("audit log --name a1 -T addresses").lines().count(), 2);
    assert_eq!(
        dev.ok(&format!("audit log -T AddressReleased --from {to} -n 1")).lines().count(),
        1
    );
    let last = dev.ok("audit log --from 1 --host h2 --follow -n 1");
    assert!(last.contains("HostAdded h2"), "{last}");
}

/// Replaying the records of the feed, in the form of an export, gives the state that the replica shows.
fn replays_to_the_live_state(dev: &Dev, events: &str) {
    let mut state = State::new();
    for line in events.lines() {
        state.follow(&serde_json::from_str::<Record>(line).unwrap()).unwrap();
    }
    let (last, digest, state_digest) = (state.revision(), state.digest(), state.state_digest());
    let header = json!({
        "romana_history": 1, "cluster_id": "dev", "first": 1, "previous": Digest::default(),
        "last": last, "digest": digest,
    });
    let end = json!({"revision": last, "digest": digest, "state_digest": state_digest});
    dev.file("history.ndjson", &format!("{header}\n{events}{}\n", json!({ "end": end })));
    let replayed = dev.json("audit replay history.ndjson");
    assert_eq!(replayed["records"], last.get());
    assert_eq!((&replayed["digest"], &replayed["complete"]), (&json!(digest), &json!(true)));
    let text = dev.ok("audit replay history.ndjson");
    assert!(text.contains("the end is the one that was exported"), "{text}");
    let half = dev.json(&format!("audit replay history.ndjson --at {}", last.get() / 2));
    assert_eq!((&half["revision"], &half["complete"]), (&json!(last.get() / 2), &json!(false)));
    dev.file("cut.ndjson", &format!("{header}\n{events}"));
    assert_eq!(dev.refused("audit replay cut.ndjson"), "Damaged");

    let mut shown = dev.json("audit replay history.ndjson --state");
    assert_eq!(shown.as_object_mut().unwrap().remove("state_digest"), Some(json!(state_digest)));
    let mut live = dev.snapshot();
    // Time advances without events.
    for state in [&mut shown, &mut live] {
        state.as_object_mut().unwrap().remove("at");
    }
    // A cool-down may have ended in the meantime.
    if live["revision"] == shown["revision"] {
        assert_eq!(shown, live);
    }
}

#[test]
fn the_demo_holds_what_it_claims() {
    let output = Command::new(env!("CARGO_BIN_EXE_romana"))
        .args(["demo", "--romanad"])
        .arg(romanad())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("  ✓ ")).count(), 13, "{text}");
    assert!(!text.contains('\u{1b}'), "colours without a terminal");
}

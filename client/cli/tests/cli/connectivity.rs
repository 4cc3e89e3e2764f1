//! `romana connectivity test --kubernetes` with a kubectl that plays a cluster of two nodes: what is made, what is tried,
//! and that everything is removed. Pods of a real cluster need its nodes; hosts are in agent/tests/kernel/connectivity.rs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::until;
use crate::three::PATIENCE;

/// Plays kubectl: notes each call, and answers probes as the network that `NETWORK` names would.
const KUBECTL: &str = r#"#!/bin/sh
cd "$(dirname "$0")"
echo "$*" >>calls
case "$1 $2" in
"get nodes") cat nodes.json ;;
"get pods") cat pods.json ;;
"apply -f") cat >applied.json ;;
"wait pods")
  case "$(cat network)" in
  unready) exit 1 ;;
  slow) echo >waiting && exec sleep 1000 ;;
  esac
  ;;
"exec --namespace")
  pod=$4 separator='['
  shift 8
  case $pod in *client) seen=10.1.0.2 ;; *node) seen=192.168.0.1 ;; *) seen=10.1.0.3 ;; esac
  [ "$(cat network)" != translated ] || seen=172.16.0.1
  for target; do
    printf '%s' "$separator"
    separator=,
    case "$(cat network) $pod $target" in
    "open "*) printf '{"seen":"%s"}' "$seen" ;;
    *stranger* | *"/7002") printf '{"fault":"silence"}' ;;
    "split "*"/10.1.8.1/"*) printf '{"fault":"silence"}' ;;
    *) printf '{"seen":"%s"}' "$seen" ;;
    esac
  done
  echo ']'
  ;;
esac
"#;

struct World {
    dir: TempDir,
}

impl World {
    fn new(network: &str) -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap() };
        world.write("kubectl", KUBECTL);
        let program = fs::Permissions::from_mode(0o755);
        fs::set_permissions(world.dir.path().join("kubectl"), program).unwrap();
        world.write("network", network);
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let node =
            |name: &str| json!({"metadata": {"name": name}, "status": {"conditions": ready}});
        world.write("nodes.json", &json!({"items": [node("n1"), node("n2")]}).to_string());
        let pod = |name: &str, ip: &str| {
            let name = format!("romana-connectivity-{name}");
            let status = match network {
                "unready" => json!({"phase": "Pending", "containerStatuses":
                    [{"state": {"waiting": {"reason": "ErrImagePull"}}}]}),
                _ => json!({"podIP": ip, "conditions": ready}),
            };
            json!({"metadata": {"name": name}, "status": status})
        };
        let pods = [
            pod("server", "10.1.0.1"),
            pod("client", "10.1.0.2"),
            pod("stranger", "10.1.0.3"),
            pod("node", "192.168.0.1"),
            pod("server-elsewhere", "10.1.8.1"),
        ];
        world.write("pods.json", &json!({"items": pods}).to_string());
        world
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap()
    }

    /// The test as a command.
    fn command(&self, more: &[&str]) -> Command {
        let path = format!("{}:/usr/bin:/bin", self.dir.path().display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_romana"));
        command
            .args(["-r", "127.0.0.1:1", "--timeout", "1s", "-f", "json"])
            .args(["connectivity", "test", "--kubernetes", "--id", "abc"])
            .args(more)
            .env_clear()
            .env("HOME", self.dir.path())
            .env("PATH", path)
            .stdin(Stdio::null());
        command
    }

    /// The rows of a test, and its exit code.
    fn test(&self, more: &[&str]) -> (Vec<Value>, Option<i32>) {
        let output = self.command(more).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}"));
        (report["items"].as_array().unwrap().clone(), output.status.code())
    }

    /// The last call removed what was made.
    fn is_removed(&self, what: &str) -> bool {
        self.read("calls").lines().last().is_some_and(|call| call.starts_with(what))
    }
}

fn failed(rows: &[Value]) -> Vec<String> {
    let failed = rows.iter().filter(|row| row["result"] == "failed");
    failed
        .map(|row| format!("{}: {}", row["check"].as_str().unwrap(), row["why"].as_str().unwrap()))
        .collect()
}

#[test]
fn pods_are_made_connected_and_removed() {
    let world = World::new("healthy");
    let (rows, code) = world.test(&[]);
    assert_eq!((failed(&rows), code), (vec![], Some(0)), "{rows:#?}");
    let checks = |check: &str| rows.iter().filter(|row| row["check"] == check).count();
    assert_eq!((checks("pod to pod, same host"), checks("pod to pod, other host")), (5, 5));
    assert_eq!((checks("host to pod"), checks("pod to host"), checks("policy")), (1, 2, 6));
    let applied: Value = serde_json::from_str(&world.read("applied.json")).unwrap();
    assert_eq!(applied["items"][0]["metadata"]["name"], "romana-connectivity-abc");
    let image = &applied["items"][2]["spec"]["containers"][0]["image"];
    assert!(image.as_str().unwrap().starts_with("localhost/romana:"), "{image}");
    assert!(
        world.is_removed("delete namespace romana-connectivity-abc "),
        "{}",
        world.read("calls")
    );
}

/// Ctrl-C, or a CI system that gives up.
#[tokio::test]
async fn a_test_that_is_stopped_removes_everything() {
    for signal in ["INT", "TERM"] {
        let world = World::new("slow");
        let mut command = world.command(&[]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let waiting = world.dir.path().join("waiting");
        until("it waits for the pods", PATIENCE, async || waiting.exists()).await;
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let wanted = format!("stopped by SIG{signal}; everything that was made is removed");
        assert!(!output.status.success() && said.contains(&wanted), "{output:?}");
        assert!(world.is_removed("delete namespace "), "{}", world.read("calls"));
    }
}

#[test]
fn a_namespace_of_the_operator_stays() {
    let world = World::new("healthy");
    let (_, code) = world.test(&["--namespace", "tests", "--image", "registry.example/romana:1"]);
    assert_eq!(code, Some(0));
    let applied: Value = serde_json::from_str(&world.read("applied.json")).unwrap();
    let items = applied["items"].as_array().unwrap();
    assert!(items.iter().all(|item| item["metadata"]["namespace"] == "tests"), "{applied}");
    let delete =
        "delete pods,networkpolicies --selector=romana.io/connectivity-test=abc --namespace=tests";
    assert!(world.is_removed(delete), "{}", world.read("calls"));
}

#[test]
fn every_breakage_is_named_and_everything_is_removed() {
    for (network, wanted) in [
        ("unready", "pods: romana-connectivity-server: Pending, ErrImagePull"),
        ("split", "pod to pod, other host: no answer from n2"),
        ("open", "policy: it was accepted, although no policy allows it"),
        ("translated", "pod to pod, same host: 172.16.0.1 arrives instead"),
    ] {
        let world = World::new(network);
        let (rows, code) = world.test(&[]);
        let failed = failed(&rows);
        assert!(failed.iter().any(|row| row.starts_with(wanted)), "{network}: {failed:#?}");
        assert_eq!(code, Some(1), "{network}");
        assert!(world.is_removed("delete namespace "), "{network}: {}", world.read("calls"));
    }
}

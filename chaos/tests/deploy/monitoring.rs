//! Dashboard and alerts: metrics that exist, expressions that Prometheus reads, tests of the rules.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use romana_chaos::cluster::{find_romanad, free_ports};
use romana_chaos::wait::until;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kustomize::items;
use crate::{deploy, must};

const PATIENCE: Duration = Duration::from_secs(30);
/// Prefixes of our metrics. Those of romana-dns have CoreDNS' names where the meaning is the same.
const PREFIXES: [&str; 4] = ["romanad_", "romana_agent_", "romana_dns_", "coredns_"];
/// What OpenMetrics appends to the name of a metric, besides its unit.
const ENDINGS: [&str; 5] = ["_total", "_bucket", "_count", "_sum", "_info"];
/// Sources that register metrics, besides those that a scrape shows: families without a value yet, the agent's
/// (it needs a host of its own), those of the DNS server, of a replica that follows Kubernetes, and of one that waits.
const SOURCES: [&str; 7] = [
    "agent/src/http.rs",
    "controlplane/kubernetes/src/watch/status.rs",
    "controlplane/src/metrics.rs",
    "controlplane/src/waiting/room.rs",
    "daemon/src/problems.rs",
    "dns/src/http.rs",
    "dns/src/metrics.rs",
];

/// A replica in a temporary directory, killed on drop.
struct Dev {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl Dev {
    fn start() -> Self {
        let romanad = find_romanad(None).expect("cargo build --workspace --bins comes first");
        let (dir, ports) = (TempDir::with_prefix("deploy-").unwrap(), free_ports(2).unwrap());
        let child = Command::new(romanad)
            .args(["--dev", "--data-dir"])
            .arg(dir.path().join("data"))
            .arg(format!("--listen=127.0.0.1:{}", ports[0]))
            .arg(format!("--peer-listen=127.0.0.1:{}", ports[1]))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, port: ports[0], _dir: dir }
    }

    /// The answer to a request, whole; `None` if there is none.
    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        // HTTP/1.0: the end of the connection ends the answer.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: romanad\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // A process that has ended already is fine.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Expressions of the dashboard, and of the alerts.
fn expressions() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&file("dashboard.json")).unwrap();
    let targets = items(&dashboard["panels"]).flat_map(|panel| items(&panel["targets"]));
    let shown = targets.map(|target| target["expr"].as_str().unwrap().to_owned());
    shown.chain(rules().iter().map(|rule| rule["expr"].as_str().unwrap().to_owned())).collect()
}

fn file(name: &str) -> String {
    fs::read_to_string(deploy().join("monitoring").join(name)).unwrap()
}

fn rules() -> Vec<Value> {
    let alerts: Value = serde_yaml_ng::from_str(&file("alerts.yaml")).unwrap();
    items(&alerts["groups"]).flat_map(|group| items(&group["rules"])).cloned().collect()
}

/// Names of our metrics in a text.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let ours = |word: &&str| PREFIXES.iter().any(|prefix| word.starts_with(prefix));
    words.filter(ours).map(Into::into).collect()
}

/// Whether one of the sources registers this metric: its name without what OpenMetrics adds, in quotes.
fn is_registered(metric: &str, sources: &str) -> bool {
    if sources.contains(&format!("{metric} ")) {
        return true; // written as text, by a replica that waits
    }
    let parts = PREFIXES.iter().find_map(|prefix| Some((prefix, metric.strip_prefix(prefix)?)));
    let (prefix, name) = parts.unwrap();
    let stem = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
    let without_unit = stem.strip_suffix("_seconds").unwrap_or(stem);
    let written = |name: &str| {
        sources.contains(&format!("\"{name}\"")) || sources.contains(&format!("\"{prefix}{name}\""))
    };
    written(stem) || written(without_unit)
}

#[tokio::test]
async fn metrics_that_are_asked_for_exist() {
    let dev = Dev::start();
    let ready = until("a ready replica", PATIENCE, async || {
        dev.get("/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.0 200"))
    });
    ready.await.unwrap();
    let scraped = metrics(&dev.get("/metrics").unwrap());
    assert!(scraped.len() > 30, "{scraped:?}");
    let root = deploy().join("..");
    let sources: String =
        SOURCES.iter().map(|path| fs::read_to_string(root.join(path)).unwrap()).collect();
    let asked = metrics(&expressions().join("\n"));
    assert!(asked.len() > 30, "{asked:?}");
    for metric in asked {
        let exists = scraped.contains(&metric) || is_registered(&metric, &sources);
        assert!(exists, "no program has {metric}");
    }
}

/// Both that the test above finds a metric that does not exist, and that it knows the sources' way to write one.
#[test]
fn a_metric_that_is_not_registered_is_found() {
    let sources = r#"registry.register("refusals", help, refusals);"#;
    assert!(is_registered("romanad_refusals_total", sources));
    assert!(!is_registered("romanad_refusal_total", sources));
    assert!(!is_registered("romanad_refusals_by_code_total", sources));
    let whole = r#"registry.register("coredns_dns_requests", help, requests);"#;
    assert!(is_registered("coredns_dns_requests_total", whole));
    assert!(!is_registered("coredns_dns_request_total", whole));
}

#[test]
fn promtool_accepts_rules_and_their_tests() {
    let promtool = || {
        let mut command = Command::new("promtool");
        command.current_dir(deploy().join("monitoring"));
        command
    };
    must(promtool().args(["check", "rules", "alerts.yaml"]));
    must(promtool().args(["test", "rules", "alerts-test.yaml"]));
}

/// Every alert has a test in which it fires, says what to do, and how urgent it is.
#[test]
fn every_alert_is_tested_and_explained() {
    let tests = file("alerts-test.yaml");
    for rule in rules() {
        let name = rule["alert"].as_str().unwrap();
        let fires = format!("count(ALERTS{{alertname=\"{name}\", alertstate=\"firing\"}})");
        assert!(tests.contains(&fires), "{name} is not tested");
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity}");
        for part in ["summary", "description", "runbook"] {
            let text = rule["annotations"][part].as_str();
            assert!(text.is_some_and(|text| text.len() > 10), "{name}: {part}");
        }
    }
}

/// Prometheus reads every expression of the dashboard.
#[test]
fn the_dashboard_is_whole() {
    let dashboard: Value = serde_json::from_str(&file("dashboard.json")).unwrap();
    let panels: Vec<&Value> = items(&dashboard["panels"]).collect();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "ids of panels");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel}");
        assert!(items(&panel["targets"]).count() > 0, "{panel}");
    }
    let rules = expressions().into_iter().enumerate().map(|(at, expression)| {
        let expression = expression.replace("$__rate_interval", "5m");
        json!({"record": format!("expression:{at}"), "expr": expression})
    });
    let rules: Vec<Value> = rules.collect();
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("rules.yaml");
    let groups = json!({"groups": [{"name": "dashboard", "rules": rules}]});
    fs::write(&path, groups.to_string()).unwrap();
    must(Command::new("promtool").args(["check", "rules"]).arg(&path));
}

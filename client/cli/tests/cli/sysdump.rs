//! `romana sysdump`: what is in the archive, and that no secret is.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::real::{Dev, free_port};
use crate::support::{Act, Fake};

/// A secret for each place. A test fails that finds one of them in the archive.
const SECRETS: [&str; 12] = [
    "planted-in-status-1",
    "planted-in-metrics-2",
    "planted-in-settings-3",
    "planted-in-cni-4",
    "planted-in-toml-5",
    "planted-in-environment-6",
    "planted-in-program-7",
    "planted-in-kubectl-8",
    "planted-in-kubeconfig-9",
    "planted-in-process-10",
    "planted-in-error-11",
    "planted-in-url-12",
];
/// Programs whose outputs are planted with secrets. `ip` fails, and its error has one.
const PROGRAMS: [&str; 6] =
    ["iptables-save", "ipset", "journalctl", "systemctl", "kubectl", "romana-agent"];

/// The files of an archive, without the directory at the top.
fn files(path: &Path) -> BTreeMap<String, String> {
    let file = fs::File::open(path).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        files.insert(path.split_once('/').unwrap().1.to_owned(), text);
    }
    files
}

fn index(files: &BTreeMap<String, String>) -> Value {
    serde_json::from_str(&files["index.json"]).unwrap()
}

/// What a server of the cluster says, with secrets in every form.
fn says(line: &str) -> Act {
    let path = line.split_whitespace().nth(1).unwrap_or_default();
    match path {
        "/status" => Act::ok(
            json!({"version": "0.1.0", "problems": ["Authorization: Bearer planted-in-status-1"],
            "host": "h1"})
            .to_string(),
        ),
        "/metrics" => Act::ok("romanad_up 1\n# --api-token planted-in-metrics-2 given\n"),
        path if path.starts_with("/v1/settings") => Act::ok(
            json!({"webhook": "http://u:planted-in-settings-3@h/", "password": "planted-in-settings-3"})
                .to_string(),
        ),
        path if path.starts_with("/v1/hosts") => {
            Act::ok(json!({"items": [{"name": "h1", "ip": "127.0.0.1"}], "revision": 1}).to_string())
        }
        _ => Act::status(404, r#"{"error":{"code":"X","message":"token=planted-in-error-11"}}"#),
    }
}

/// A host's file system and programs, planted with secrets.
fn plant(dir: &Path) {
    let at = |path: &str| {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    let cni = json!({"name": "romana", "plugins": [{"type": "romana-cni", "etcd_password": "planted-in-cni-4"}]});
    fs::write(at("root/etc/cni/net.d/10-romana.conflist"), cni.to_string()).unwrap();
    fs::write(at("root/etc/cni/net.d/other-kubeconfig"), "token: planted-in-kubeconfig-9").unwrap();
    let toml = "[server]\nlisten = \"10.0.0.1:9600\"\napi_key = \"planted-in-toml-5\"\n";
    fs::write(at("root/etc/romana/romanad.toml"), toml).unwrap();
    fs::write(at("root/proc/7/comm"), "romanad\n").unwrap();
    fs::write(at("root/proc/7/cmdline"), "romanad\0--token\0planted-in-process-10\0--id\x001\0")
        .unwrap();
    fs::write(at("root/proc/7/environ"), "ROMANAD_PASSWORD=planted-in-process-10\0").unwrap();
    fs::write(at("root/proc/sys/net/ipv4/ip_forward"), "1\n").unwrap();
    let kubeconfig =
        "apiVersion: v1\nusers:\n- name: a\n  user: {token: planted-in-kubeconfig-9}\n";
    fs::write(at(".kube/config"), kubeconfig).unwrap();
    for program in PROGRAMS {
        let said = match program {
            "kubectl" => {
                json!({"items": [{"env": [{"name": "DB_PASSWORD", "value": "planted-in-kubectl-8"}],
                "note": "found planted-in-kubeconfig-9 in use"}]})
                .to_string()
            }
            _ => format!("ROMANA password: planted-in-program-7 of {program}"),
        };
        let script = format!("#!/bin/sh\necho '{said}'\n");
        fs::write(at(&format!("bin/{program}")), script).unwrap();
    }
    let fails = "#!/bin/sh\necho 'secret=planted-in-error-11' >&2\nexit 1\n";
    fs::write(at("bin/ip"), fails).unwrap();
    for file in fs::read_dir(dir.join("bin")).unwrap() {
        fs::set_permissions(file.unwrap().path(), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_the_archive() {
    let dir = tempfile::tempdir().unwrap();
    plant(dir.path());
    let cluster = json!({"members": [], "hint": "http://u:planted-in-url-12@h:1/"}).to_string();
    let fake = Fake::start(Some(cluster), |_, seen| says(&seen.line)).await;
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_romana"))
        .args(["-r", &fake.server().to_string(), "sysdump", "--output", "dump.tar.gz", "--local"])
        .args(["--agent-port", &fake.port.to_string(), "--host-root", "root"])
        .env_clear()
        .env("HOME", dir.path())
        .env("PATH", dir.path().join("bin"))
        .env("ROMANA_API_TOKEN", "planted-in-environment-6")
        .env("ROMANA_TIMEOUT", "30s")
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let archive = dir.path().join("dump.tar.gz");
    assert_eq!(fs::metadata(&archive).unwrap().permissions().mode() & 0o777, 0o600);
    let files = files(&archive);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    for secret in SECRETS {
        let found =
            files.iter().find(|(path, text)| path.contains(secret) || text.contains(secret));
        assert!(found.is_none(), "{secret}: {found:?}");
        assert!(!said.contains(secret), "{secret}: {said}");
    }
    // Each place that had one is there, without it.
    let replica = format!("replicas/127.0.0.1_{}", fake.port);
    for (path, kept) in [
        (format!("{replica}/status.json"), "problems"),
        (format!("{replica}/metrics.txt"), "romanad_up 1"),
        (format!("{replica}/settings.json"), "webhook"),
        (format!("{replica}/cluster.json"), "members"),
        (format!("{replica}/topology.json"), "HTTP status 404"),
        ("agents/this-host/status.json".into(), "h1"),
        ("host/etc_cni_net.d/10-romana.conflist".into(), "romana-cni"),
        ("host/etc_romana/romanad.toml".into(), "10.0.0.1:9600"),
        ("host/processes.json".into(), "--id"),
        ("host/environment.json".into(), "ROMANA_API_TOKEN"),
        ("host/sysctl.json".into(), "net.ipv4.ip_forward"),
        ("host/journal.txt".into(), "REDACTED"),
        ("kubernetes/pods.json".into(), "DB_PASSWORD"),
        ("kubernetes/romanad.log".into(), "items"),
        ("doctor.json".into(), "items"),
    ] {
        let text = files.get(&path).unwrap_or_else(|| panic!("{path}: {:?}", files.keys()));
        assert!(text.contains(kept), "{path}: {text}");
    }
    assert!(!files.keys().any(|path| path.contains("kubeconfig")), "{:?}", files.keys());
    let index = index(&files);
    let entries = index["items"].as_array().unwrap();
    let failed = entries.iter().find(|entry| entry["path"] == "host/ip-rule.txt").unwrap();
    let why = failed["missing"].as_str().unwrap();
    assert!(why.contains("ended with code 1") && why.contains("REDACTED"), "{failed}");
}

#[test]
fn a_replica_is_described_in_full() {
    let dev = Dev::start();
    dev.file("topology.json", include_str!("../../src/demo/topology.json"));
    dev.ok("topology update topology.json");
    dev.ok("host add h1 192.168.0.1 --label rack=rack-1");
    dev.ok("address allocate a1 --host h1 -t shop");
    let said = dev.ok("sysdump --output dump.tar.gz --local=false");
    assert!(said.contains("dump.tar.gz: ") && said.contains("agents/"), "{said}");
    let files = files(&dev.dir.path().join("dump.tar.gz"));
    let replica = format!("replicas/127.0.0.1_{}", dev.api);
    for (file, part) in [
        ("status.json", "\"program\": \"romanad\""),
        ("readyz.json", "ready"),
        ("metrics.txt", "romanad_state_revision"),
        ("cluster.json", "\"leader\": 1"),
        ("settings.json", "address_reuse_delay_ms"),
        ("topology.json", "my-network"),
        ("hosts.json", "h1"),
        ("blocks.json", "10.111.0.0/29"),
        ("addresses.json", "a1"),
        ("ipam-check.json", "items"),
        ("policies.json", "items"),
        ("vips.json", "items"),
        ("vip-pools.json", "items"),
        ("audit-tail.json", "AddressAllocated"),
    ] {
        let text = &files[&format!("{replica}/{file}")];
        assert!(text.contains(part) && !text.contains("HTTP status"), "{file}: {text}");
    }
    assert!(files["doctor.json"].contains("\"check\": \"leader\""), "{}", files["doctor.json"]);
    assert!(files["ipam.json"].contains("AddressesUnverified"), "{}", files["ipam.json"]);
    let index = index(&files);
    let entries = index["items"].as_array().unwrap();
    for entry in entries {
        let path = entry["path"].as_str().unwrap();
        assert_eq!(files.contains_key(path), entry.get("missing").is_none(), "{entry}");
    }
    assert!(entries.iter().any(|entry| entry["path"] == "host" && entry["missing"].is_string()));
    assert!(dev.run("sysdump -o /no/such/dir/x.tar.gz").status.code() == Some(1));
}

#[test]
fn without_any_replica_there_is_an_archive_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let romana = |words: &[&str]| -> Output {
        Command::new(env!("CARGO_BIN_EXE_romana"))
            .args(["-r", &format!("127.0.0.1:{},127.0.0.1:{}", free_port(), free_port())])
            .args(["--timeout", "5s", "--format", "json"])
            .args(words)
            .env_clear()
            .env("HOME", dir.path())
            .current_dir(dir.path())
            .output()
            .unwrap()
    };
    let output = romana(&["sysdump", "--local"]);
    assert!(output.status.success(), "{output:?}");
    assert!(begun.elapsed() < Duration::from_secs(60), "it is limited in time");
    let index: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut names = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name());
    let name = names.next().unwrap().to_string_lossy().into_owned();
    assert!(name.starts_with("romana-sysdump-") && name.ends_with("Z.tar.gz"), "{name}");
    let files = files(&dir.path().join(name));
    assert!(files["doctor.json"].contains("no replica tells"), "{}", files["doctor.json"]);
    assert!(files.contains_key("host/kernel.txt"), "{:?}", files.keys());
    let missing = |entry: &&Value| entry["path"].as_str().unwrap().starts_with("replicas/");
    let missing: Vec<&Value> = index["items"].as_array().unwrap().iter().filter(missing).collect();
    assert_eq!(missing.len(), 2 * 22);
    assert!(missing.iter().all(|entry| entry["missing"].is_string()), "{missing:?}");
    // To stdout, for a pipe.
    let output = romana(&["sysdump", "--local=false", "-o", "-"]);
    assert!(output.stdout.starts_with(&[0x1f, 0x8b]), "{output:?}");
}

//! What may be in a data directory, and how a replica reports unexpected content.

use romana_statemachine::Revision;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use romana_client::{Client, ClientConfig, FollowOptions, Item, Server};
use romana_statemachine::command::TenantSpec;

use super::real::{Dev, program, romanad};

#[test]
fn a_replica_refuses_an_agents_directory() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("instance"), "ROMANA1\n00000000\n\"x\"").unwrap();
    for data in ["", "data"] {
        let output = Command::new(romanad())
            .args(["--dev", "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(dir.path().join(data))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("is that of romana-agent"), "{said}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was made");
}

#[test]
fn programs_read_regular_files_only() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let pipe = pipe.display().to_string();
    for (name, args) in [
        ("romanad", vec!["--config", &pipe]),
        ("romanad", vec!["--config", "/dev/zero"]),
        ("romanad", vec!["--dev", "--check", "--initial-network", &pipe]),
        ("romanad", vec!["--dev", "--check", "--initial-network", "/dev/zero"]),
        ("romana-agent", vec!["--config", &pipe]),
        ("romana-agent", vec!["--config", "/dev/zero", "status"]),
    ] {
        let output =
            Command::new("timeout").arg("20").arg(program(name)).args(&args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{name} {args:?}: {output:?}");
        assert!(said.contains("not a regular file"), "{name} {args:?}: {said}");
    }
}

/// `--check` reads the backup that a new cluster is to begin with.
#[test]
fn a_backup_that_cannot_be_restored_fails_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("nonsense"), "nonsense").unwrap();
    for name in ["none", "nonsense"] {
        let output = Command::new(romanad())
            .args(["--dev", "--check", "--data-dir"])
            .arg(at("data"))
            .arg("--restore")
            .arg(at(name))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name}: {said}");
        assert!(said.contains(&at(name).display().to_string()), "{name}: {said}");
    }
    assert!(!at("data").exists(), "a check makes nothing");
}

/// With `--dev` there is no `--initial-cluster` to put back: the founder is the address of `--peer-listen`.
#[test]
fn another_peer_address_is_explained_with_dev() {
    let mut dev = Dev::start();
    dev.kill();
    let output = Command::new("timeout")
        .arg("60")
        .arg(romanad())
        .args(["--dev", "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.2:0", "--data-dir"])
        .arg(dev.dir.path().join("data"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("with --dev, the address of --peer-listen"), "{said}");
}

/// Starts a replica that must refuse to start; `timeout` ends one that waits instead.
fn start_in(data: &Path) -> Output {
    Command::new("timeout")
        .arg("60")
        .arg(romanad())
        .args(["--dev", "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--data-dir"])
        .arg(data)
        .output()
        .unwrap()
}

/// All files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn a_pipe_or_a_device_in_place_of_any_file_is_refused() {
    let mut dev = Dev::start();
    dev.kill();
    let data = dev.dir.path().join("data");
    let all = files(&data);
    for name in ["identity.json", "nonce", "wal.mark", "LOCK", "ORIGIN", "db"] {
        assert!(all.iter().any(|file| file.ends_with(name)), "{name}: {all:?}");
    }
    for file in all {
        let aside = dev.dir.path().join("aside");
        fs::rename(&file, &aside).unwrap();
        for (command, kind) in
            [(vec!["mkfifo"], "a pipe"), (vec!["ln", "-s", "/dev/zero"], "a character device")]
        {
            assert!(
                Command::new(command[0]).args(&command[1..]).arg(&file).status().unwrap().success()
            );
            let output = start_in(&data);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{} as {kind}: {said}", file.display());
            let named = format!("{} is {kind}", file.display());
            assert!(said.contains(&named) && said.contains("cluster replace"), "{named}: {said}");
            fs::remove_file(&file).unwrap();
        }
        fs::rename(&aside, &file).unwrap();
    }
    dev.start_again();
    dev.file("topology.json", include_str!("../../src/demo/topology.json"));
    dev.ok("topology update topology.json");
    let doctor = dev.soon("doctor", 0);
    assert!(doctor.status.success(), "nothing was changed: {doctor:?}");
}

fn get(api: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", api)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// What a condition finds, once it does.
fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A sealed segment of the history, once there is one.
fn packed(data: &Path) -> PathBuf {
    let closed = |file: &PathBuf| file.extension().is_some_and(|ending| ending == "lz4");
    until("a closed segment", || files(&data.join("history")).into_iter().find(closed))
}

#[test]
fn a_damaged_history_is_named_everywhere_with_the_way_out() {
    let dev = Dev::start();
    // Far more than this test writes, so that segments are sealed early and nothing is purged.
    dev.ok("settings set history_retention_size=16MiB");
    dev.file("topology.json", include_str!("../../src/demo/topology.json"));
    dev.ok("topology update topology.json");
    dev.ok("host add h1 192.168.0.1 --label rack=rack-1");
    let given = dev.json("address allocate a1 --host h1 -t shop -s web");
    let who = format!("audit who {}", given["ip"].as_str().unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { fill(&client(&dev), 0..FILL).await });
    assert!(dev.soon(&who, 0).status.success());
    // Damages all blocks of a sealed segment while the replica runs.
    let file = packed(&dev.dir.path().join("data"));
    let mut bytes = fs::read(&file).unwrap();
    let blocks = FIRST_BLOCK..bytes.len() - FIRST_BLOCK;
    bytes[blocks].iter_mut().step_by(16).for_each(|byte| *byte ^= 1);
    fs::write(&file, bytes).unwrap();

    let said = dev.run(&format!("-f json {who}"));
    let error: serde_json::Value = serde_json::from_slice(&said.stderr).unwrap();
    assert_eq!(error["error"]["code"], "HistoryDamaged", "{error}");
    let text = dev.run(&who);
    assert!(String::from_utf8_lossy(&text.stderr).contains("romana cluster replace"), "{text:?}");
    let answer = get(dev.api, &format!("/v1/audit/who?ip={}", given["ip"].as_str().unwrap()));
    assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("HistoryDamaged"), "{answer}");
    assert!(answer.contains("romana cluster replace"), "{answer}");
    let doctor = dev.soon("doctor", 1);
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.contains("HistoryDamaged") && said.contains("romana cluster replace 1"), "{said}");
    let metrics = get(dev.api, "/metrics");
    let reads =
        metrics.lines().find_map(|line| line.strip_prefix("romanad_history_damaged_reads "));
    assert!(reads.is_some_and(|reads| reads != "0"), "{metrics}");
    // The replica still serves what needs no history.
    dev.ok("tenant create after");
}

/// The first block of a segment begins before this offset.
const FIRST_BLOCK: usize = 256;

/// Enough tenants to fill a segment of the history.
const FILL: u64 = 30;

fn client(dev: &Dev) -> Client {
    let server = Server::parse("127.0.0.1", dev.api).unwrap();
    Client::new(ClientConfig::new(vec![server])).unwrap()
}

/// Creates tenants with large labels that do not compress.
async fn fill(client: &Client, tenants: std::ops::Range<u64>) {
    for number in tenants {
        let noise = |_| (0..64).map(|_| format!("{:016x}", rand::random::<u64>())).collect();
        let labels = (0..100).map(|at| (format!("l{at}"), noise(at))).collect();
        let spec = TenantSpec { id: format!("tenant-{number}").into(), labels };
        client.set_tenant(spec).await.unwrap();
    }
}

/// The lowest revision in the history's directory.
fn oldest_kept(dev: &Dev) -> u64 {
    let files = fs::read_dir(dev.dir.path().join("data/history")).unwrap();
    let stem = |path: PathBuf| path.file_stem()?.to_str()?.parse().ok();
    files.filter_map(|file| stem(file.unwrap().path())).min().unwrap()
}

#[test]
fn a_history_that_is_too_large_is_purged_and_goes_on() {
    let mut dev = Dev::start();
    dev.ok("settings set history_retention_size=1MiB");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = runtime.block_on(async { client(&dev) });
    runtime.block_on(fill(&client, 0..FILL));
    assert!(dev.json("events follow --from 0 -n 1")["revision"] == 1);
    until("a purge", || (oldest_kept(&dev) > 1).then_some(()));
    // Three events: the setting, the claim of the replica, then the checkpoint.
    let signed = dev.ok("-f json events follow --from 0 -t cluster -n 3");
    assert!(signed.contains("CheckpointSigned"), "{signed}");
    dev.kill();
    dev.start_again();
    // The feed's buffer in memory is gone: a follower of everything gets a reset and a snapshot.
    assert!(oldest_kept(&dev) > 1);
    let everything = FollowOptions { after: Some(Revision(0)), ..FollowOptions::default() };
    let first = runtime.block_on(async { client.follow(everything).next().await.unwrap() });
    assert!(matches!(first, Item::Reset(snapshot) if snapshot.revision > FILL));
    // The state is complete, and writes succeed.
    runtime.block_on(fill(&client, FILL..FILL + 1));
    assert_eq!(dev.json("tenant list")["items"].as_array().unwrap().len(), 31);
    assert!(dev.ok("doctor").contains("leader"));
}

//! Backup, restore and recovery on real `romanad` processes, under load.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use romana_client::{Client, Error};
use romana_statemachine::backup::{Check, Checked, Reader};
use romana_statemachine::command::{AllocateAddress, HostReport, HostSpec};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::real::romanad;
use crate::support::until;
use crate::three::{PATIENCE, Three};

const HOSTS: [(&str, &str, &str); 2] =
    [("h1", "192.168.0.1", "rack-1"), ("h2", "192.168.0.2", "rack-2")];

fn allocation(name: String, host: &str, ip: Option<IpAddr>) -> AllocateAddress {
    AllocateAddress {
        name: name.into(),
        host: host.into(),
        tenant: "shop".into(),
        segment: "web".into(),
        network: None,
        ip,
    }
}

/// A topology and two hosts.
async fn set_up(client: &Client) {
    let topology = include_str!("../../src/demo/topology.json");
    client.set_topology(serde_json::from_str(topology).unwrap()).await.unwrap();
    for (name, ip, rack) in HOSTS {
        let spec = serde_json::json!({"name": name, "ip": ip, "labels": {"rack": rack}});
        let spec: HostSpec = serde_json::from_value(spec).unwrap();
        client.add_host(spec).await.unwrap();
    }
}

/// Acknowledged allocations: name → address and revision.
type Acked = Arc<Mutex<BTreeMap<String, (IpAddr, u64)>>>;

/// Starts callers that allocate until they are aborted.
fn load(three: &Three, acked: &Acked) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for caller in 0..8 {
        let (client, acked) = (three.client(), Arc::clone(acked));
        let host = HOSTS[caller % 2].0;
        callers.spawn(async move {
            for n in 0.. {
                let name = format!("load-{caller}-{n}");
                if let Ok(got) = client.allocate(allocation(name.clone(), host, None)).await {
                    acked.lock().unwrap().insert(name, (got.ip, got.revision.get()));
                }
            }
        });
    }
    callers
}

/// Waits until at least `wanted` allocations were acknowledged; returns all of them.
async fn enough(acked: &Acked, wanted: usize) -> BTreeMap<String, (IpAddr, u64)> {
    let there = async || acked.lock().unwrap().len() >= wanted;
    until(&format!("{wanted} allocations"), PATIENCE, there).await;
    acked.lock().unwrap().clone()
}

/// Reads a backup file with every check.
fn read(path: &Path) -> Checked {
    let (mut reader, mut check) = (Reader::new(), Check::new());
    reader.push(&std::fs::read(path).unwrap());
    while let Some(part) = reader.part().unwrap() {
        check.part(&part).unwrap();
    }
    reader.finish().unwrap();
    check.finish().unwrap()
}

fn addresses(checked: &Checked) -> BTreeMap<String, IpAddr> {
    let live = checked.state.ipam().addresses_after(None);
    live.map(|live| (live.name.to_string(), live.ip)).collect()
}

/// The restored state equals the backup; allocation is held until all hosts have reported; afterwards no address is
/// allocated twice.
async fn check_restored(new: &Three, checked: &Checked) {
    let expected = addresses(checked);
    let client = new.client();
    let list = new.json("address list");
    let live: BTreeMap<String, IpAddr> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            (item["name"].as_str().unwrap().into(), item["ip"].as_str().unwrap().parse().unwrap())
        })
        .collect();
    assert_eq!(live, expected);
    let digests: Vec<_> = futures_util::future::join_all(
        new.servers().iter().map(|server| client.digest_of(server)).collect::<Vec<_>>(),
    )
    .await;
    let first = digests[0].as_ref().unwrap();
    assert!(digests.iter().all(|digest| digest.as_ref().unwrap() == first), "{digests:?}");

    let fresh = client.allocate(allocation("fresh".into(), "h1", None)).await.unwrap_err();
    assert_eq!(fresh.code(), Some("AllocationHeld"), "{fresh}");
    let doctor = new.romana(&new.servers(), "doctor");
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.contains("allocation is held"), "{said}");
    // An address that was allocated after the backup: the host still has it, and requests it by address.
    let ip: IpAddr = "10.111.63.77".parse().unwrap();
    assert!(!expected.values().any(|other| *other == ip));
    let taken = client.allocate(allocation("later".into(), "h1", Some(ip))).await.unwrap();
    assert_eq!(taken.ip, ip);
    let revision = client.cluster().await.unwrap().revision;
    for (host, ..) in HOSTS {
        let name = host.into();
        let running = checked.state.ipam().host_addresses(&name).map(|live| live.name);
        let running = running.chain((host == "h1").then(|| "later".into())).collect();
        client.report_host(HostReport { host: host.into(), revision, running }).await.unwrap();
    }
    let mut all: Vec<IpAddr> = expected.values().copied().chain([ip]).collect();
    for n in 0..20 {
        all.push(client.allocate(allocation(format!("new-{n}"), "h2", None)).await.unwrap().ip);
    }
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count, "an address was given out twice");
}

/// Restores a single founder, which must report that it has the backup and that the cluster does not serve yet. The
/// others can be given the backup afterwards.
fn one_founder_is_not_enough(new: &Three, file: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_romana"))
        .args(["--timeout", "4s", "-r", &new.server(0).to_string(), "backup", "restore"])
        .arg(file)
        .env_clear()
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    for part in [
        "does not serve yet",
        "waiting until more than half of the founders have it",
        "the backup was restored",
        "romana -r URL,URL,URL backup restore FILE",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("Nothing happened"), "{said}");
}

/// Takes a backup from a follower while the leader is killed and clients go on. Returns the allocations acknowledged
/// before the backup, and the index of the killed leader.
async fn backup_under_load(
    old: &mut Three,
    file: &Path,
) -> (BTreeMap<String, (IpAddr, u64)>, usize) {
    let client = old.client();
    let acked = Acked::default();
    let mut callers = load(old, &acked);
    let before = enough(&acked, 100).await;
    let leader = client.cluster().await.unwrap().leader.unwrap();
    let leader = usize::try_from(leader).unwrap() - 1;
    let follower = old.server((leader + 1) % 3).to_string();
    let saving = Command::new(env!("CARGO_BIN_EXE_romana"))
        .args(["-f", "json", "--timeout", "60s", "-r", &follower, "backup", "save"])
        .arg(file)
        .env_clear()
        .env("HOME", old.dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    old.kill(leader);
    let saved = tokio::task::spawn_blocking(|| saving.wait_with_output()).await.unwrap().unwrap();
    assert!(saved.status.success(), "{saved:?}");
    enough(&acked, before.len() + 50).await;
    callers.shutdown().await;
    (before, leader)
}

/// Waiting founders are given the backup of a cluster, and begin a new one.
async fn begins_a_new_cluster(file: &Path, source: &str, checked: &Checked) {
    let new = Three::started(&["--await-restore"]);
    let client = new.client();
    let server = new.server(1);
    let lives = async || client.get_from::<Value>(&server, "/healthz").await.is_ok();
    until("a founder that waits", PATIENCE, lives).await;
    let waiting = client.get_from::<Value>(&server, "/readyz").await.unwrap_err();
    assert!(waiting.to_string().contains("waits for a backup"), "{waiting}");
    one_founder_is_not_enough(&new, file);
    let made = new.json(&format!("backup restore {}", file.display()));
    assert_ne!(made["cluster_id"].as_str(), Some(source));
    assert_eq!(
        (made["waiting"].as_u64(), made["from_revision"].as_u64()),
        (Some(2), Some(checked.header.revision.get()))
    );
    check_restored(&new, checked).await;
    let again = client.restore(&server, 1, futures_util::stream::iter([Ok("x".into())])).await;
    assert_eq!(again.unwrap_err().code(), Some("ClusterNotEmpty"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_begins_a_new_cluster() {
    let mut old = Three::started(&[]);
    old.ready().await;
    let client = old.client();
    set_up(&client).await;
    let file = old.dir.path().join("b.backup");
    let (before, leader) = backup_under_load(&mut old, &file).await;
    // Not sent to any founder while one of them is unreachable, and not to a cluster that serves.
    let restore = format!("backup restore {}", file.display());
    assert_eq!(old.refused(&restore), "Unavailable");
    old.start(leader, &[]);
    old.ready().await;
    assert_eq!(old.refused(&restore), "Usage");
    let source = client.cluster().await.unwrap().cluster_id;
    (0..3).for_each(|at| old.kill(at));

    let verified = old.json(&format!("backup verify {}", file.display()));
    assert_eq!((&verified["verified"], &verified["replayed"]), (&true.into(), &true.into()));
    assert_eq!(verified["cluster_id"].as_str(), Some(source.as_str()));
    let checked = read(&file);
    let held = addresses(&checked);
    for (name, (ip, _)) in &before {
        assert_eq!(held.get(name), Some(ip), "{name} was acknowledged before the backup");
    }
    begins_a_new_cluster(&file, &source, &checked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_majority_is_recovered_from_what_is_left() {
    let mut old = Three::started(&[]);
    old.ready().await;
    set_up(&old.client()).await;
    let acked = Acked::default();
    let mut callers = load(&old, &acked);
    enough(&acked, 200).await;
    (0..3).for_each(|at| old.kill(at));
    callers.shutdown().await;
    let acked = acked.lock().unwrap().clone();

    let out = old.dir.path().join("one.backup");
    let recover = |dirs: &[usize], out: &Path| {
        let mut command = Command::new(romanad());
        command.arg("recover").arg("--out").arg(out);
        dirs.iter().for_each(|at| _ = command.arg("--data-dir").arg(old.data(*at)));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let said = recover(&[1], &out);
    assert!(
        said.contains("May be lost") && said.contains("Never start the old replicas"),
        "{said}"
    );
    let checked = read(&out);
    assert!(checked.header.recovered && checked.replayed);
    let held = addresses(&checked);
    for (name, (ip, revision)) in &acked {
        let is_there = held.get(name) == Some(ip);
        assert!(
            is_there || *revision > checked.header.revision.get(),
            "{name} of revision {revision}"
        );
    }
    // With all three disks no acknowledged allocation is missing.
    let all = old.dir.path().join("all.backup");
    recover(&[0, 1, 2], &all);
    let (all, path) = (read(&all), all);
    let held = addresses(&all);
    assert!(acked.iter().all(|(name, (ip, _))| held.get(name) == Some(ip)));
    let (mine, best) = (checked.header.revision, all.header.revision);
    assert!(mine <= best, "{mine} {best}");

    let path = path.display().to_string();
    let mut new = Three::started(&["--restore", &path]);
    new.ready().await;
    check_restored(&new, &all).await;
    // If the flag stays on the command line, a restart is an ordinary start.
    new.kill(0);
    new.start(0, &["--restore", &path]);
    new.ready().await;
    // With a different file, the replica refuses to start.
    new.kill(0);
    new.start(0, &["--restore", &out.display().to_string()]);
    let log = new.ended(0);
    assert!(log.contains("leave --restore out"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_files_are_refused_everywhere() {
    let mut one = Three::started(&[]);
    one.ready().await;
    set_up(&one.client()).await;
    let file = one.dir.path().join("b.backup");
    one.json(&format!("backup save {}", file.display()));
    one.json(&format!("backup save --no-history {}", one.dir.path().join("small").display()));
    let small = one.json("backup show small");
    assert_eq!((&small["records"], &small["complete"]), (&0.into(), &false.into()));
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(one.dir.path().join("cut"), &whole[..whole.len() / 2]).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 3] ^= 1;
    std::fs::write(one.dir.path().join("flipped"), &flipped).unwrap();
    for bad in ["cut", "flipped"] {
        assert_eq!(one.refused(&format!("backup verify {bad}")), "BackupUnusable");
        assert_eq!(one.refused(&format!("backup restore {bad}")), "BackupUnusable");
    }
    // A replica verifies the backup itself.
    let mut new = Three::new();
    new.start(0, &["--await-restore"]);
    let client = new.client();
    let server = new.server(0);
    let send = |bytes: &[u8]| {
        let (length, piece) = (bytes.len() as u64, bytes.to_vec().into());
        client.restore(&server, length, futures_util::stream::iter([Ok(piece)]))
    };
    let refused = loop {
        match send(&flipped).await {
            Err(Error::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(50)).await,
            other => break other.unwrap_err(),
        }
    };
    assert_eq!(refused.code(), Some("BackupUnusable"), "{refused}");
    // It still waits, and accepts an intact backup.
    assert!(send(&whole).await.unwrap().addresses == 0);

    // A replica does not restore into a directory with data.
    one.kill(0);
    let cut = one.dir.path().join("cut").display().to_string();
    one.start(0, &["--restore", &cut]);
    assert!(one.ended(0).contains("which was not restored"));
    new.start(1, &["--restore", &cut]);
    assert!(new.ended(1).contains("cut short"));
}

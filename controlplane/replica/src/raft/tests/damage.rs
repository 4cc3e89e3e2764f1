//! A replica with a randomly damaged file never serves a wrong answer: either it refuses to
//! start and names the file, or it has everything it had.
//!
//! A single replica, so that no other one can replace what it lost. `ROMANA_DAMAGE_CASES=N` runs
//! more cases, `ROMANA_DAMAGE_SEED=N` only this one.

use std::fs;
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use romana_daemon::error::chain;
use romana_statemachine::{Digest, Record, Revision};
use romana_storage::history::{History, HistoryError};

use super::*;

const CASES: u64 = 48;
const PAGE: usize = 4096;

/// Kind of damage to a file.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Flip,
    Cut,
    ZeroPage,
    ZeroRest,
    Remove,
    /// Replaced by an older version of itself.
    Older,
    /// Replaced by another file of its directory.
    Swapped,
    /// Bytes appended at its end.
    Longer,
    /// An unknown file beside it.
    Stray,
}

const KINDS: [Kind; 9] = [
    Kind::Flip,
    Kind::Cut,
    Kind::ZeroPage,
    Kind::ZeroRest,
    Kind::Remove,
    Kind::Older,
    Kind::Swapped,
    Kind::Longer,
    Kind::Stray,
];

/// The undamaged data of the replica.
struct Whole {
    dir: PathBuf,
    older: PathBuf,
    revision: u64,
    digest: Digest,
    records: Vec<Record>,
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &to) } else { _ = fs::copy(&path, to).unwrap() }
    }
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

fn everything(history: &History) -> Result<Vec<Record>, HistoryError> {
    let mut records: Vec<Record> = Vec::new();
    loop {
        let next = records.len() as u64 + 1;
        let more = history.read(Revision(next), 100, 1 << 16)?;
        if more.is_empty() {
            return Ok(records);
        }
        records.extend(more);
    }
}

/// An offset in a file: any, or one in its written part (log segments are mostly zeros).
fn place(rng: &mut SmallRng, bytes: &[u8]) -> usize {
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let end = if rng.random_bool(0.8) { used } else { bytes.len() };
    rng.random_range(0..end.max(1))
}

/// Damages one file. Returns its path and a description.
fn damage(rng: &mut SmallRng, whole: &Whole, dir: &Path) -> (PathBuf, String) {
    let mut all = Vec::new();
    files(dir, &mut all);
    let file = all[rng.random_range(0..all.len())].clone();
    let kind = KINDS[rng.random_range(0..KINDS.len())];
    let mut bytes = fs::read(&file).unwrap();
    let at = place(rng, &bytes).min(bytes.len());
    match kind {
        Kind::Flip => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << rng.random_range(0..8);
            }
        }
        Kind::Cut => bytes.truncate(at),
        Kind::ZeroPage => {
            let page = at / PAGE * PAGE;
            let end = bytes.len().min(page + PAGE);
            bytes[page..end].fill(0);
        }
        Kind::ZeroRest => bytes[at..].fill(0),
        Kind::Longer => bytes.extend_from_slice(&[0x5a; 100]),
        Kind::Older => match fs::read(whole.older.join(file.strip_prefix(dir).unwrap())) {
            Ok(older) => bytes = older,
            Err(_) => bytes.clear(),
        },
        Kind::Swapped => {
            let beside: Vec<&PathBuf> =
                all.iter().filter(|other| other.parent() == file.parent()).collect();
            bytes = fs::read(beside[rng.random_range(0..beside.len())]).unwrap();
        }
        Kind::Remove | Kind::Stray => {}
    }
    match kind {
        Kind::Remove => fs::remove_file(&file).unwrap(),
        Kind::Stray => {
            let endings = ["tmp", "spare", "damaged", "old", "lz4", "log", "wal", "snap", "mark"];
            let ending = endings[rng.random_range(0..endings.len())];
            bytes.truncate(at);
            fs::write(file.with_file_name(format!("stray.{ending}")), bytes).unwrap();
        }
        _ => fs::write(&file, bytes).unwrap(),
    }
    let what = format!("{kind:?} at {at} of {}", file.display());
    (file, what)
}

/// A refusal must name what is wrong: the file, or where it should be.
fn check_refusal(text: &str, file: &Path, what: &str) {
    let stem = file.file_stem().unwrap().to_str().unwrap();
    let part = file.parent().unwrap().file_name().unwrap().to_str().unwrap();
    let named = text.contains(stem) || (part != "wal" && text.contains(part));
    assert!(named, "{what}: the refusal does not name it: {text}");
}

/// Damages a copy of the data and tries to start on it. Returns whether the start was refused.
async fn case(cluster: &mut Cluster, whole: &Whole, seed: u64) -> bool {
    let mut rng = SmallRng::seed_from_u64(seed);
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("data");
    copy(&whole.dir, &dir);
    let (file, what) = damage(&mut rng, whole, &dir);
    let what = format!("ROMANA_DAMAGE_SEED={seed}: {what}");
    let config = ReplicaConfig { data_dir: dir, ..cluster.config(1) };
    let replica = match start(config).await {
        Ok(replica) => replica,
        Err(error) => {
            let advice = error.advice(1).unwrap_or_default();
            check_refusal(&format!("{} {advice}", chain(&error)), &file, &what);
            return true;
        }
    };
    let ready = tokio::time::timeout(PATIENCE, replica.health().wait_ready()).await;
    if let Err(fault) = ready.unwrap_or_else(|_| panic!("{what}: never ready")) {
        check_refusal(&fault, &file, &what);
        replica.shutdown().await;
        return true;
    }
    replica.reads().linearize(soon()).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    let now = replica.with_state(|state| (state.revision(), state.digest()));
    assert_eq!(now, (Revision(whole.revision), whole.digest), "{what}");
    match everything(replica.history()) {
        Ok(records) => assert_eq!(records, whole.records, "{what}"),
        Err(error) => check_refusal(&error.to_string(), &file, &what),
    }
    assert!(create(&replica, "after").await.result.is_ok(), "{what}");
    replica.shutdown().await;
    false
}

/// Starts a replica; retries while only the port of the previous one is in use.
async fn start(config: ReplicaConfig) -> Result<Replica, StartError> {
    let deadline = soon();
    loop {
        match Replica::start(config.clone()).await {
            Err(StartError::Io { what, .. })
                if what.contains("listen") && Instant::now() < deadline =>
            {
                tokio::task::yield_now().await;
            }
            other => return other,
        }
    }
}

/// Data with several segments of everything, and a snapshot up to which the log is purged.
async fn whole(cluster: &mut Cluster) -> Whole {
    let older = cluster.dir.path().join("older");
    for part in 0..2 {
        cluster.start(1).await;
        cluster.ready().await;
        for number in 0..90 {
            let name = format!("tenant-{part}-{number}-{}", "x".repeat(40));
            assert!(create(cluster.on(1), &name).await.result.is_ok());
        }
        if part == 0 {
            cluster.stop(1).await;
            copy(&cluster.data(1), &older);
        }
    }
    let replica = cluster.on(1).clone();
    let (revision, digest) = replica.with_state(|state| (state.revision(), state.digest()));
    let records = everything(replica.history()).unwrap();
    assert_eq!(records.len(), 180);
    drop(replica);
    cluster.stop(1).await;
    let dir = cluster.dir.path().join("whole");
    copy(&cluster.data(1), &dir);
    Whole { dir, older, revision: revision.get(), digest, records }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_replica_never_serves_a_wrong_answer() {
    let mut cluster = Cluster::new(1).await;
    cluster.tuning = Tuning {
        heartbeat: Duration::from_millis(20),
        election_min: Duration::from_millis(50),
        election_max: Duration::from_millis(100),
        wal_segment_bytes: 8 << 10,
        history_segment_bytes: 4 << 10,
        snapshot_entries: 50,
        keep_entries: 60,
        ..cluster.tuning.clone()
    };
    let whole = whole(&mut cluster).await;
    let count = |part: &str| fs::read_dir(whole.dir.join(part)).unwrap().count();
    assert!(count("wal") > 3 && count("history") > 4 && count("snapshots") > 0);
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("ROMANA_DAMAGE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ROMANA_DAMAGE_CASES").unwrap_or(CASES),
    };
    let (cases, mut refused) = (seeds.end - seeds.start, 0);
    for seed in seeds {
        refused += u64::from(case(&mut cluster, &whole, seed).await);
    }
    println!("{cases} cases, {refused} refused");
    if cases >= CASES {
        assert!(refused > cases / 8 && refused < cases, "{refused} of {cases} refused");
    }
}

//! Compares the index with the history: whatever happens to the index, its answers equal those of a scan of
//! all records.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use romana_statemachine::audit::{Filter, Kind, tenures};
use romana_statemachine::{
    Entry, Index, Millis, Position, Proposal, Record, Revision, State, Term,
};
use romana_storage::history::HistoryOptions;
use serde_json::json;
use tokio::time::timeout;

use super::*;
use crate::Cancel;

/// Records in which few addresses change owners often.
fn records(count: usize, seed: u64) -> Vec<Record> {
    let mut state = State::new();
    let mut all = Vec::new();
    let mut dice = seed;
    let mut roll = |sides: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % sides
    };
    let mut commands = vec![
        json!({"SetTopology": {"networks": [{"name": "n", "cidr": "10.0.0.0/24", "block_mask": 29}],
            "topologies": [{"networks": ["n"], "map": [{}]}]}}),
        json!({"ChangeSettings": {"address_reuse_delay_ms": 0}}),
    ];
    for host in 0..3 {
        let ip = format!("192.168.0.{}", host + 1);
        commands.push(json!({"AddHost": {"name": format!("h{host}"), "ip": ip}}));
    }
    let mut index = 0;
    while all.len() < count {
        let command = commands.get(usize::try_from(index).unwrap()).cloned().unwrap_or_else(|| {
            let name = format!("a{}", roll(12));
            match roll(2) {
                0 => json!({"ReleaseAddress": {"address": name}}),
                _ => json!({"AllocateAddress": {"name": name, "host": format!("h{}", roll(3)),
                    "tenant": format!("t{}", roll(2)), "segment": "s"}}),
            }
        });
        let command = serde_json::from_value(command).unwrap();
        let actor = format!("op:{}", roll(3)).as_str().into();
        let entry = Entry { at: Millis(index * 10), proposals: vec![Proposal { actor, command }] };
        all.extend(state.apply(Position { term: Term(1), index: Index(index) }, &entry).1);
        index += 1;
    }
    all
}

struct World {
    dir: tempfile::TempDir,
    history: History,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = HistoryOptions { segment_bytes: 4096 };
        let history = History::open(&dir.path().join("history"), options).unwrap();
        Self { dir, history }
    }

    fn index_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("index")
    }

    /// Appends records and closes the segment.
    fn append(&self, records: &[Record]) {
        records.chunks(20).for_each(|some| self.history.append(some).unwrap());
    }

    async fn audit(&self) -> Audit {
        let audit = Audit::with_tail(self.history.clone(), self.dir.path(), 100, 20).unwrap();
        settled(&audit, self.history.last().0).await;
        audit
    }
}

async fn settled(audit: &Audit, revision: Revision) {
    timeout(Duration::from_secs(30), audit.reached(revision)).await.expect("indexed in time");
}

/// Runs all kinds of queries, and compares the answers with the records.
fn check(audit: &Audit, records: &[Record]) {
    let upto = records.last().unwrap().revision;
    for last in 0..40u8 {
        let ip = IpAddr::from([10, 0, 0, last]);
        let expected = tenures(ip, records);
        assert_eq!(audit.who(ip, upto, Revision(0), usize::MAX).unwrap().items, expected, "{ip}");
        let mut paged = Vec::new();
        let mut after = Some(Revision(0));
        while let Some(start) = after {
            let page = audit.who(ip, upto, start, 2).unwrap();
            paged.extend(page.items);
            after = page.next;
        }
        assert_eq!(paged, expected, "{ip} in pages");
        for at in Revision(1).through(upto).step_by(7) {
            let holder = expected.iter().find(|tenure| tenure.held_at(at)).cloned();
            assert_eq!(audit.who_at(ip, at, upto).unwrap(), holder, "{ip} at {at}");
        }
    }
    let none = Filter::default;
    for filter in [
        none(),
        Filter { name: Some("a3".into()), ..none() },
        Filter { ip: Some("10.0.0.3".parse().unwrap()), ..none() },
        Filter { host: Some("h1".into()), tenant: Some("t0".into()), ..none() },
        Filter { kind: Some(Kind::from_name("AddressReleased")), ..none() },
        Filter { kind: Some(Kind::from_name("hosts")), actor: Some("op:1".into()), ..none() },
        Filter { actor: Some("nobody".into()), ..none() },
    ] {
        let (mut found, mut from) = (Vec::new(), Some(Revision(5)));
        while let Some(start) = from {
            let page = audit.log(&filter, start, upto.minus(3), 11, &Cancel::default()).unwrap();
            found.extend(page.items);
            from = page.next;
        }
        let inside = |record: &&Record| record.revision >= 5 && record.revision <= upto.minus(3);
        let expected = records.iter().filter(inside).filter(|record| filter.wants(record));
        assert_eq!(found, expected.cloned().collect::<Vec<_>>(), "{filter:?}");
    }
    for at in [0, 1, 55, 1000, u64::MAX] {
        let expected = records.iter().filter(|record| record.at.0 <= at).map(|r| r.revision).max();
        assert_eq!(audit.revision_at(Millis(at)).unwrap(), expected.unwrap_or(Revision(0)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_those_of_the_records() {
    let world = World::new();
    let records = records(900, 7);
    let (early, late) = records.split_at(500);
    world.append(early);
    let audit = world.audit().await;
    check(&audit, early);
    world.append(late);
    settled(&audit, Revision(900)).await;
    check(&audit, &records);
    assert_eq!(audit.rebuilds(), 0);
    audit.stop();
    // After a reopen it continues where it was.
    drop(audit);
    let audit = world.audit().await;
    check(&audit, &records);
    assert_eq!(audit.rebuilds(), 0);
    assert!(audit.index_bytes() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_another_history_is_built_again() {
    let world = World::new();
    world.append(&records(600, 1));
    drop(world.audit().await);
    let other = World::new();
    let records = records(600, 2);
    other.append(&records);
    fs::rename(world.index_dir(), other.index_dir()).unwrap();
    let audit = other.audit().await;
    assert_eq!(audit.rebuilds(), 1);
    check(&audit, &records);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purged_history_answers_for_what_it_has() {
    let world = World::new();
    let records = records(900, 3);
    world.append(&records);
    let audit = world.audit().await;
    let oldest = world.history.purge_before(Revision(300)).unwrap();
    assert!(oldest > 1);
    let kept: Vec<Record> = records.iter().filter(|r| r.revision >= oldest).cloned().collect();
    for last in 0..20u8 {
        let ip = IpAddr::from([10, 0, 0, last]);
        assert_eq!(
            audit.who(ip, Revision(900), Revision(0), usize::MAX).unwrap().items,
            tenures(ip, &kept)
        );
    }
    let oldest = world.history.purge_before(Revision(800)).unwrap();
    assert!(oldest > 600);
    // Most of it is purged: the index is rebuilt smaller.
    while audit.rebuilds() == 0 {
        tokio::task::yield_now().await;
    }
    settled(&audit, Revision(900)).await;
    let found =
        audit.log(&Filter::default(), Revision(1), Revision(900), 1, &Cancel::default()).unwrap();
    assert_eq!(found.items[0].revision, oldest);
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Kinds of damage to a file.
#[derive(Clone, Debug)]
enum Damage {
    Flip(usize, u8),
    Cut(usize),
    Zero(usize),
    Remove,
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (any::<usize>(), 1..=u8::MAX).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        1 => any::<usize>().prop_map(Damage::Cut),
        1 => any::<usize>().prop_map(Damage::Zero),
        1 => Just(Damage::Remove),
    ]
}

fn inflict(path: &Path, damage: &Damage) {
    let mut bytes = fs::read(path).unwrap();
    let length = bytes.len().max(1);
    match damage {
        Damage::Flip(at, bits) => {
            bytes.iter_mut().skip(at % length).take(1).for_each(|b| *b ^= bits)
        }
        Damage::Cut(at) => bytes.truncate(at % length),
        Damage::Zero(at) => bytes.iter_mut().skip(at % length).take(4096).for_each(|b| *b = 0),
        Damage::Remove => return fs::remove_file(path).unwrap(),
    }
    fs::write(path, bytes).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever is wrong with its files, the index answers correctly or is rebuilt.
    #[test]
    fn a_damaged_index_is_never_wrong(which in any::<usize>(), damage in damage()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let records = records(700, 5);
            world.append(&records);
            drop(world.audit().await);
            let files = files(&world.index_dir());
            inflict(&files[which % files.len()], &damage);
            let audit = world.audit().await;
            // The query itself may find the damage.
            loop {
                let ip = IpAddr::from([10, 0, 0, 1]);
                let mut rebuilding = false;
                for ip in (0..40u8).map(|last| IpAddr::from([10, 0, 0, last])).chain([ip]) {
                    match audit.who(ip, Revision(700), Revision(0), usize::MAX) {
                        Ok(page) => assert_eq!(page.items, tenures(ip, &records)),
                        Err(AuditError::Rebuilding { .. }) => rebuilding = true,
                        Err(error) => panic!("{error}"),
                    }
                }
                if !rebuilding { break; }
                settled(&audit, Revision(700)).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            check(&audit, &records);
        });
    }
}

/// An unreadable history is reported as such, at once and every time, and not as an index that is being rebuilt;
/// queries on the indexed part are answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_history_is_no_index_that_is_built() {
    let world = World::new();
    let records = records(400, 3);
    world.append(&records[..200]);
    let World { dir, history } = world;
    drop(history);
    // The single middle segment, with intact header and footer: its damage shows only when it is read.
    let mut segments: Vec<_> = fs::read_dir(dir.path().join("history"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "lz4"))
        .collect();
    segments.sort();
    let hurt = &segments[segments.len() / 2];
    let mut bytes = fs::read(hurt).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 0xff;
    fs::write(hurt, bytes).unwrap();

    let options = HistoryOptions { segment_bytes: 4096 };
    let history = History::open(&dir.path().join("history"), options).unwrap();
    let audit = Audit::with_tail(history.clone(), dir.path(), 100, 20).unwrap();
    let last = history.last().0;
    settled(&audit, last).await;
    let ip = IpAddr::from([10, 0, 0, 0]);
    for _ in 0..3 {
        let refused = audit.who(ip, last, Revision(0), usize::MAX).unwrap_err();
        let AuditError::Stuck(error) = refused else { panic!("{refused}") };
        assert!(matches!(*error, HistoryError::Damaged { .. }), "{error}");
    }
    let damage = history.damage().unwrap();
    assert!(damage.contains(&hurt.file_name().unwrap().to_string_lossy().into_owned()), "{damage}");
    // The indexed part is answered while the indexer retries.
    assert!(audit.who(ip, Revision(5), Revision(0), usize::MAX).is_ok());
}

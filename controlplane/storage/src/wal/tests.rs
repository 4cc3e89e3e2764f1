//! Compares the log with a model, and damages it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use bytes::Bytes;
use proptest::prelude::*;

use super::{Owner, Recovered, Wal, WalError, WalOptions};

const TINY: WalOptions = WalOptions { segment_bytes: 4096, mark: None, owner: None };

/// Runs `ask` with a `Done` and waits for its result.
fn wait(ask: impl FnOnce(super::Done)) -> std::io::Result<()> {
    let (tell, told) = mpsc::channel();
    ask(Box::new(move |outcome| tell.send(outcome).unwrap()));
    told.recv().unwrap()
}

fn payload(index: u64, length: usize) -> Bytes {
    let mut bytes = vec![u8::try_from(index % 251).unwrap(); length];
    for (byte, stamp) in bytes.iter_mut().zip(index.to_le_bytes()) {
        *byte = stamp;
    }
    bytes.into()
}

fn append(wal: &Wal, indexes: std::ops::Range<u64>, length: usize) {
    let entries = indexes.map(|index| (index, payload(index, length))).collect();
    wait(|done| wal.append(entries, done)).unwrap();
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|e| e == "wal")).collect();
    files.sort();
    files
}

fn everything(wal: &Wal, found: &Recovered) -> Vec<(u64, Bytes)> {
    wal.read(found.first, u64::MAX, usize::MAX).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        count: u64,
        length: usize,
    },
    Vote(u8),
    /// Truncates to this many entries before the end (negative: after it).
    Truncate(i64),
    TruncateAll,
    Purge(i64),
    Reopen,
    Read {
        skip: u64,
        count: u64,
        bytes: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..20_u64, 0..700_usize).prop_map(|(count, length)| Step::Append { count, length }),
        1 => any::<u8>().prop_map(Step::Vote),
        2 => (-3..15_i64).prop_map(Step::Truncate),
        1 => Just(Step::TruncateAll),
        2 => (-3..25_i64).prop_map(Step::Purge),
        2 => Just(Step::Reopen),
        3 => (0..30_u64, 0..30_u64, 0..5000_usize)
            .prop_map(|(skip, count, bytes)| Step::Read { skip, count, bytes }),
    ]
}

/// A simple in-memory log.
#[derive(Default)]
struct Model {
    vote: Option<Bytes>,
    purged: Option<(u64, Bytes)>,
    first: u64,
    entries: Vec<(u64, Bytes)>,
    /// Makes payloads of the same index differ.
    writes: u64,
}

impl Model {
    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn recovered(&self) -> Recovered {
        Recovered {
            vote: self.vote.clone(),
            purged: self.purged.clone(),
            first: self.first,
            last: self.entries.last().map(|(index, _)| *index),
        }
    }

    fn append(&mut self, count: u64, length: usize) -> Vec<(u64, Bytes)> {
        let next = self.next();
        let new: Vec<_> = (next..next + count)
            .map(|index| {
                self.writes += 1;
                (index, payload(self.writes, length))
            })
            .collect();
        self.entries.extend_from_slice(&new);
        new
    }

    fn truncate_after(&mut self, last: Option<u64>) {
        self.entries.retain(|(index, _)| last.is_some_and(|last| *index <= last));
    }

    fn purge(&mut self, upto: u64, marker: &Bytes) {
        if self.purged.as_ref().is_none_or(|(have, _)| upto > *have) {
            self.purged = Some((upto, marker.clone()));
            self.entries.retain(|(index, _)| *index > upto);
            self.first = upto + 1;
        }
    }

    fn read(&self, from: u64, to: u64, max_bytes: usize) -> Vec<(u64, Bytes)> {
        let mut bytes = 0;
        let asked = self.entries.iter().filter(|(index, _)| (from..to).contains(index));
        asked
            .take_while(|(index, entry)| {
                bytes += entry.len();
                bytes <= max_bytes || *index == from
            })
            .cloned()
            .collect()
    }
}

fn run(steps: &[Step]) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::default();
    let (mut wal, _) = Wal::open(dir.path(), TINY).unwrap();
    for step in steps {
        match *step {
            Step::Append { count, length } => {
                let entries = model.append(count, length);
                wait(|done| wal.append(entries, done)).unwrap();
            }
            Step::Vote(byte) => {
                let vote = Bytes::from(vec![byte; 20]);
                model.vote = Some(vote.clone());
                wait(|done| wal.save_vote(vote, done)).unwrap();
            }
            Step::Truncate(back) => {
                let last = model.next().checked_add_signed(-back);
                model.truncate_after(last);
                wait(|done| wal.truncate_after(last, done)).unwrap();
            }
            Step::TruncateAll => {
                model.truncate_after(None);
                wait(|done| wal.truncate_after(None, done)).unwrap();
            }
            Step::Purge(back) => {
                let upto = model.next().saturating_add_signed(-back);
                let marker = Bytes::from(upto.to_le_bytes().to_vec());
                model.purge(upto, &marker);
                wait(|done| wal.purge(upto, marker, done)).unwrap();
            }
            Step::Reopen => {
                drop(wal);
                let (reopened, found) = Wal::open(dir.path(), TINY).unwrap();
                prop_assert_eq!(&found, &model.recovered());
                wal = reopened;
            }
            Step::Read { skip, count, bytes } => {
                let from = model.first + skip;
                let read = wal.read(from, from + count, bytes).unwrap();
                prop_assert_eq!(read, model.read(from, from + count, bytes));
            }
        }
    }
    prop_assert_eq!(wal.read(model.first, u64::MAX, usize::MAX).unwrap(), model.entries);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn behaves_like_the_model(steps in proptest::collection::vec(step(), 1..60)) {
        run(&steps)?;
    }
}

/// Flips one bit of a log: the log opens with everything, or refuses and names the place.
fn flip(at: usize, bit: u8) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), TINY).unwrap();
    append(&wal, 1..30, 200);
    wait(|done| wal.save_vote("vote".into(), done)).unwrap();
    append(&wal, 30..40, 100);
    append(&wal, 40..41, 100);
    drop(wal);
    let files = segments(dir.path());
    let total: u64 = files.iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    let mut offset = at % usize::try_from(total).unwrap();
    let mut flipped = None;
    for file in files {
        let mut bytes = fs::read(&file).unwrap();
        if offset < bytes.len() {
            bytes[offset] ^= 1 << bit;
            fs::write(&file, bytes).unwrap();
            flipped = Some(file);
            break;
        }
        offset -= bytes.len();
    }
    match Wal::open(dir.path(), TINY) {
        Ok((wal, found)) => {
            prop_assert_eq!(&found.vote, &Some(Bytes::from("vote")));
            let want: Vec<_> =
                (1..41).map(|i| (i, payload(i, if i < 30 { 200 } else { 100 }))).collect();
            prop_assert_eq!(everything(&wal, &found), want);
        }
        Err(WalError::Damaged { file, offset: found, .. }) => {
            prop_assert_eq!(Some(file), flipped);
            prop_assert!(found <= offset as u64, "{} is after {}", found, offset);
        }
        Err(other) => return Err(TestCaseError::fail(format!("{other:?}"))),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_flipped_bit_never_loses_an_acknowledged_entry(at in any::<usize>(), bit in 0..8_u8) {
        flip(at, bit)?;
    }
}

#[test]
fn a_file_that_lost_its_end_is_refused() {
    for (which, keep) in [(0, 0), (0, 30), (0, 3000), (1, 100), (1, 2000), (2, 60), (2, 4095)] {
        let dir = tempfile::tempdir().unwrap();
        let (wal, _) = Wal::open(dir.path(), TINY).unwrap();
        for start in [1, 13, 25] {
            append(&wal, start..start + 12, 250);
        }
        drop(wal);
        let files = segments(dir.path());
        assert_eq!(files.len(), 3);
        let file = fs::OpenOptions::new().write(true).open(&files[which]).unwrap();
        file.set_len(keep).unwrap();
        let error = Wal::open(dir.path(), TINY).err().unwrap();
        let text = error.to_string();
        assert!(matches!(error, WalError::Damaged { .. }), "{text}");
        assert!(text.contains(files[which].to_str().unwrap()), "{text}");
    }
}

#[test]
fn a_missing_segment_is_refused_and_nothing_is_removed() {
    for which in [0, 1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let (wal, _) = Wal::open(dir.path(), TINY).unwrap();
        for start in [1, 13, 25] {
            append(&wal, start..start + 12, 250);
        }
        drop(wal);
        let files = segments(dir.path());
        fs::remove_file(&files[which]).unwrap();
        let error = Wal::open(dir.path(), TINY).err().unwrap().to_string();
        assert!(error.contains(files[which].to_str().unwrap()), "{error}");
        assert_eq!(segments(dir.path()).len(), 2);
    }
}

/// The segments alone do not show that the end is lost: they look as if it had never been there.
#[test]
fn a_log_that_lost_its_end_is_refused() {
    let make = || {
        let dir = tempfile::tempdir().unwrap();
        let (wal, _) = Wal::open(dir.path(), TINY).unwrap();
        append(&wal, 1..5, 100);
        (dir, wal)
    };
    let refused = |dir: &Path, file: &Path| {
        let error = Wal::open(dir, TINY).err().unwrap();
        assert!(matches!(error, WalError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
    };
    // An older copy of the file.
    let (dir, wal) = make();
    let file = segments(dir.path()).remove(0);
    let older = fs::read(&file).unwrap();
    append(&wal, 5..9, 100);
    drop(wal);
    fs::write(&file, older).unwrap();
    refused(dir.path(), &file);
    // Zeros from the first group on: a clean end.
    let (dir, wal) = make();
    drop(wal);
    let file = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&file).unwrap();
    bytes[200..].fill(0);
    fs::write(&file, bytes).unwrap();
    refused(dir.path(), &file);
    // All segments; and the whole directory, with the mark elsewhere.
    let (dir, wal) = make();
    drop(wal);
    let file = segments(dir.path()).remove(0);
    fs::remove_file(&file).unwrap();
    refused(dir.path(), &file);
    let dir = tempfile::tempdir().unwrap();
    let (log, mark) = (dir.path().join("log"), dir.path().join("mark"));
    let options = || WalOptions { mark: Some(mark.clone()), ..TINY };
    drop(Wal::open(&log, options()).unwrap());
    fs::remove_dir_all(&log).unwrap();
    assert!(matches!(Wal::open(&log, options()), Err(WalError::Damaged { .. })));
}

/// The mark is only additional evidence: if it is missing or damaged, the log opens with what it has.
#[test]
fn a_damaged_mark_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("MARK");
    let (wal, _) = Wal::open(dir.path(), TINY).unwrap();
    append(&wal, 1..5, 100);
    append(&wal, 5..9, 100);
    drop(wal);
    let whole = fs::read(&mark).unwrap();
    for damage in [vec![], vec![0; whole.len()], whole[..100].to_vec(), whole.repeat(2)] {
        fs::write(&mark, damage).unwrap();
        let (_, found) = Wal::open(dir.path(), TINY).unwrap();
        assert_eq!(found.last, Some(8));
        assert!(super::highwater::read(&mark).unwrap().is_some());
    }
}

/// Without its mark a log cannot notice a lost end: that is told once, and the mark is written again.
#[test]
fn a_missing_mark_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("MARK");
    let (wal, _) = Wal::open(dir.path(), TINY).unwrap();
    assert_eq!(wal.missing_mark(), None, "a new log");
    append(&wal, 1..5, 100);
    drop(wal);
    fs::remove_file(&mark).unwrap();
    for missing in [Some(&*mark), None] {
        let (wal, found) = Wal::open(dir.path(), TINY).unwrap();
        assert_eq!((found.last, wal.missing_mark()), (Some(4), missing));
    }
}

/// Damage to entries that are read later is detected, too.
#[test]
fn a_damaged_entry_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), TINY).unwrap();
    append(&wal, 1..4, 300);
    let file = &segments(dir.path())[0];
    let mut bytes = fs::read(file).unwrap();
    let at = bytes.windows(32).position(|window| window == [2; 32]).unwrap();
    bytes[at] = 9;
    fs::write(file, bytes).unwrap();
    assert!(matches!(wal.read(1, 4, usize::MAX), Err(WalError::Damaged { .. })));
    assert_eq!(wal.read(1, 2, usize::MAX).unwrap(), [(1, payload(1, 300))]);
}

#[test]
fn a_torn_tail_is_cut_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), TINY).unwrap();
    append(&wal, 1..3, 100);
    append(&wal, 3..9, 100);
    drop(wal);
    let file = segments(dir.path()).remove(0);
    // As if power had failed during the last write: no mark after it, one entry's bytes missing.
    let mut bytes = fs::read(&file).unwrap();
    let is_mark = |word: &&[u8]| **word == [0, 0, 0, 0, 2, 0, 0, 0];
    let mark = 8 * bytes.chunks(8).collect::<Vec<_>>().iter().rposition(is_mark).unwrap();
    bytes[mark..].fill(0);
    let hole = bytes.windows(8).position(|w| w == 5_u64.to_le_bytes()).unwrap();
    bytes[hole..hole + 40].fill(0);
    fs::write(&file, bytes).unwrap();
    // If it was acknowledged, this is damage; a power cut during the write leaves an older mark.
    assert!(matches!(Wal::open(dir.path(), TINY), Err(WalError::Damaged { .. })));
    fs::remove_file(dir.path().join("MARK")).unwrap();
    let (wal, found) = Wal::open(dir.path(), TINY).unwrap();
    assert_eq!(found.last, Some(4));
    // Together with its marks this takes exactly the space of entry 5: entry 6 would be next.
    append(&wal, 5..6, 56);
    drop(wal);
    // The entries behind the hole do not reappear.
    let (_, found) = Wal::open(dir.path(), TINY).unwrap();
    assert_eq!(found.last, Some(5));
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), TINY).unwrap();
    assert!(matches!(Wal::open(dir.path(), TINY), Err(WalError::Locked { .. })));
    drop(wal);
    assert!(Wal::open(dir.path(), TINY).is_ok());
}

#[test]
fn holes_and_purged_entries_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), TINY).unwrap();
    append(&wal, 7..10, 10);
    let refused = wait(|done| wal.append(vec![(11, Bytes::new())], done)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
    assert!(wal.failed().is_none());
    wait(|done| wal.purge(8, "m".into(), done)).unwrap();
    assert!(matches!(wal.read(8, 10, 100), Err(WalError::Purged { first: 9 })));
    assert_eq!(wal.read(9, 10, 0).unwrap(), [(9, payload(9, 10))]);
}

#[test]
fn the_last_handle_may_be_dropped_in_a_callback() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), TINY).unwrap();
    let (tell, told) = mpsc::channel();
    let held = wal.clone();
    let (go, wait_for_go) = mpsc::channel::<()>();
    let done = Box::new(move |outcome| {
        wait_for_go.recv().unwrap();
        drop(held);
        tell.send(outcome).unwrap();
    });
    wal.append(vec![(1, "a".into())], done);
    drop(wal);
    go.send(()).unwrap();
    told.recv().unwrap().unwrap();
}

/// Purged segments are recycled, and their old contents never show.
#[test]
fn purged_segments_go_away() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), TINY).unwrap();
    for start in (1..2000).step_by(10) {
        append(&wal, start..start + 10, 100);
        if start > 20 {
            wait(|done| wal.purge(start - 20, Bytes::new(), done)).unwrap();
        }
    }
    drop(wal);
    assert!(segments(dir.path()).len() <= 3, "{:?}", segments(dir.path()));
    let (wal, found) = Wal::open(dir.path(), TINY).unwrap();
    assert_eq!((found.first, found.last), (1972, Some(2000)));
    assert_eq!(everything(&wal, &found).len(), 29);
}

/// A log belongs to one replica: another replica's segments do not open; files without an owner do.
#[test]
fn another_ones_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let owned = |member, tag| WalOptions { owner: Some(Owner { member, tag: [tag; 12] }), ..TINY };
    let open = |options: WalOptions| {
        Wal::open(dir.path(), options).map(|(wal, recovered)| {
            let next = recovered.last.map_or(0, |last| last + 1);
            append(&wal, next..next + 40, 200);
            recovered.last
        })
    };
    // Without an owner it opens, and a segment that starts later records the owner.
    assert_eq!(open(TINY).unwrap(), None);
    assert_eq!(open(owned(2, 7)).unwrap(), Some(39));
    assert_eq!(open(owned(2, 7)).unwrap(), Some(79));
    for (member, tag) in [(3, 7), (2, 8)] {
        let refused = open(owned(member, tag)).unwrap_err();
        let WalError::Foreign { theirs: 2, ours, .. } = refused else { panic!("{refused}") };
        assert_eq!(ours, member);
        assert!(refused.to_string().contains("belongs to replica 2"), "{refused}");
    }
    // A reader without an owner opens it: `romanad recover` checks the owner itself.
    assert_eq!(open(TINY).unwrap(), Some(119));
}

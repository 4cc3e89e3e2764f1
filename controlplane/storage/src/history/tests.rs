//! The history: reopened, torn, compressed, damaged, and read during writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use romana_statemachine::{Actor, Digest, Event, Index, Millis, Record, Revision, event};

use super::{History, HistoryError, HistoryOptions};

pub(super) const SMALL: HistoryOptions = HistoryOptions { segment_bytes: 4096 };
const LARGE: HistoryOptions = HistoryOptions { segment_bytes: 1 << 30 };

/// `count` records that follow `last`.
pub(super) fn records(mut last: (Revision, Digest), count: u64) -> Vec<Record> {
    let mut make = || {
        let revision = last.0.next();
        let event = Event::TenantCreated(event::TenantCreated {
            id: format!("tenant-{revision}").into(),
            labels: [("number".to_owned(), revision.to_string())].into_iter().collect(),
        });
        let (at, actor) = (Millis(revision.get() * 10), Actor::from("test"));
        let index = Index(revision.get() + 7);
        let digest = Record::chain(&last.1, revision, index, at, &actor, &event);
        last = (revision, digest);
        Record { revision, index, at, actor, event, digest }
    };
    (0..count).map(|_| make()).collect()
}

pub(super) fn start() -> (Revision, Digest) {
    (Revision(0), Digest::default())
}

pub(super) fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|e| e == ending)).collect();
    paths.sort();
    paths
}

pub(super) fn all(history: &History) -> Vec<Record> {
    history.read(history.oldest(), usize::MAX, usize::MAX).unwrap()
}

#[test]
fn what_is_appended_is_read_now_and_after_reopening() {
    for options in [SMALL, LARGE] {
        let dir = tempfile::tempdir().unwrap();
        let want = records(start(), 500);
        let history = History::open(dir.path(), options.clone()).unwrap();
        assert_eq!((history.last(), history.oldest()), (start(), Revision(1)));
        assert!(all(&history).is_empty());
        for part in want.chunks(7) {
            history.append(part).unwrap();
        }
        assert_eq!(all(&history), want);
        drop(history);
        let history = History::open(dir.path(), options).unwrap();
        assert_eq!(history.last(), (Revision(500), want[499].digest));
        assert_eq!(all(&history), want);
        assert_eq!(history.verify().unwrap(), history.last());
    }
}

/// Without its beginning on record a history cannot notice a lost first segment: that is told once.
#[test]
fn a_missing_origin_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let origin = dir.path().join("ORIGIN");
    let history = History::open(dir.path(), SMALL).unwrap();
    assert_eq!(history.missing_origin(), None, "a new history");
    drop(history);
    fs::remove_file(&origin).unwrap();
    let history = History::open(dir.path(), SMALL).unwrap();
    assert_eq!(history.missing_origin(), None, "nothing can be missing");
    history.append(&records(start(), 10)).unwrap();
    drop(history);
    fs::remove_file(&origin).unwrap();
    for missing in [Some(&*origin), None] {
        let history = History::open(dir.path(), SMALL).unwrap();
        assert_eq!((history.last().0, history.missing_origin()), (Revision(10), missing));
    }
}

#[test]
fn full_segments_are_compressed_and_read_at_any_revision() {
    let dir = tempfile::tempdir().unwrap();
    let want = records(start(), 2000);
    let history = History::open(dir.path(), HistoryOptions { segment_bytes: 64 << 10 }).unwrap();
    for part in want.chunks(50) {
        history.append(part).unwrap();
    }
    // Dropping waits for the compression of full segments.
    drop(history);
    assert!(files(dir.path(), "lz4").len() >= 2);
    assert_eq!(files(dir.path(), "log").len(), 1);
    let history = History::open(dir.path(), SMALL).unwrap();
    for from in (1..=2000).step_by(37) {
        let at = usize::try_from(from).unwrap() - 1;
        assert_eq!(
            history.read(Revision(from), 100, usize::MAX).unwrap(),
            want[at..2000.min(at + 100)]
        );
    }
    assert_eq!(history.read(Revision(900), 10, 0).unwrap(), want[899..900]);
    assert!(history.read(Revision(2001), 10, 10).unwrap().is_empty());
    assert!(history.read(Revision(3000), 10, 10).unwrap().is_empty());
}

#[test]
fn known_records_are_compared_and_gaps_refused() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::open(dir.path(), SMALL).unwrap();
    let want = records(start(), 100);
    history.append(&want[..60]).unwrap();
    history.append(&want[20..80]).unwrap();
    history.append(&want).unwrap();
    assert_eq!(all(&history), want);
    let mut other = want[50..].to_vec();
    // A chain: once it differs, it differs from there on.
    for record in &mut other[3..] {
        record.digest = Digest::of(format!("another {}", record.revision).as_bytes());
    }
    let error = history.append(&other).unwrap_err();
    assert!(matches!(error, HistoryError::Diverged { revision: Revision(54) }), "{error}");
    let gap = records((Revision(101), Digest::default()), 1);
    let error = history.append(&gap).unwrap_err();
    assert!(
        matches!(error, HistoryError::Gap { have: Revision(100), got: Revision(102) }),
        "{error}"
    );
    assert_eq!(all(&history), want);
}

#[test]
fn a_torn_tail_is_cut_and_can_be_appended_again() {
    let want = records(start(), 50);
    let dir = tempfile::tempdir().unwrap();
    let history = History::open(dir.path(), LARGE).unwrap();
    history.append(&want[..20]).unwrap();
    history.sync().unwrap();
    history.append(&want[20..]).unwrap();
    drop(history);
    let file = files(dir.path(), "log").remove(0);
    let whole = fs::read(&file).unwrap();
    let synced = super::tests::end_of(&whole, 20);
    for cut in (synced + 24..whole.len()).step_by(61) {
        // Both kinds of loss: the end of the file, and pages in the middle.
        let mut holed = whole.clone();
        holed[cut..whole.len().min(cut + 90)].fill(0);
        for torn in [whole[..cut].to_vec(), holed] {
            fs::write(&file, torn).unwrap();
            let history = History::open(dir.path(), LARGE).unwrap();
            assert!(history.last().0 >= 20);
            history.append(&want).unwrap();
            assert_eq!(all(&history), want);
            assert_eq!(history.verify().unwrap().0, 50);
        }
    }
}

/// Offset of the end of record `revision` in an open segment.
fn end_of(bytes: &[u8], revision: u64) -> usize {
    let mut at = super::frame::HEADER;
    let mut seen = 0;
    while seen < revision {
        let (item, end) = super::frame::item(bytes, at).unwrap();
        seen += u64::from(matches!(item, super::frame::Item::Record(_)));
        at = end;
    }
    at
}

#[test]
fn damage_to_what_was_synced_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::open(dir.path(), LARGE).unwrap();
    history.append(&records(start(), 50)).unwrap();
    history.sync().unwrap();
    drop(history);
    let file = files(dir.path(), "log").remove(0);
    let whole = fs::read(&file).unwrap();
    let end = end_of(&whole, 50);
    for at in (0..end).step_by(17) {
        // A mark written at open covers less than the last one, and may be damaged, too.
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&file, &bytes).unwrap();
        match History::open(dir.path(), LARGE) {
            Ok(history) => panic!("byte {at}: {:?}", history.last()),
            Err(HistoryError::Damaged { file: named, offset, .. }) => {
                assert_eq!(named, file);
                assert!(offset <= at as u64);
            }
            Err(other) => panic!("{other:?}"),
        }
        assert_eq!(fs::read(&file).unwrap(), bytes, "a refusal changes nothing");
    }
}

#[test]
fn damage_to_a_closed_segment_is_refused_at_open_or_at_the_read() {
    let dir = tempfile::tempdir().unwrap();
    let want = records(start(), 300);
    let history = History::open(dir.path(), SMALL).unwrap();
    want.chunks(10).for_each(|part| history.append(part).unwrap());
    drop(history);
    let file = files(dir.path(), "lz4").remove(1);
    let whole = fs::read(&file).unwrap();
    for at in (0..whole.len()).step_by(29) {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        fs::write(&file, &bytes).unwrap();
        let checked = History::open(dir.path(), SMALL).and_then(|history| history.verify());
        match checked {
            Err(HistoryError::Damaged { file: named, .. }) => assert_eq!(named, file),
            other => panic!("byte {at}: {other:?}"),
        }
    }
    fs::remove_file(&file).unwrap();
    assert!(matches!(History::open(dir.path(), SMALL), Err(HistoryError::Damaged { .. })));
}

/// A power cut before the previous segment was synced: only a prefix of the history is left.
#[test]
fn later_open_segments_go_with_a_torn_earlier_one() {
    let want = records(start(), 200);
    let dir = tempfile::tempdir().unwrap();
    let history = History::open(dir.path(), LARGE).unwrap();
    history.append(&want[..100]).unwrap();
    drop(history);
    let other = tempfile::tempdir().unwrap();
    let history = History::open(other.path(), LARGE).unwrap();
    history.reset(Revision(100), want[99].digest).unwrap();
    history.append(&want[100..]).unwrap();
    drop(history);
    let second = files(other.path(), "log").remove(0);
    let copy = dir.path().join(second.file_name().unwrap());
    fs::copy(&second, &copy).unwrap();
    let first = files(dir.path(), "log").remove(0);
    let whole = fs::read(&first).unwrap();
    fs::write(&first, &whole[..whole.len() / 2]).unwrap();
    let history = History::open(dir.path(), LARGE).unwrap();
    assert!(history.last().0 < 100 && !copy.exists());
    history.append(&want).unwrap();
    assert_eq!(all(&history), want);
}

#[test]
fn a_reset_begins_after_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::open(dir.path(), SMALL).unwrap();
    let want = records(start(), 300);
    history.append(&want[..100]).unwrap();
    history.reset(Revision(200), want[199].digest).unwrap();
    assert_eq!(
        (history.last(), history.oldest()),
        ((Revision(200), want[199].digest), Revision(201))
    );
    history.append(&want[200..]).unwrap();
    let error = history.read(Revision(200), 1, 1).unwrap_err();
    assert!(matches!(error, HistoryError::Compacted { oldest: Revision(201) }), "{error}");
    drop(history);
    let history = History::open(dir.path(), SMALL).unwrap();
    assert_eq!(all(&history), want[200..]);
    assert_eq!(history.verify().unwrap(), (Revision(300), want[299].digest));
}

/// The first segment may start anywhere, so the beginning of the history is recorded separately.
#[test]
fn a_missing_first_segment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::open(dir.path(), SMALL).unwrap();
    for part in records(start(), 300).chunks(30) {
        history.append(part).unwrap();
    }
    drop(history);
    let mut all: Vec<_> = files(dir.path(), "log");
    all.extend(files(dir.path(), "lz4"));
    all.sort();
    assert!(all.len() > 2);
    fs::remove_file(&all[0]).unwrap();
    let error = History::open(dir.path(), SMALL).err().unwrap();
    assert!(matches!(error, HistoryError::Damaged { .. }), "{error}");
    all.iter().skip(1).for_each(|file| fs::remove_file(file).unwrap());
    let error = History::open(dir.path(), SMALL).err().unwrap();
    assert!(matches!(error, HistoryError::Damaged { .. }), "{error}");
}

#[test]
fn readers_do_not_wait_for_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::open(dir.path(), SMALL).unwrap();
    let want = records(start(), 3000);
    thread::scope(|scope| {
        for reader in 0..3_u64 {
            let (history, want) = (history.clone(), &want);
            scope.spawn(move || {
                let mut seen = 0_usize;
                while seen < want.len() {
                    let from = seen as u64 + 1;
                    let read = history.read(Revision(from), 40 + seen % 7, 10_000).unwrap();
                    assert_eq!(read, want[seen..seen + read.len()], "reader {reader}");
                    seen += read.len();
                    thread::yield_now();
                }
            });
        }
        for (count, part) in want.chunks(11).enumerate() {
            history.append(part).unwrap();
            if count % 20 == 0 {
                history.sync().unwrap();
            }
        }
    });
}

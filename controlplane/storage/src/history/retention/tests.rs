//! Purges at any revision, interrupted at any moment, with concurrent reads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use proptest::prelude::*;
use romana_statemachine::{Record, Revision};
use tempfile::TempDir;

use super::super::tests::{SMALL, all, files, records, start};
use super::super::{HistoryError, HistoryOptions};
use super::*;

/// A history of several closed segments and an open one.
fn history(count: u64, segment_bytes: u64) -> (TempDir, History, Vec<Record>) {
    let dir = tempfile::tempdir().unwrap();
    let history = History::open(dir.path(), HistoryOptions { segment_bytes }).unwrap();
    let want = records(start(), count);
    want.chunks(7).for_each(|part| history.append(part).unwrap());
    (dir, history, want)
}

fn reopened(dir: &Path) -> History {
    History::open(dir, SMALL).unwrap()
}

/// Checks that the history is a suffix of `want`, and that its chain verifies.
fn check(history: &History, want: &[Record]) {
    let oldest = history.oldest();
    let (before, digest) = history.start();
    assert_eq!(before.next(), oldest);
    let at = usize::try_from(before.get()).unwrap();
    assert_eq!(digest, at.checked_sub(1).map_or_else(Digest::default, |at| want[at].digest));
    assert_eq!(all(history), want[at..]);
    assert_eq!(history.verify().unwrap(), history.last());
    if before > 0 {
        let error = history.read(before, 10, 1000).unwrap_err();
        assert!(matches!(error, HistoryError::Compacted { oldest: o } if o == oldest), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whole_segments_go_and_the_rest_verifies(
        count in 1..400_u64,
        segment_bytes in 500..8000_u64,
        purges in prop::collection::vec(0..450_u64, 1..4),
    ) {
        let (dir, history, want) = history(count, segment_bytes);
        let open = history.segments().unwrap().pop().unwrap();
        let mut least = 1;
        for revision in purges {
            let before = history.segments().unwrap();
            let oldest = history.purge_before(Revision(revision)).unwrap();
            prop_assert_eq!(oldest, history.oldest());
            prop_assert!(oldest >= least && oldest <= (revision + 1).max(least));
            prop_assert!(oldest <= open.first);
            // Everything that may be purged was.
            let after = history.segments().unwrap();
            prop_assert!(after.len() == 1 || after[0].last > revision);
            let place = |segments: &[SegmentInfo]| -> Vec<_> {
                segments.iter().map(|it| (it.first, it.last, it.began, it.ended)).collect()
            };
            prop_assert!(place(&before).ends_with(&place(&after)));
            least = oldest.get();
            check(&history, &want);
        }
        drop(history);
        let history = reopened(dir.path());
        prop_assert_eq!(history.oldest(), least);
        check(&history, &want);
        history.append(&want).unwrap();
        history.append(&records((Revision(count), want.last().unwrap().digest), 5)).unwrap();
        prop_assert_eq!(history.verify().unwrap().0, count + 5);
    }
}

#[test]
fn segments_say_what_they_hold() {
    let (_dir, history, want) = history(300, 4096);
    for _ in 0..2 {
        let segments = history.segments().unwrap();
        assert!(segments.len() > 3);
        let mut next = 1;
        for segment in &segments {
            assert_eq!(segment.first, next);
            let first = want.get(usize::try_from(next).unwrap() - 1);
            assert_eq!(segment.began, first.map(|record| record.at));
            assert!(segment.bytes >= HEADER as u64);
            next = segment.last.next().get();
        }
        for pair in segments.windows(2) {
            assert!(pair[0].ended.is_some() && pair[0].ended >= pair[0].began);
        }
        assert_eq!(segments.last().unwrap().ended, None);
        assert_eq!(next, 301);
    }
    // An open segment can be closed early; an empty one stays open.
    let count = history.segments().unwrap().len();
    history.close_segment().unwrap();
    history.close_segment().unwrap();
    let segments = history.segments().unwrap();
    assert!(segments.len() <= count + 1);
    assert_eq!(segments.last().unwrap().began, None);
    assert_eq!(segments[segments.len() - 2].ended, Some(want[299].at));
    assert_eq!(history.purge_before(Revision(u64::MAX)).unwrap(), 301);
    check(&history, &want);
    assert_eq!(history.start(), (Revision(300), want[299].digest));
}

/// A crash between two removals, in either form of a segment.
#[test]
fn an_interrupted_purge_leaves_a_shorter_history() {
    let (dir, history, want) = history(300, 4096);
    drop(history);
    let packed = files(dir.path(), PACKED);
    assert!(packed.len() > 3);
    // The new beginning is recorded before the removal.
    origin::note(
        dir.path(),
        Start { first: Revision(want.len() as u64), previous: Digest::default() },
    )
    .unwrap();
    for path in &packed {
        fs::remove_file(path).unwrap();
        // The packer had not yet removed the open form.
        fs::write(path.with_extension(PARTIAL), b"half").unwrap();
        let history = reopened(dir.path());
        check(&history, &want);
        assert_eq!(files(dir.path(), PARTIAL).len(), 0);
    }
}

fn names(dir: &Path) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    names
}

/// A crash at any moment of a reset: before the marker exists nothing has changed, after it the next
/// open completes the reset.
#[test]
fn an_interrupted_reset_is_finished_or_has_not_begun() {
    let (dir, history, want) = history(300, 4096);
    drop(history);
    let far = records((Revision(300), want[299].digest), 200);
    let begin = Start { first: Revision(451), previous: far[149].digest };
    let count = names(dir.path()).len();
    for removed in 0..=count {
        for created in [false, true] {
            let copy = tempfile::tempdir().unwrap();
            for path in names(dir.path()) {
                fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
            }
            // The marker does not have its final name yet.
            fs::write(copy.path().join("00000000000000000451.tmp"), b"half").unwrap();
            check(&reopened(copy.path()), &want);
            announce(copy.path(), begin).unwrap();
            // In any order, because the directory was not synced in between.
            let (first, last) = (removed % 3, names(dir.path()));
            for path in last.iter().cycle().skip(first).take(removed) {
                _ = fs::remove_file(copy.path().join(path.file_name().unwrap()));
            }
            if created {
                Raw::create(copy.path(), begin).unwrap();
            }
            let history = reopened(copy.path());
            assert_eq!(history.last(), (Revision(450), begin.previous));
            assert_eq!(history.oldest(), 451);
            assert_eq!(names(copy.path()).len(), 2, "the segment and the note of its start");
            history.append(&far).unwrap();
            assert_eq!(all(&history), far[150..]);
        }
    }
}

#[test]
fn a_damaged_announcement_is_refused() {
    let (dir, history, want) = history(100, 4096);
    drop(history);
    let marker =
        announce(dir.path(), Start { first: Revision(200), previous: Digest::of(b"x") }).unwrap();
    let whole = fs::read(&marker).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        for bytes in [bytes, whole[..at].to_vec()] {
            fs::write(&marker, &bytes).unwrap();
            let error = History::open(dir.path(), SMALL).map(|_| ()).unwrap_err();
            assert!(matches!(error, HistoryError::Damaged { .. }), "{error}");
        }
    }
    fs::remove_file(&marker).unwrap();
    check(&reopened(dir.path()), &want);
}

#[test]
fn readers_get_what_is_there_or_are_told_that_it_is_gone() {
    let (_dir, history, want) = history(3000, 4096);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for reader in 0..3_u64 {
            let (history, want, done) = (history.clone(), &want, &done);
            scope.spawn(move || {
                let mut next = 1 + reader * 100;
                while !done.load(Ordering::Relaxed) {
                    match history.read(Revision(next), 200, 50_000) {
                        Ok(read) => {
                            let at = usize::try_from(next).unwrap() - 1;
                            assert_eq!(read, want[at..at + read.len()], "reader {reader}");
                            next = if read.is_empty() { 1 } else { next + read.len() as u64 };
                        }
                        Err(HistoryError::Compacted { oldest }) => {
                            assert!(oldest > next, "{oldest} {next}");
                            next = oldest.get();
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        for revision in (0..3000).step_by(60) {
            history.purge_before(Revision(revision)).unwrap();
            thread::yield_now();
        }
        done.store(true, Ordering::Relaxed);
    });
    check(&history, &want);
}

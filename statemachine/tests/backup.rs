//! The backup format: valid backups are read, everything else is refused. The bytes under `wire/backup` are frozen;
//! `UPDATE=1 cargo test` writes missing files and never changes an existing one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use proptest::prelude::*;
use romana_statemachine::backup::{
    BackupError, Check, Checked, End, FRAME_BYTES_MAX, Header, Origin, Part, Reader, Writer, end_of,
};
use romana_statemachine::command::{RaiseVersion, TenantSpec};
use romana_statemachine::{
    Actor, Command, Digest, Entry, Index, Labels, Millis, Position, Proposal, Record, Revision,
    State, Term,
};
use romana_testing::hex;

/// A state and its history: a cluster with tenants and no topology.
fn state(tenants: u64) -> (State, Vec<Record>) {
    let (mut state, mut history) = (State::new(), Vec::new());
    let raise = Command::RaiseVersion(RaiseVersion { version: 2 });
    let tenant = |n: u64| {
        let labels = Labels::from([("team".into(), format!("team-{}", n % 7))]);
        Command::CreateTenant(TenantSpec { id: format!("tenant-{n}").into(), labels })
    };
    for (index, command) in (1..).zip(std::iter::once(raise).chain((0..tenants).map(tenant))) {
        let proposals = vec![Proposal { actor: Actor::from("test"), command }];
        let entry = Entry { at: Millis(1_000 + index), proposals };
        history.extend(state.apply(Position { term: Term(1), index: Index(index) }, &entry).1);
    }
    (state, history)
}

fn origin() -> Origin {
    Origin {
        program: "0.1.0".into(),
        cluster: "c1".into(),
        replica: 2,
        taken_at: Millis(1_700_000_000_000),
        recovered: false,
    }
}

/// A backup of the state with the records from `skip` on, in pieces of these sizes.
fn backup(
    (state, history): &(State, Vec<Record>),
    skip: usize,
    piece: usize,
    batch: usize,
) -> (Vec<u8>, End) {
    let snapshot = state.snapshot();
    let previous = history[..skip].last().map_or_else(Digest::default, |record| record.digest);
    let from = (Revision(skip as u64 + 1), previous);
    let header = Header::of(state, snapshot.len(), origin(), from);
    let (mut writer, mut bytes) = Writer::begin(&header);
    for piece in snapshot.chunks(piece) {
        bytes.extend(writer.state(piece).unwrap());
    }
    for batch in history[skip..].chunks(batch) {
        bytes.extend(writer.records(batch).unwrap());
    }
    let (rest, end) = writer.end().unwrap();
    bytes.extend(rest);
    (bytes, end)
}

/// Reads and checks a backup in pieces of this size.
fn read(bytes: &[u8], piece: usize) -> Result<Checked, BackupError> {
    let (mut reader, mut check) = (Reader::new(), Check::new());
    for piece in bytes.chunks(piece) {
        reader.push(piece);
        while let Some(part) = reader.part()? {
            check.part(&part)?;
        }
    }
    reader.finish()?;
    check.finish()
}

#[test]
fn what_is_written_is_read() {
    let source = state(300);
    let (bytes, end) = backup(&source, 0, 1000, 100);
    for piece in [1, 7, 4096, bytes.len()] {
        let read = read(&bytes, piece).unwrap();
        assert_eq!(read.end, end);
        assert_eq!(read.state.snapshot(), source.0.snapshot());
        assert!(read.replayed && read.header.is_complete());
        assert_eq!(read.header.records(), 301);
    }
    let (bytes, _) = backup(&source, 100, 1000, 100);
    let partial = read(&bytes, 64).unwrap();
    assert!(!partial.replayed);
    assert_eq!((partial.header.oldest, partial.header.records()), (Revision(101), 201));
    let (bytes, _) = backup(&source, 301, 1 << 20, 1);
    assert_eq!(read(&bytes, 64).unwrap().header.records(), 0);
    let (bytes, _) = backup(&state(0), 0, 1 << 20, 1);
    assert_eq!(read(&bytes, 64).unwrap().state.revision(), 1);
    let tail = |length: usize| &bytes[bytes.len() - length..];
    assert_eq!(end_of(tail(128), bytes.len() as u64), Some(read(&bytes, 64).unwrap().end));
    assert_eq!(end_of(tail(128), bytes.len() as u64 + 1), None);
    assert_eq!(end_of(tail(20), bytes.len() as u64), None);
}

#[test]
fn every_truncation_says_how_far_it_got() {
    let (bytes, _) = backup(&state(3), 0, 100, 2);
    for end in 0..bytes.len() {
        let error = read(&bytes[..end], 33).unwrap_err();
        let BackupError::Truncated { bytes: had, whole, .. } = error else {
            panic!("{end}: {error}");
        };
        assert_eq!(had, end as u64);
        assert!(whole <= had);
    }
    assert_eq!(
        read(b"", 1).unwrap_err(),
        BackupError::Truncated { bytes: 0, whole: 0, revision: Revision(0) }
    );
    assert_eq!(read(b"PK\x03\x04", 1).unwrap_err(), BackupError::NotBackup);
}

#[test]
fn every_flipped_bit_is_found() {
    let (bytes, _) = backup(&state(3), 0, 100, 2);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            let error = read(&damaged, 1 << 20).unwrap_err();
            if at >= 12 && !matches!(error, BackupError::Truncated { .. }) {
                assert!(matches!(error, BackupError::Damaged { .. }), "{at}: {error}");
            }
        }
    }
}

/// Where the frames of a backup start, and its end.
fn frames(bytes: &[u8]) -> Vec<usize> {
    let mut starts = vec![8];
    while let Some(length) = bytes.get(starts[starts.len() - 1]..).and_then(|rest| rest.get(..4)) {
        let length = u32::from_le_bytes(length.try_into().unwrap()) as usize;
        starts.push(starts[starts.len() - 1] + 13 + length);
    }
    starts
}

#[test]
fn parts_cannot_be_left_out_moved_or_added() {
    let (bytes, _) = backup(&state(20), 0, 200, 4);
    let starts = frames(&bytes);
    let part = |n: usize| &bytes[starts[n]..starts[n + 1]];
    let count = starts.len() - 1;
    let rebuilt = |order: &[usize]| {
        let mut all = bytes[..8].to_vec();
        order.iter().for_each(|n| all.extend_from_slice(part(*n)));
        all
    };
    let all: Vec<usize> = (0..count).collect();
    assert_eq!(rebuilt(&all), bytes);
    for left_out in 0..count - 1 {
        let order: Vec<usize> = all.iter().copied().filter(|n| *n != left_out).collect();
        assert!(read(&rebuilt(&order), 1 << 20).is_err(), "without {left_out}");
    }
    for at in 0..count - 1 {
        let mut order = all.clone();
        order.swap(at, at + 1);
        assert!(read(&rebuilt(&order), 1 << 20).is_err(), "{at} and the next swapped");
        order = all.clone();
        order.insert(at, at);
        assert!(read(&rebuilt(&order), 1 << 20).is_err(), "{at} twice");
    }
    let twice: Vec<u8> = bytes.iter().chain(&bytes).copied().collect();
    for piece in [1, 1 << 20] {
        let error = read(&twice, piece).unwrap_err();
        assert!(
            matches!(error, BackupError::Damaged { offset, .. } if offset == bytes.len() as u64)
        );
    }
}

#[test]
fn a_writer_refuses_what_a_reader_would() {
    let (state, history) = state(5);
    let snapshot = state.snapshot();
    let begin = |length| {
        Writer::begin(&Header::of(&state, length, origin(), (Revision(1), Digest::default()))).0
    };
    assert!(begin(snapshot.len()).end().is_err());
    assert!(begin(3).state(&snapshot).is_err());
    let mut writer = begin(snapshot.len());
    writer.state(&snapshot).unwrap();
    assert!(writer.records(&history[1..]).is_err());
    assert!(begin(FRAME_BYTES_MAX + 1).state(&vec![0; FRAME_BYTES_MAX + 1]).is_err());
}

#[test]
fn a_state_that_the_history_does_not_give_is_found() {
    let (_, history) = state(5);
    // A different state with the same revision and digest can only be forged: here the header has a wrong digest.
    let (good, _) = state(5);
    let snapshot = good.snapshot();
    let mut header = Header::of(&good, snapshot.len(), origin(), (Revision(1), Digest::default()));
    header.state_digest = Digest::of(b"another");
    let (mut writer, mut bytes) = Writer::begin(&header);
    bytes.extend(writer.state(&snapshot).unwrap());
    bytes.extend(writer.records(&history).unwrap());
    bytes.extend(writer.end().unwrap().0);
    assert!(matches!(read(&bytes, 1 << 20), Err(BackupError::Inconsistent { .. })));
}

fn frozen(name: &str, bytes: &[u8]) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/backup");
    romana_testing::frozen(&folder.join(name), bytes)
}

#[test]
fn format_1_is_frozen() {
    let (bytes, end) = backup(&state(3), 0, 100, 2);
    assert_eq!(hex(&frozen("format1.hex", &bytes)), hex(&bytes), "the form changed");
    assert_eq!(read(&bytes, 64).unwrap().end, end);
    // LZ4's output may change with its version; old output must remain readable.
    let source = state(100);
    let (bytes, _) = backup(&source, 0, 1 << 20, 1000);
    let plain = source.0.snapshot().len() + romana_statemachine::entry::wire(&source.1).len();
    assert!(bytes.len() < plain, "{} bytes of {plain}: not compressed", bytes.len());
    let read = read(&frozen("format1-lz4.hex", &bytes), 64).unwrap();
    assert_eq!(read.state.digest(), source.0.digest());
}

#[test]
fn a_later_format_is_refused_by_its_number() {
    let (bytes, _) = backup(&state(3), 0, 100, 2);
    let starts = frames(&bytes);
    // The format is the first byte of the header's payload; the frame's check has to be recomputed.
    let mut header = bytes[starts[0] + 13..starts[1]].to_vec();
    header[0] = 9;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&8u64.to_le_bytes());
    hasher.update(&bytes[8..13]);
    hasher.update(&header);
    let mut later = bytes[..13].to_vec();
    later.extend_from_slice(&hasher.finalize().as_bytes()[..8]);
    later.extend_from_slice(&header);
    assert_eq!(read(&later, 64).unwrap_err(), BackupError::Format { format: 9 });
    assert!(BackupError::Format { format: 9 }.to_string().contains("use a newer one"));
}

proptest! {
    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..2000), begin in any::<bool>()) {
        let magic: &[u8] = if begin { b"ROMBKUP\n" } else { b"" };
        let bytes: Vec<u8> = magic.iter().chain(&noise).copied().collect();
        prop_assert!(read(&bytes, 100).is_err());
    }

    #[test]
    fn damage_is_found_wherever_it_is(
        at in any::<prop::sample::Index>(),
        with in prop::collection::vec(any::<u8>(), 1..64),
        instead in 0_usize..64,
    ) {
        let (bytes, _) = backup(&state(40), 0, 500, 10);
        let at = at.index(bytes.len());
        let rest = (at + instead).min(bytes.len());
        let damaged: Vec<u8> =
            bytes[..at].iter().chain(&with).chain(&bytes[rest..]).copied().collect();
        prop_assume!(damaged != bytes);
        prop_assert!(read(&damaged, 777).is_err());
    }

    #[test]
    fn pieces_of_any_size_give_the_same_parts(cuts in prop::collection::vec(1_usize..300, 1..20)) {
        let (bytes, _) = backup(&state(40), 0, 500, 10);
        let (mut reader, mut rest, mut parts) = (Reader::new(), bytes.as_slice(), 0);
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, left) = rest.split_at((*cut).min(rest.len()));
            rest = left;
            reader.push(piece);
            while let Some(part) = reader.part().unwrap() {
                parts += usize::from(!matches!(part, Part::State(_)));
            }
        }
        reader.finish().unwrap();
        prop_assert_eq!(parts, 1 + 5 + 1);
    }
}

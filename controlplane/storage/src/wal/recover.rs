//! Recovery at open: determines what is durable, truncates a torn tail, refuses damage.
//!
//! A power cut can lose any pages of the group that was being written, not only the last ones. Such a
//! group was never acknowledged and is truncated at its first bad record. It cannot be confused with
//! damage: each group starts with a mark, written only after everything before it was durable. So a
//! mark after a bad record proves that the record was once durable. Earlier segments were
//! durable before the next one got its name, and the next one records where they end. The end of
//! the log at its last acknowledgement is recorded in a separate file (`highwater`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::contents::{Catalog, LogState, Place, Step};
use super::error::WalError;
use super::frame::{self, Checkpoint, Kind, Owner, PREAMBLE, Preamble, Record};
use super::highwater::{self, HighWater, Point};
use super::segment::{SEGMENT, SPARE, Segment, Spare};
use crate::durable::{Disk, Files};
use crate::platform;
use crate::platform::fs::{self, File, OpenOptions};

/// The recovered log, ready to be written to.
pub(super) struct Opened {
    pub(super) log: LogState,
    pub(super) catalog: Catalog,
    pub(super) active: Arc<Segment>,
    /// Offset of the next group.
    pub(super) offset: u64,
    pub(super) highwater: HighWater,
    /// Whether the log has entries, and its mark was missing or damaged.
    pub(super) unmarked: bool,
    pub(super) lock: File,
}

/// Opens the log in `dir`, or creates an empty one. `mark` is the path of its high-water mark. The log must
/// belong to `owner`, if both owners are known.
pub(super) fn open(
    dir: &Path,
    mark: &Path,
    segment_bytes: u64,
    owner: Option<Owner>,
) -> Result<Opened, WalError> {
    fs::create_dir_all(dir).map_err(WalError::io("create", dir))?;
    let lock = lock(dir)?;
    let acknowledged = highwater::read(mark)?;
    let sequences = list(dir)?;
    if let Some((segment, offset)) = acknowledged
        && sequences.last().is_none_or(|last| *last < segment)
    {
        let why = format!("the segment is missing: it was acknowledged up to offset {offset}");
        return Err(WalError::Damaged { file: segment_path(dir, segment), offset: 0, why });
    }
    let Some(last) = sequences.last().copied() else {
        return create(dir, mark, (segment_bytes, owner), lock);
    };
    // Removal of unused segments may have been interrupted: use only the last consecutive run.
    let start = (1..sequences.len()).rev().find(|&i| sequences[i - 1] + 1 != sequences[i]);
    let run = &sequences[start.unwrap_or(0)..];
    let mut replay = Replay { owner, ..Replay::default() };
    let mut tail = None;
    for &sequence in run {
        tail = Some(replay.segment(dir, sequence, sequence == last)?);
    }
    let Some((active, end, dirty)) = tail else {
        return create(dir, mark, (segment_bytes, owner), lock);
    };
    replay.check_complete(dir, run[0])?;
    check_end(&active, end, acknowledged)?;
    if let Some(until) = dirty {
        tracing::warn!(file = %active.path.display(), offset = end, "truncated a torn tail of the log");
        active.zero(end, until)?;
    }
    // The contents may be in the page cache only, and will be relied on: sync them. If the last run ended because a
    // sync failed, the kernel may consider the pages of that group clean: write them again.
    let Replay { log, catalog, last_group, .. } = replay;
    active.write_at(&last_group, end - last_group.len() as u64)?;
    active.sync()?;
    Disk.sync_dir(dir)?;
    for &stale in &sequences[..start.unwrap_or(0)] {
        let path = segment_path(dir, stale);
        fs::remove_file(&path).map_err(WalError::io("remove", &path))?;
    }
    let highwater = HighWater::open(mark, (last, end))?;
    // A log that was just created, or filled from a backup, has no mark yet, and no entries.
    let unmarked = acknowledged.is_none() && log.0.first < log.0.next;
    Ok(Opened { log, catalog, active, offset: end, highwater, unmarked, lock })
}

/// Checks that the last segment is good up to the acknowledged end.
fn check_end(active: &Segment, end: u64, acknowledged: Option<Point>) -> Result<(), WalError> {
    match acknowledged {
        Some((segment, upto)) if segment == active.preamble.sequence && end < upto => {
            Err(active.damaged(end, format!("good records end here; they went up to {upto}")))
        }
        _ => Ok(()),
    }
}

fn create(
    dir: &Path,
    mark: &Path,
    (segment_bytes, owner): (u64, Option<Owner>),
    lock: File,
) -> Result<Opened, WalError> {
    Disk.sync_parent(dir)?;
    let spare = Spare::create(dir.join(format!("first.{SPARE}")), segment_bytes)?;
    let (active, offset) = spare.start(1, 0, owner, &Checkpoint::default())?;
    let active = Arc::new(active);
    let mut catalog = Catalog::default();
    catalog.add_segment(Arc::clone(&active));
    let highwater = HighWater::open(mark, (1, offset))?;
    let (log, unmarked) = (LogState::default(), false);
    Ok(Opened { log, catalog, active, offset, highwater, unmarked, lock })
}

fn lock(dir: &Path) -> Result<File, WalError> {
    let path = dir.join("LOCK");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(WalError::io("open", &path))?;
    match platform::lock(&file) {
        Ok(true) => Ok(file),
        Ok(false) => Err(WalError::Locked { path }),
        Err(source) => Err(WalError::Io { action: "lock", path, source }),
    }
}

/// Sequence numbers of the segments in `dir`, ascending. Removes spares of the last run.
fn list(dir: &Path) -> Result<Vec<u64>, WalError> {
    let mut sequences = Vec::new();
    for entry in fs::read_dir(dir).map_err(WalError::io("list", dir))? {
        let path = entry.map_err(WalError::io("list", dir))?.path();
        let ending = path.extension().and_then(|e| e.to_str());
        if ending == Some(SPARE) {
            fs::remove_file(&path).map_err(WalError::io("remove", &path))?;
        } else if ending == Some(SEGMENT) {
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            sequences.extend(stem.and_then(|stem| stem.parse::<u64>().ok()));
        }
    }
    sequences.sort_unstable();
    Ok(sequences)
}

fn segment_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:016}.{SEGMENT}"))
}

/// State accumulated from the segments read so far.
#[derive(Default)]
struct Replay {
    /// Expected owner.
    owner: Option<Owner>,
    log: LogState,
    catalog: Catalog,
    /// The last group of the last segment.
    last_group: Vec<u8>,
    /// The previous segment, the end of its good records, and what is wrong there.
    previous: Option<(Arc<Segment>, u64, &'static str)>,
}

/// A segment, the end of its records, and the end of the bytes after them that must be zeroed.
type Tail = (Arc<Segment>, u64, Option<u64>);

impl Replay {
    /// Reads the next segment.
    fn segment(&mut self, dir: &Path, sequence: u64, is_last: bool) -> Result<Tail, WalError> {
        let (segment, bytes) = load(segment_path(dir, sequence))?;
        if segment.preamble.sequence != sequence {
            let found = segment.preamble.sequence;
            return Err(segment.damaged(0, format!("the preamble says segment {found}")));
        }
        if let (Some(theirs), Some(ours)) = (segment.preamble.owner, self.owner)
            && theirs != ours
        {
            let (theirs, ours) = (theirs.member, ours.member);
            return Err(WalError::Foreign { file: segment.path.clone(), theirs, ours });
        }
        self.close_previous(&segment)?;
        let end = self.records(&segment, &bytes)?;
        self.catalog.add_segment(Arc::clone(&segment));
        if is_last {
            let dirty = tail(&segment, &bytes, end)?;
            return Ok((segment, end as u64, dirty));
        }
        let why = frame::record(&bytes, 0, segment.preamble.salt, end).err();
        self.previous = Some((Arc::clone(&segment), end as u64, why.unwrap_or_default()));
        Ok((segment, end as u64, None))
    }

    /// Checks that the previous segment is good up to the end that its successor records.
    fn close_previous(&mut self, successor: &Segment) -> Result<(), WalError> {
        let Some((segment, end, why)) = self.previous.take() else { return Ok(()) };
        let want = successor.preamble.previous_end;
        // A mark written while idle may follow: the successor starts with the same state.
        if end == want || end == want + frame::record_len(0) as u64 {
            return Ok(());
        }
        Err(segment.damaged(end, format!("{why}; good records went up to {want}")))
    }

    /// Replays records up to the first bad one. Returns its offset.
    fn records(&mut self, segment: &Arc<Segment>, bytes: &[u8]) -> Result<usize, WalError> {
        let salt = segment.preamble.salt;
        let stop = |at: usize, why: &str| segment.damaged(at as u64, why);
        let first = frame::record(bytes, 0, salt, PREAMBLE).map_err(|why| stop(PREAMBLE, why))?;
        self.checkpoint(&first).map_err(|why| stop(PREAMBLE, &why))?;
        let (mut at, mut group) = (first.end, PREAMBLE);
        while let Ok(record) = frame::record(bytes, 0, salt, at) {
            self.record(segment.preamble.sequence, at as u64, &record)
                .map_err(|why| stop(at, &why))?;
            if record.kind == Kind::Mark {
                group = at;
            }
            at = record.end;
        }
        self.last_group.clear();
        self.last_group.extend_from_slice(&bytes[group..at]);
        Ok(at)
    }

    fn checkpoint(&mut self, record: &Record<'_>) -> Result<(), String> {
        if record.kind != Kind::Checkpoint {
            return Err("the segment does not start with a checkpoint".to_owned());
        }
        let state: Checkpoint = romana_statemachine::entry::unwire(record.payload)
            .map_err(|error| format!("the checkpoint is not readable: {error}"))?;
        if self.previous_is_known() && self.log.0 != state {
            return Err("the checkpoint is not what the segments before add up to".to_owned());
        }
        if !self.previous_is_known() {
            self.catalog = Catalog::starting_at(state.next);
        }
        self.log = LogState(state);
        Ok(())
    }

    fn previous_is_known(&self) -> bool {
        self.catalog.has_segments()
    }

    fn record(&mut self, segment: u64, offset: u64, record: &Record<'_>) -> Result<(), String> {
        match record.kind {
            Kind::Mark if record.index == offset => {}
            Kind::Mark => return Err("a mark is in the wrong place".to_owned()),
            Kind::Checkpoint => return Err("a second checkpoint".to_owned()),
            Kind::Vote => self.log.0.vote = Some(Bytes::copy_from_slice(record.payload)),
            Kind::Entry => {
                self.log.append(record.index)?;
                let length = u32::try_from(record.payload.len()).unwrap_or(u32::MAX);
                let place = Place { segment, offset, length };
                self.catalog.apply(Step::Entry(record.index, place));
            }
            Kind::Truncate => {
                self.log.truncate_from(record.index);
                self.catalog.apply(self.log.range());
            }
            Kind::Purge => {
                self.log.purge(record.index, &Bytes::copy_from_slice(record.payload));
                self.catalog.apply(self.log.range());
            }
        }
        Ok(())
    }

    /// Checks that no entry is missing.
    fn check_complete(&self, dir: &Path, oldest: u64) -> Result<(), WalError> {
        let Checkpoint { first, next, .. } = self.log.0;
        let have = self.catalog.base();
        if first == next || have <= first {
            return Ok(());
        }
        let why =
            format!("the segment is missing: entries {first} to {} were in it or before", have - 1);
        let file = segment_path(dir, oldest.saturating_sub(1));
        Err(WalError::Damaged { file, offset: 0, why })
    }
}

/// Reads a file and decodes its preamble.
fn load(path: PathBuf) -> Result<(Arc<Segment>, Vec<u8>), WalError> {
    let file = OpenOptions::new().read(true).write(true).open(&path);
    let mut file = file.map_err(WalError::io("open", &path))?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut file, &mut bytes).map_err(WalError::io("read", &path))?;
    match Preamble::decode(&bytes) {
        Ok(preamble) if bytes.len() as u64 >= preamble.size => {
            Ok((Arc::new(Segment { preamble, path, file }), bytes))
        }
        Ok(preamble) => {
            let why = format!("the file ends here and should have {} bytes", preamble.size);
            Err(WalError::Damaged { file: path, offset: bytes.len() as u64, why })
        }
        Err(why) => Err(WalError::Damaged { file: path, offset: 0, why }),
    }
}

/// Classifies what follows the good records of the last segment: nothing, the remains of a group that was never
/// acknowledged (returns where they end), or damage.
fn tail(segment: &Segment, bytes: &[u8], end: usize) -> Result<Option<u64>, WalError> {
    let salt = segment.preamble.salt;
    let leftovers = frame::leftovers(bytes, salt, end);
    if let Some(mark) = leftovers.mark {
        let why = frame::record(bytes, 0, salt, end).err().unwrap_or("bad record");
        return Err(segment.damaged(end as u64, format!("{why}; it was durable before {mark}")));
    }
    // Old bytes of a recycled file are not valid records here and may stay.
    Ok(leftovers.until.map(|until| until as u64))
}

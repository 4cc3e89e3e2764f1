//! Recovery at open. Of closed segments only header and footer are checked (the rest is checked when it is
//! read). Open ones are read completely and their chain of digests is checked.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use romana_statemachine::{Digest, Record, Revision, entry};

use super::error::HistoryError;
use super::frame::{self, Item, Start};
use super::open_segment::{Index, RAW, Raw};
use super::origin;
use super::sealed_segment::{PACKED, PARTIAL, Packed};
use super::{Segment, retention};
use crate::durable::{Disk, Files};
use crate::platform::FileExt;
use crate::platform::fs::{self, OpenOptions};

/// The recovered history, ready for appends.
pub(super) struct Opened {
    /// By first revision.
    pub(super) segments: BTreeMap<Revision, Segment>,
    /// The segment to append to: the last of `segments`.
    pub(super) active: Arc<Raw>,
    pub(super) last: (Revision, Digest),
    /// Whether there are records, and the file that says where they begin was missing or damaged.
    pub(super) unrecorded: bool,
}

/// Opens the history in `dir`, or creates an empty one.
pub(super) fn open(dir: &Path) -> Result<Opened, HistoryError> {
    fs::create_dir_all(dir).map_err(HistoryError::io("create", dir))?;
    Disk.sync_parent(dir)?;
    retention::finish(dir)?;
    let files = list(dir)?;
    let unrecorded = check_origin(dir, &files)?;
    let mut segments = BTreeMap::new();
    let mut last: Option<(Revision, Digest)> = None;
    let mut active = None;
    for (position, (first, path)) in files.iter().enumerate() {
        let later = &files[position + 1..];
        if is_packed(path) {
            let packed = Packed::open(path.clone())?;
            check_start(path, packed.start, *first, last)?;
            last = Some((packed.last, packed.digest));
            active = None;
            segments.insert(*first, Segment::Packed(Arc::new(packed)));
            continue;
        }
        match scan(path, *first, last, later)? {
            Scan::Good(raw, end) => {
                last = Some(end);
                active = Some(Arc::clone(&raw));
                segments.insert(*first, Segment::Raw(raw));
            }
            Scan::Cut(cut) => {
                for (_, path) in later.iter().rev() {
                    fs::remove_file(path).map_err(HistoryError::io("remove", path))?;
                }
                if let Some((raw, end)) = cut {
                    last = Some(end);
                    active = Some(Arc::clone(&raw));
                    segments.insert(*first, Segment::Raw(raw));
                } else {
                    fs::remove_file(path).map_err(HistoryError::io("remove", path))?;
                }
                break;
            }
        }
    }
    let opened = finish(dir, segments, active, last.unwrap_or_default())?;
    // A history that was created just before a crash has no such file yet, and no records.
    Ok(Opened { unrecorded: unrecorded && opened.last.0 > 0, ..opened })
}

/// Checks that nothing is missing at the start. Existing segments carry their own start; damage to one
/// is found when it is opened. Returns whether the beginning was not recorded.
fn check_origin(dir: &Path, files: &[(Revision, PathBuf)]) -> Result<bool, HistoryError> {
    let Some((first, path)) = files.first() else { return origin::check(dir, None) };
    let mut head = [0; frame::HEADER];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
    match (read, Start::decode(&head)) {
        (Ok(()), Ok(start)) if start.first == *first => origin::check(dir, Some(start)),
        _ => Ok(false),
    }
}

fn finish(
    dir: &Path,
    mut segments: BTreeMap<Revision, Segment>,
    active: Option<Arc<Raw>>,
    last: (Revision, Digest),
) -> Result<Opened, HistoryError> {
    let active = if let Some(active) = active {
        active
    } else {
        let start = Start { first: last.0.next(), previous: last.1 };
        let raw = Arc::new(Raw::create(dir, start)?);
        if segments.is_empty() {
            raw.sync()?;
            origin::note(dir, start)?;
        }
        segments.insert(start.first, Segment::Raw(Arc::clone(&raw)));
        raw
    };
    // The contents may be in the page cache only, and will be relied on: sync them.
    for segment in segments.values() {
        if let Segment::Raw(raw) = segment {
            raw.sync()?;
        }
    }
    Disk.sync_parent(&active.path)?;
    Ok(Opened { segments, active, last, unrecorded: false })
}

/// The segment files by first revision. Removes what an interrupted compression left: the partial
/// file, or the open segment whose sealed form is complete.
fn list(dir: &Path) -> Result<Vec<(Revision, PathBuf)>, HistoryError> {
    let mut files: BTreeMap<Revision, PathBuf> = BTreeMap::new();
    let mut useless = Vec::new();
    for entry in fs::read_dir(dir).map_err(HistoryError::io("list", dir))? {
        let path = entry.map_err(HistoryError::io("list", dir))?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        match (ending, stem.and_then(|stem| stem.parse().ok())) {
            (Some(PARTIAL), Some(_)) => useless.push(path),
            (Some(RAW | PACKED), Some(first)) => match files.remove(&first) {
                Some(other) => {
                    let (keep, drop) = if is_packed(&path) { (path, other) } else { (other, path) };
                    files.insert(first, keep);
                    useless.push(drop);
                }
                None => _ = files.insert(first, path),
            },
            _ => {}
        }
    }
    for path in useless {
        fs::remove_file(&path).map_err(HistoryError::io("remove", &path))?;
    }
    Ok(files.into_iter().collect())
}

fn is_packed(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == PACKED)
}

/// Checks that a segment starts where the previous one ends. The first one may start anywhere.
fn check_start(
    path: &Path,
    start: Start,
    name: Revision,
    before: Option<(Revision, Digest)>,
) -> Result<(), HistoryError> {
    match continues(start, name, before) {
        Ok(()) => Ok(()),
        Err(why) => Err(HistoryError::damaged(path, 0, why)),
    }
}

fn continues(
    start: Start,
    name: Revision,
    before: Option<(Revision, Digest)>,
) -> Result<(), String> {
    if start.first != name || start.first == 0 {
        return Err(format!("the header says that it starts at revision {}", start.first));
    }
    match before {
        Some((last, _)) if start.first != last.next() => {
            Err(format!("the segment before ends at revision {last}"))
        }
        Some((_, digest)) if start.previous != digest => {
            Err("its digests do not continue those of the segment before".to_owned())
        }
        _ => Ok(()),
    }
}

/// Result of scanning an open segment.
enum Scan {
    /// Intact; ends with this record.
    Good(Arc<Raw>, (Revision, Digest)),
    /// Truncated to this part, because the rest was never durable. `None`: nothing is left.
    Cut(Option<(Arc<Raw>, (Revision, Digest))>),
}

/// Reads and checks an open segment; `later` are the files after it.
fn scan(
    path: &Path,
    name: Revision,
    before: Option<(Revision, Digest)>,
    later: &[(Revision, PathBuf)],
) -> Result<Scan, HistoryError> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    let mut file = file.map_err(HistoryError::io("open", path))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(HistoryError::io("read", path))?;
    let start = Start::decode(&bytes).and_then(|start| {
        continues(start, name, before)?;
        Ok(start)
    });
    let start = match start {
        Ok(start) => start,
        Err(why) => {
            check_not_durable(path, &bytes, 0, later, &why)?;
            return Ok(Scan::Cut(None));
        }
    };
    let Chain { index, last, durable, broken } = follow(start, &bytes);
    let cut = index.end;
    if let Some(why) = &broken {
        check_not_durable(path, &bytes, usize::try_from(cut).unwrap_or(0), later, why)?;
        tracing::warn!(file = %path.display(), offset = cut, why, "truncated a torn tail of the history");
        file.set_len(cut).map_err(HistoryError::io("truncate", path))?;
    }
    // It is synced soon. If the last run ended because a sync failed, the kernel may consider pages clean
    // that are not on the disk: write them again.
    let end = bytes.len().min(usize::try_from(cut).unwrap_or(usize::MAX));
    let unsure = bytes.get(durable..end).unwrap_or_default();
    file.write_all_at(unsure, durable as u64).map_err(HistoryError::io("write", path))?;
    let raw = Arc::new(Raw::new(start, path.to_owned(), file, index));
    Ok(if broken.is_some() { Scan::Cut(Some((raw, last))) } else { Scan::Good(raw, last) })
}

/// The intact part of a segment.
struct Chain {
    index: Index,
    last: (Revision, Digest),
    /// Offset before which everything was certainly durable.
    durable: usize,
    /// What is wrong after the intact part, if anything follows.
    broken: Option<String>,
}

fn follow(start: Start, bytes: &[u8]) -> Chain {
    let mut index = Index::new(start);
    let mut last = (start.first.minus(1), start.previous);
    let (mut durable, mut broken) = (0, None);
    let mut at = frame::HEADER;
    while at < bytes.len() {
        match step(bytes, at, &mut last) {
            Ok((item, end)) => {
                match item {
                    Item::Record(_) => index.note(last.0, at as u64),
                    Item::Mark(upto) => durable = usize::try_from(upto).unwrap_or(0),
                }
                at = end;
            }
            Err(why) => {
                broken = Some(why);
                break;
            }
        }
    }
    index.end = at as u64;
    Chain { index, last, durable, broken }
}

/// Reads one item; a record must continue from `last`, which is advanced to it.
fn step(bytes: &[u8], at: usize, last: &mut (Revision, Digest)) -> Result<(Item, usize), String> {
    let (item, end) = frame::item(bytes, at).map_err(str::to_owned)?;
    let Item::Record(body) = &item else { return Ok((item, end)) };
    let record: Record = entry::unwire(&bytes[body.clone()])
        .map_err(|error| format!("a record is not readable: {error}"))?;
    if record.revision != last.0.next() {
        return Err(format!("revision {} comes after {}", record.revision, last.0));
    }
    if !record.follows(&last.1) {
        return Err(format!("the digest of revision {} does not follow", record.revision));
    }
    *last = (record.revision, record.digest);
    Ok((item, end))
}

/// Returns an error if the bytes at `offset` are proven to have been durable: by a mark after them, in this
/// or a later segment, or by a later sealed segment.
fn check_not_durable(
    path: &Path,
    bytes: &[u8],
    offset: usize,
    later: &[(Revision, PathBuf)],
    why: &str,
) -> Result<(), HistoryError> {
    let mut was_durable = frame::was_durable(bytes, offset);
    for (_, path) in later {
        was_durable = was_durable || is_packed(path) || {
            let bytes = fs::read(path).map_err(HistoryError::io("read", path))?;
            frame::was_durable(&bytes, 0)
        };
    }
    if was_durable { Err(HistoryError::damaged(path, offset as u64, why)) } else { Ok(()) }
}

//! Encoding of an open segment. Pure.
//!
//! ```text
//!   header (64 bytes): magic, version, first revision, digest before it, CRC
//!   frame:  length u32 · CRC of length and body · body (wire form of a Record)
//!   mark:   length 0xFFFF_FFFF · CRC · tag · offset: everything before it was durable when it was written
//! ```
//!
//! Little-endian. A mark follows each sync. A bad frame before the offset of a later mark is damage; any other bad
//! frame is the result of a power cut.

use std::ops::Range;

use romana_statemachine::{Digest, Record, Revision, entry};

const MAGIC: [u8; 8] = *b"ROMANAHI";
const VERSION: u32 = 1;
const MARK_LENGTH: u32 = u32::MAX;
const MARK_TAG: [u8; 8] = [0xf1, 0x9a, 0x03, 0xd7, 0x5e, 0xb0, 0x82, 0x6c];

/// Length of a segment's header, bytes.
pub(super) const HEADER: usize = 64;
/// Length of a frame's header, bytes.
pub(super) const FRAME: usize = 8;
/// Length of a mark, bytes.
const MARK: usize = 24;

/// Position of a segment in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// Revision of its first record.
    pub(super) first: Revision,
    /// Digest of the previous record.
    pub(super) previous: Digest,
}

impl Start {
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first.get().to_le_bytes());
        bytes[24..56].copy_from_slice(&self.previous.0);
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let Some(bytes) = bytes.first_chunk::<HEADER>() else {
            return Err("the file is shorter than a header".to_owned());
        };
        if bytes[..8] != MAGIC || crc32fast::hash(&bytes[..60]) != u32_at(bytes, 60) {
            return Err("the header is not one of a history segment, or damaged".to_owned());
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(format!("format version {version} is not known to this program"));
        }
        let previous = bytes[24..].first_chunk().copied().map(Digest).unwrap_or_default();
        Ok(Self { first: Revision(u64_at(bytes, 16)), previous })
    }
}

/// One item of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// A record, and the range of its body.
    Record(Range<usize>),
    /// A mark: everything before this offset was durable.
    Mark(u64),
}

/// Appends the frame of a record.
pub(super) fn push(buffer: &mut Vec<u8>, record: &Record) {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; FRAME]);
    buffer.extend_from_slice(&entry::wire(record));
    // No record is near 4 GiB: the API and Raft's messages bound the size of commands.
    let length = u32::try_from(buffer.len() - start - FRAME).unwrap_or(MARK_LENGTH - 1);
    let crc = checksum(length, &buffer[start + FRAME..]);
    buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
    buffer[start + 4..start + FRAME].copy_from_slice(&crc.to_le_bytes());
}

/// Encodes a mark: everything before `offset` is durable.
pub(super) fn mark(offset: u64) -> [u8; MARK] {
    let mut bytes = [0; MARK];
    bytes[..4].copy_from_slice(&MARK_LENGTH.to_le_bytes());
    bytes[8..16].copy_from_slice(&MARK_TAG);
    bytes[16..].copy_from_slice(&offset.to_le_bytes());
    let crc = checksum(MARK_LENGTH, &bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The item at `at` and the offset of the next one; or what is wrong.
pub(super) fn item(bytes: &[u8], at: usize) -> Result<(Item, usize), &'static str> {
    let head = bytes.get(at..).and_then(|rest| rest.first_chunk::<FRAME>());
    let Some(head) = head else { return Err("the file ends here") };
    let length = u32_at(head, 0);
    let body = at + FRAME;
    let size = if length == MARK_LENGTH { MARK - FRAME } else { length as usize };
    let Some(content) = body.checked_add(size).and_then(|end| bytes.get(body..end)) else {
        return Err("a record goes past the end of the file");
    };
    if checksum(length, content) != u32_at(head, 4) {
        return Err("the checksum of a record is wrong");
    }
    let end = body + size;
    let durable = u64_at(content, 8);
    Ok((if length == MARK_LENGTH { Item::Mark(durable) } else { Item::Record(body..end) }, end))
}

/// Length of the item at `at`, if its header is complete. May be wrong if the header is damaged.
pub(super) fn item_len(bytes: &[u8], at: usize) -> Option<usize> {
    let head = bytes.get(at..)?.first_chunk::<FRAME>()?;
    let length = u32_at(head, 0);
    Some(if length == MARK_LENGTH { MARK } else { FRAME + length as usize })
}

/// Whether the item at `at` has the tag of a mark.
pub(super) fn is_mark(bytes: &[u8], at: usize) -> bool {
    u32_at(bytes, at) == MARK_LENGTH
}

/// Whether a mark at or after `from`, in a complete segment, proves that `from` was durable.
pub(super) fn was_durable(bytes: &[u8], from: usize) -> bool {
    let rest = bytes.get(from..).unwrap_or_default();
    rest.windows(MARK).any(|window| {
        window[8..16] == MARK_TAG
            && u64_at(window, 16) > from as u64
            && u32_at(window, 0) == MARK_LENGTH
            && checksum(MARK_LENGTH, &window[8..]) == u32_at(window, 4)
    })
}

fn checksum(length: u32, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
}

//! Encoding of a segment. Pure.
//!
//! ```text
//!   preamble (64 bytes): magic, version, salt, sequence number, size, end of the segment before, owner, CRC
//!   record: length u32 · kind u8 · 0 0 0 · index u64 · CRC of the payload · CRC of this header
//!           payload, then zeros up to a multiple of 8
//! ```
//!
//! Little-endian. The header's CRC is seeded with the segment's random salt and covers the record's offset: so old
//! bytes of a recycled file, a payload that looks like a record, or a misplaced record are never accepted. The CRC
//! covers the length, so a flipped bit cannot end the log early.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

const MAGIC: [u8; 8] = *b"ROMANAWL";
const VERSION: u32 = 1;

/// Length of the preamble in bytes: offset of the first record.
pub(super) const PREAMBLE: usize = 64;
/// Length of a record's header, bytes.
pub(super) const HEADER: usize = 24;
/// Records start at multiples of this.
const ALIGN: usize = 8;
/// The longest payload of a record, bytes.
pub(super) const PAYLOAD_BYTES_MAX: usize = 1 << 28;

/// Kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// First record of each segment: the [`Checkpoint`] of everything before it.
    Checkpoint = 1,
    /// Everything before the offset in `index` (its own offset) was durable when this was written. First record of
    /// every group.
    Mark = 2,
    Entry = 3,
    Vote = 4,
    /// Entries from `index` on are removed.
    Truncate = 5,
    /// Entries up to `index` are purged; the payload is the caller's marker.
    Purge = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        use Kind::{Checkpoint, Entry, Mark, Purge, Truncate, Vote};
        [Checkpoint, Mark, Entry, Vote, Truncate, Purge].into_iter().find(|k| *k as u8 == byte)
    }
}

/// Owner of a log: the member's id, and a digest of what else distinguishes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    pub member: u64,
    /// Digest of the cluster id and the nonce of the data directory.
    pub tag: [u8; 12],
}

/// Head of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Preamble {
    /// Random; seeds the CRC of every header in the segment.
    pub(super) salt: u32,
    /// Sequence number of the segment, consecutive from 1.
    pub(super) sequence: u64,
    /// Allocated size in bytes. A shorter file was truncated.
    pub(super) size: u64,
    /// End of the records in the previous segment.
    pub(super) previous_end: u64,
    /// `None` in files of releases with log version 3 and before, which have zeros there.
    pub(super) owner: Option<Owner>,
}

impl Preamble {
    pub(super) fn encode(&self) -> [u8; PREAMBLE] {
        let mut bytes = [0; PREAMBLE];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.salt.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.size.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.previous_end.to_le_bytes());
        let Owner { member, tag } = self.owner.unwrap_or_default();
        bytes[40..48].copy_from_slice(&member.to_le_bytes());
        bytes[48..60].copy_from_slice(&tag);
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Decodes a preamble, or says what is wrong with it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let Some(bytes) = bytes.first_chunk::<PREAMBLE>() else {
            return Err(format!("the file has {} bytes, less than a preamble", bytes.len()));
        };
        if bytes[..8] != MAGIC {
            return Err("this is no segment of a log".to_owned());
        }
        if crc32fast::hash(&bytes[..60]) != u32_at(bytes, 60) {
            return Err("the checksum of the preamble is wrong".to_owned());
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(format!("format version {version} is not known to this program"));
        }
        let mut owner = Owner { member: u64_at(bytes, 40), ..Owner::default() };
        owner.tag.copy_from_slice(&bytes[48..60]);
        Ok(Self {
            salt: u32_at(bytes, 12),
            sequence: u64_at(bytes, 16),
            size: u64_at(bytes, 24),
            previous_end: u64_at(bytes, 32),
            owner: Some(owner).filter(|owner| *owner != Owner::default()),
        })
    }
}

/// The state of the log at the start of a segment, so that older segments can be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    pub(super) vote: Option<Bytes>,
    /// Index and marker of the last purge.
    pub(super) purged: Option<(u64, Bytes)>,
    /// The first entry that is not purged, or `next`.
    pub(super) first: u64,
    /// One after the last entry.
    pub(super) next: u64,
}

/// A decoded record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) kind: Kind,
    pub(super) index: u64,
    pub(super) payload: &'a [u8],
    /// Offset of the next record.
    pub(super) end: usize,
}

/// Length of a record with this payload, in bytes.
pub(super) fn record_len(payload: usize) -> usize {
    HEADER + payload.next_multiple_of(ALIGN)
}

/// Encodes a record into `group`, which will be written at `base`. Returns the record's offset.
pub(super) fn push(
    group: &mut Vec<u8>,
    base: u64,
    salt: u32,
    (kind, index): (Kind, u64),
    payload: &[u8],
) -> u64 {
    let offset = base + group.len() as u64;
    let mut header = [0; HEADER];
    // Callers have refused payloads over `PAYLOAD_BYTES_MAX`.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4] = kind as u8;
    header[8..16].copy_from_slice(&index.to_le_bytes());
    header[16..20].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    let crc = header_crc(salt, offset, &header);
    header[20..].copy_from_slice(&crc.to_le_bytes());
    group.extend_from_slice(&header);
    group.extend_from_slice(payload);
    group.resize(group.len().next_multiple_of(ALIGN), 0);
    offset
}

/// Decodes the record at `at` in `bytes`, where `bytes` starts at `base` in the segment; or says what is wrong.
pub(super) fn record(
    bytes: &[u8],
    base: u64,
    salt: u32,
    at: usize,
) -> Result<Record<'_>, &'static str> {
    let header = bytes.get(at..).and_then(|rest| rest.first_chunk::<HEADER>());
    let Some(header) = header else { return Err("the file ends here") };
    if header_crc(salt, base + at as u64, header) != u32_at(header, 20) {
        return Err("the checksum of a record's header is wrong");
    }
    let Some(kind) = Kind::from_byte(header[4]) else { return Err("unknown kind of record") };
    let start = at + HEADER;
    let length = u32_at(header, 0) as usize;
    let Some(payload) = start.checked_add(length).and_then(|end| bytes.get(start..end)) else {
        return Err("a record goes past the end of the file");
    };
    if crc32fast::hash(payload) != u32_at(header, 16) {
        return Err("the checksum of a record's payload is wrong");
    }
    Ok(Record { kind, index: u64_at(header, 8), payload, end: at + record_len(length) })
}

/// What follows the last good record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Leftovers {
    /// The first mark: everything before it was once durable.
    pub(super) mark: Option<usize>,
    /// End of the last header that could later be mistaken for a record.
    pub(super) until: Option<usize>,
}

/// A block of zeros, which contains no header.
const ZEROS: [u8; 4096] = [0; 4096];

/// Searches for headers at or after `from`, where the good records end.
pub(super) fn leftovers(bytes: &[u8], salt: u32, from: usize) -> Leftovers {
    let mut found = Leftovers::default();
    let mut at = from.next_multiple_of(ALIGN);
    while let Some(header) = bytes.get(at..).and_then(|rest| rest.first_chunk::<HEADER>()) {
        // Cheap comparisons first: this scans the rest of a segment, mostly zeros.
        if bytes.get(at..at + ZEROS.len()) == Some(&ZEROS) {
            at += ZEROS.len();
            continue;
        }
        if let Some(kind) = Kind::from_byte(header[4])
            && header_crc(salt, at as u64, header) == u32_at(header, 20)
        {
            found.until = Some(at + HEADER);
            if kind == Kind::Mark && u64_at(header, 8) == at as u64 {
                found.mark = found.mark.or(Some(at));
            }
        }
        at += ALIGN;
    }
    found
}

fn header_crc(salt: u32, offset: u64, header: &[u8; HEADER]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(&offset.to_le_bytes());
    hasher.update(&header[..20]);
    hasher.finalize()
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
}

//! The bytes of a segment. Pure.
//!
//! ```text
//!   preamble (64 bytes): magic, version, salt, sequence number, size, end of the segment before, owner, CRC
//!   record: length u32 · kind u8 · 0 0 0 · index u64 · CRC of the payload · CRC of this header
//!           payload, then zeros up to a multiple of 8
//! ```
//!
//! Little-endian. The header's CRC starts from the segment's random salt and the record's offset:
//! neither the old bytes of a recycled file, nor a payload that looks like a record, nor a record in
//! the wrong place is taken for one. The length is covered, so a flipped bit cannot end the log.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

const MAGIC: [u8; 8] = *b"ROMANAWL";
const VERSION: u32 = 1;

/// Length of the preamble, bytes: where the first record starts.
pub(super) const PREAMBLE: usize = 64;
/// Length of a record's header, bytes.
pub(super) const HEADER: usize = 24;
/// Records start at multiples of this.
const ALIGN: usize = 8;
/// The longest payload of a record, bytes.
pub(super) const PAYLOAD_BYTES_MAX: usize = 1 << 28;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// First record of each segment: the [`Checkpoint`] of everything before it.
    Checkpoint = 1,
    /// Everything before the offset in `index` (its own) was durable when this was written. Starts
    /// every group.
    Mark = 2,
    /// The entry `index`.
    Entry = 3,
    /// The vote.
    Vote = 4,
    /// Entries from `index` on are void.
    Truncate = 5,
    /// Entries up to `index` are void; the payload is the caller's marker.
    Purge = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        use Kind::{Checkpoint, Entry, Mark, Purge, Truncate, Vote};
        [Checkpoint, Mark, Entry, Vote, Truncate, Purge].into_iter().find(|k| *k as u8 == byte)
    }
}

/// Whose a log is: told apart from every other by its member's id and a digest of what else distinguishes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The member's id.
    pub member: u64,
    /// Of its cluster and its data directory.
    pub tag: [u8; 12],
}

/// The identity of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Preamble {
    /// Random: starts the CRC of every header in the segment.
    pub(super) salt: u32,
    /// Position among the segments, dense, from 1.
    pub(super) sequence: u64,
    /// Bytes allocated at its start. A shorter file has lost its end.
    pub(super) size: u64,
    /// Where the records of the segment before end.
    pub(super) previous_end: u64,
    /// Whose it is; `None` in files of releases with version 3 of Romana's log and before, which have zeros there.
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

    /// Reads a preamble back, or says what is wrong with it.
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

/// What every segment starts with, so that older ones can go.
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

/// A record as read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) kind: Kind,
    pub(super) index: u64,
    pub(super) payload: &'a [u8],
    /// Where the next record starts.
    pub(super) end: usize,
}

/// Bytes that a record with this payload takes.
pub(super) fn record_len(payload: usize) -> usize {
    HEADER + payload.next_multiple_of(ALIGN)
}

/// Appends a record to `group`, which will be written at `base`. Returns the record's offset.
pub(super) fn push(
    group: &mut Vec<u8>,
    base: u64,
    salt: u32,
    (kind, index): (Kind, u64),
    payload: &[u8],
) -> u64 {
    let offset = base + group.len() as u64;
    let mut header = [0; HEADER];
    // Callers refuse payloads over `PAYLOAD_BYTES_MAX` first.
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

/// The record at `at` in `bytes`, where `bytes` starts at `base` in the segment; or what is wrong.
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

/// What is after the last good record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Leftovers {
    /// The first mark: everything before it was durable once.
    pub(super) mark: Option<usize>,
    /// Where the last header ends that could be taken for a record's later.
    pub(super) until: Option<usize>,
}

/// A stretch without headers.
const ZEROS: [u8; 4096] = [0; 4096];

/// Looks for headers at or after `from`, which is where good records end.
pub(super) fn leftovers(bytes: &[u8], salt: u32, from: usize) -> Leftovers {
    let mut found = Leftovers::default();
    let mut at = from.next_multiple_of(ALIGN);
    while let Some(header) = bytes.get(at..).and_then(|rest| rest.first_chunk::<HEADER>()) {
        // The cheap comparisons first: this walks over the rest of a segment, mostly zeros.
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

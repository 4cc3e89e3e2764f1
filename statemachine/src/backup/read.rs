//! Incremental reader of backups: push bytes, take the complete parts.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use lz4_flex::block;
use serde::Deserialize;

use super::{
    BackupError, End, FORMAT, FRAME_BYTES_MAX, Header, LZ4, MAGIC, PREFIX_BYTES, check_of, kind,
};
use crate::entry::{Digest, Record, Revision, unwire};

/// A part of a backup.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// The header; comes first.
    Header(Header),
    /// A piece of the state's bytes.
    State(Vec<u8>),
    /// The next records.
    Records(Vec<Record>),
    /// The end: all bytes before it are intact.
    End(End),
}

/// Reads one backup. Not usable after an error.
#[derive(Debug, Default)]
pub struct Reader {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were consumed.
    used: usize,
    /// Bytes of complete frames so far.
    offset: u64,
    hasher: blake3::Hasher,
    begun: bool,
    header: Option<Header>,
    state_bytes: u64,
    next: (Revision, Digest),
    records: u64,
    end: Option<End>,
}

impl Reader {
    /// A reader before the first byte.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the next bytes. Take all [`Self::part`]s before pushing more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.used);
        self.used = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next part; `None`: more bytes are needed, or the end was reached.
    ///
    /// # Errors
    /// [`BackupError`]: this is no backup, or one that is damaged or of a later format.
    pub fn part(&mut self) -> Result<Option<Part>, BackupError> {
        if !self.begun && !self.begin()? {
            return Ok(None);
        }
        let left = self.buffer.get(self.used..).unwrap_or_default();
        if self.end.is_some() {
            let trailing =
                (!left.is_empty()).then(|| self.damaged("there are bytes after the end"));
            return trailing.map_or(Ok(None), Err);
        }
        let Some((length, kind, check)) = prefix(left) else { return Ok(None) };
        if length as usize > FRAME_BYTES_MAX {
            return Err(self.damaged("the length of a part is out of bounds"));
        }
        let whole = PREFIX_BYTES + length as usize;
        let Some(frame) = left.get(..whole) else { return Ok(None) };
        let payload = frame.get(PREFIX_BYTES..).unwrap_or_default();
        if check_of(self.offset, length, kind, payload) != check {
            return Err(self.damaged("a checksum is wrong"));
        }
        let raw = unpack(kind, payload).map_err(|why| self.damaged(why))?;
        let part = self.parse(kind & !LZ4, &raw)?;
        self.admit(&part)?;
        let frame = self.buffer.get(self.used..self.used + whole).unwrap_or_default();
        self.hasher.update(frame);
        self.used += whole;
        self.offset += whole as u64;
        Ok(Some(part))
    }

    /// The header and the end, after all was read.
    ///
    /// # Errors
    /// [`BackupError::Truncated`] when it was not reached, [`BackupError::Damaged`] when bytes
    /// follow it.
    pub fn finish(&self) -> Result<(&Header, End), BackupError> {
        let unused = (self.buffer.len() - self.used) as u64;
        match (&self.header, self.end) {
            (Some(header), Some(end)) if unused == 0 => Ok((header, end)),
            (_, Some(_)) => Err(self.damaged("there are bytes after the end")),
            _ => Err(BackupError::Truncated {
                bytes: self.offset + unused,
                whole: self.offset,
                revision: if self.records > 0 { self.next.0.minus(1) } else { Revision(0) },
            }),
        }
    }

    /// The header, once it was read.
    #[must_use]
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// Bytes of complete parts so far.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    fn damaged(&self, why: impl Into<String>) -> BackupError {
        BackupError::Damaged { offset: self.offset, why: why.into() }
    }

    /// Consumes the magic. `false`: more bytes are needed.
    fn begin(&mut self) -> Result<bool, BackupError> {
        let length = self.buffer.len().min(MAGIC.len());
        if self.buffer.get(..length) != MAGIC.get(..length) {
            return Err(BackupError::NotBackup);
        }
        if length < MAGIC.len() {
            return Ok(false);
        }
        self.hasher.update(&MAGIC);
        (self.used, self.offset, self.begun) = (length, length as u64, true);
        Ok(true)
    }

    fn parse(&self, kind: u8, raw: &[u8]) -> Result<Part, BackupError> {
        if self.header.is_none() {
            return if kind == kind::HEADER {
                self.parse_header(raw)
            } else {
                Err(self.damaged("the header is missing"))
            };
        }
        match kind {
            kind::STATE => Ok(Part::State(Vec::from(raw))),
            kind::RECORDS => Ok(Part::Records(self.parse_as("records", raw)?)),
            kind::END => Ok(Part::End(self.parse_as("end", raw)?)),
            other => Err(self.damaged(format!("a part of unknown kind {other}"))),
        }
    }

    fn parse_header(&self, raw: &[u8]) -> Result<Part, BackupError> {
        let read = postcard::take_from_bytes::<u16>(raw);
        let (format, rest) =
            read.map_err(|error| self.damaged(format!("the header does not parse: {error}")))?;
        if format == 0 || format > FORMAT {
            return Err(BackupError::Format { format });
        }
        Ok(Part::Header(self.parse_as("header", rest)?))
    }

    fn parse_as<T: for<'a> Deserialize<'a>>(
        &self,
        what: &str,
        raw: &[u8],
    ) -> Result<T, BackupError> {
        unwire(raw).map_err(|error| self.damaged(format!("the {what} does not parse: {error}")))
    }

    /// Checks that the part is in sequence, and records it.
    fn admit(&mut self, part: &Part) -> Result<(), BackupError> {
        match part {
            Part::Header(header) => {
                let Header { revision, oldest, .. } = header;
                if *oldest == 0 || *revision == Revision::MAX || *oldest > revision.next() {
                    return Err(self.damaged("the header contradicts itself"));
                }
                self.next = (*oldest, header.previous);
                self.header = Some(header.clone());
                Ok(())
            }
            Part::State(piece) => {
                self.state_bytes += piece.len() as u64;
                let announced = self.header.as_ref().map_or(0, |header| header.state_bytes);
                if self.state_bytes > announced || self.records > 0 {
                    return Err(self.damaged("more state than the header announces"));
                }
                Ok(())
            }
            Part::Records(records) => self.admit_records(records),
            Part::End(end) => self.admit_end(end),
        }
    }

    fn admit_records(&mut self, records: &[Record]) -> Result<(), BackupError> {
        self.check_state_is_whole()?;
        let last = self.header.as_ref().map_or(Revision(0), |header| header.revision);
        for record in records {
            let (revision, digest) = &self.next;
            if record.revision != *revision || *revision > last {
                let why = format!("record {} comes where {revision} should", record.revision);
                return Err(self.damaged(why));
            }
            if !record.follows(digest) {
                let why = format!("the digest of record {revision} does not continue the chain");
                return Err(self.damaged(why));
            }
            self.next = (revision.next(), record.digest);
            self.records += 1;
        }
        Ok(())
    }

    fn admit_end(&mut self, end: &End) -> Result<(), BackupError> {
        self.check_state_is_whole()?;
        let last = self.header.as_ref().map(|header| (header.revision.next(), header.digest));
        if last != Some(self.next) {
            return Err(self.damaged("the history does not end at the state"));
        }
        let digest = Digest(*self.hasher.finalize().as_bytes());
        if *end != (End { bytes: self.offset, records: self.records, digest }) {
            return Err(self.damaged("the digest of the whole is wrong"));
        }
        self.end = Some(*end);
        Ok(())
    }

    fn check_state_is_whole(&self) -> Result<(), BackupError> {
        match &self.header {
            Some(header) if header.state_bytes == self.state_bytes => Ok(()),
            _ => Err(self.damaged("state is missing")),
        }
    }
}

/// The end of a backup of `length` bytes, parsed from its last bytes (128 are enough) without reading the rest. It
/// identifies the backup, but does not verify the rest.
#[must_use]
pub fn end_of(tail: &[u8], length: u64) -> Option<End> {
    (0..tail.len()).find_map(|at| {
        let frame = tail.get(at..)?;
        let (size, kind, check) = prefix(frame)?;
        let payload = frame.get(PREFIX_BYTES..)?;
        let offset = length.checked_sub(frame.len() as u64)?;
        let is_end = kind == kind::END
            && size as usize == payload.len()
            && check_of(offset, size, kind, payload) == check;
        is_end.then(|| unwire(payload).ok()).flatten()
    })
}

/// Length, kind and check of a frame, if complete.
fn prefix(bytes: &[u8]) -> Option<(u32, u8, [u8; 8])> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    let check = bytes.get(5..PREFIX_BYTES)?.try_into().ok()?;
    Some((length, *bytes.get(4)?, check))
}

/// The payload, decompressed.
fn unpack(kind: u8, payload: &[u8]) -> Result<Cow<'_, [u8]>, &'static str> {
    if kind & LZ4 == 0 {
        return Ok(Cow::Borrowed(payload));
    }
    let (size, packed) =
        block::uncompressed_size(payload).map_err(|_| "a compressed part is too short")?;
    if size > FRAME_BYTES_MAX {
        return Err("a compressed part is larger than the bound");
    }
    let raw = block::decompress(packed, size).map_err(|_| "a part does not decompress")?;
    if raw.len() == size { Ok(Cow::Owned(raw)) } else { Err("a part decompresses to another size") }
}

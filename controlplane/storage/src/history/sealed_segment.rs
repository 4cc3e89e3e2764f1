//! Closed segments, compressed in blocks, so that one record is read without decompressing the rest.
//!
//! ```text
//!   header (as of an open segment) · blocks (LZ4 each) · index of the blocks · footer (80 bytes)
//! ```

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use romana_statemachine::{Digest, Revision, entry};
use serde::{Deserialize, Serialize};

use super::Collector;
use super::error::HistoryError;
use super::frame::{self, HEADER, Item, Start, u32_at, u64_at};
use super::open_segment::{Raw, collect};
use crate::durable::{Disk, Files};
use crate::platform::FileExt;
use crate::platform::fs::File;

/// File extension of a closed segment.
pub(super) const PACKED: &str = "lz4";
/// File extension of a temporary file.
pub(super) const PARTIAL: &str = "tmp";

const FOOTER: usize = 80;
const FOOTER_MAGIC: [u8; 8] = *b"ROMANAFT";
/// Uncompressed bytes per block: what is decompressed to read one record.
const BLOCK_BYTES: usize = 32 << 10;

/// Index entry of a block.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Block {
    /// Revision of its first record.
    first: Revision,
    offset: u64,
    packed: u32,
    raw: u32,
    /// Checksum of the compressed bytes.
    crc: u32,
}

/// An immutable segment. Its file is opened only for reads, because there may be thousands.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) start: Start,
    pub(super) path: PathBuf,
    pub(super) last: Revision,
    /// Digest of the last record.
    pub(super) digest: Digest,
    index_offset: u64,
    index_len: usize,
    index_crc: u32,
    blocks: OnceLock<Vec<Block>>,
}

impl Packed {
    /// Reads header and footer.
    pub(super) fn open(path: PathBuf) -> Result<Self, HistoryError> {
        let file = File::open(&path).map_err(HistoryError::io("open", &path))?;
        let length = file.metadata().map_err(HistoryError::io("inspect", &path))?.len();
        let bad = |offset, why: &str| HistoryError::damaged(&path, offset, why);
        let Some(at) = length.checked_sub(FOOTER as u64) else {
            return Err(bad(length, "the file is shorter than a footer"));
        };
        let header = read(&file, &path, 0, HEADER.min(usize::try_from(at).unwrap_or(HEADER)))?;
        let start = Start::decode(&header).map_err(|why| bad(0, &why))?;
        let footer = read(&file, &path, at, FOOTER)?;
        if footer[..8] != FOOTER_MAGIC || crc32fast::hash(&footer[..76]) != u32_at(&footer, 76) {
            return Err(bad(at, "the footer is not one of a history segment, or damaged"));
        }
        let (index_offset, index_len) = (u64_at(&footer, 48), u32_at(&footer, 56) as usize);
        if index_offset.checked_add(index_len as u64) != Some(at) {
            return Err(bad(at, "the index of the blocks does not end at the footer"));
        }
        let digest = footer[16..].first_chunk().copied().map(Digest).unwrap_or_default();
        let last = Revision(u64_at(&footer, 8));
        let index_crc = u32_at(&footer, 60);
        let blocks = OnceLock::new();
        Ok(Self { start, path, last, digest, index_offset, index_len, index_crc, blocks })
    }

    /// Reads records from the collector's next one, until it is full or the segment ends.
    pub(super) fn read(&self, collector: &mut Collector) -> Result<(), HistoryError> {
        let blocks = self.blocks()?;
        let after = blocks.partition_point(|block| block.first <= collector.next);
        for block in &blocks[after.saturating_sub(1)..] {
            if collector.is_full() {
                break;
            }
            let bytes = match collector.cached(self.start.first, block.offset) {
                Some(bytes) => bytes,
                None => {
                    let bytes = Arc::new(self.unpack(block)?);
                    collector.cache(self.start.first, block.offset, &bytes);
                    bytes
                }
            };
            let mut revision = block.first;
            let used = collect(&bytes, &mut revision, collector)
                .map_err(|(_, why)| self.damaged(block.offset, why))?;
            if used < bytes.len() && !collector.is_full() {
                return Err(self.damaged(block.offset, "a block ends within a record"));
            }
        }
        Ok(())
    }

    fn blocks(&self) -> Result<&[Block], HistoryError> {
        if let Some(blocks) = self.blocks.get() {
            return Ok(blocks);
        }
        let file = File::open(&self.path).map_err(HistoryError::io("open", &self.path))?;
        let bytes = read(&file, &self.path, self.index_offset, self.index_len)?;
        if crc32fast::hash(&bytes) != self.index_crc {
            return Err(self.damaged(self.index_offset, "the checksum of the index is wrong"));
        }
        let blocks = entry::unwire(&bytes)
            .map_err(|error| self.damaged(self.index_offset, format!("bad index: {error}")))?;
        Ok(self.blocks.get_or_init(|| blocks))
    }

    fn unpack(&self, block: &Block) -> Result<Vec<u8>, HistoryError> {
        let file = File::open(&self.path).map_err(HistoryError::io("open", &self.path))?;
        let bytes = read(&file, &self.path, block.offset, block.packed as usize)?;
        if crc32fast::hash(&bytes) != block.crc {
            return Err(self.damaged(block.offset, "the checksum of a block is wrong"));
        }
        lz4_flex::block::decompress(&bytes, block.raw as usize)
            .map_err(|error| self.damaged(block.offset, format!("cannot unpack: {error}")))
    }

    /// Size of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.index_offset + (self.index_len + FOOTER) as u64
    }

    fn damaged(&self, offset: u64, why: impl Into<String>) -> HistoryError {
        HistoryError::damaged(&self.path, offset, why)
    }
}

/// A segment that is complete, and its last record.
pub(super) struct Full {
    pub(super) raw: Arc<Raw>,
    pub(super) last: (Revision, Digest),
}

/// Compresses a full segment into a temporary file beside it, durably, and returns the path. The caller renames it to
/// [`packed_path`].
pub(super) fn pack(full: &Full) -> Result<PathBuf, HistoryError> {
    let raw = &*full.raw;
    let length = usize::try_from(raw.index().end).unwrap_or(usize::MAX);
    let content = read(&raw.file, &raw.path, 0, length)?;
    let bytes = encode(raw.start, full.last, &content)
        .map_err(|(at, why)| HistoryError::damaged(&raw.path, at as u64, why))?;
    let path = raw.path.with_extension(PARTIAL);
    Disk.write(&path, |file| file.write_all(&bytes))?;
    Ok(path)
}

/// Path of the sealed form of a segment.
pub(super) fn packed_path(raw: &Raw) -> PathBuf {
    raw.path.with_extension(PACKED)
}

/// Encodes the sealed form of a complete segment; or the offset of an error in it, and what it is.
fn encode(
    start: Start,
    last: (Revision, Digest),
    content: &[u8],
) -> Result<Vec<u8>, (usize, String)> {
    let mut bytes = start.encode().to_vec();
    let mut blocks = Vec::new();
    let mut raw = Vec::new();
    let (mut first, mut next) = (start.first, start.first);
    let mut at = HEADER;
    while at < content.len() {
        let (item, end) = frame::item(content, at).map_err(|why| (at, why.to_owned()))?;
        if matches!(item, Item::Record(_)) {
            raw.extend_from_slice(&content[at..end]);
            next = next.next();
        }
        at = end;
        if raw.len() >= BLOCK_BYTES || (at >= content.len() && !raw.is_empty()) {
            blocks.push(push_block(&mut bytes, first, &raw));
            raw.clear();
            first = next;
        }
    }
    if next != last.0.next() {
        return Err((at, format!("the segment ends before revision {}", last.0)));
    }
    let index = entry::wire(&blocks);
    let footer = footer(last, bytes.len() as u64, &index);
    bytes.extend_from_slice(&index);
    bytes.extend_from_slice(&footer);
    Ok(bytes)
}

fn push_block(bytes: &mut Vec<u8>, first: Revision, raw: &[u8]) -> Block {
    let packed = lz4_flex::block::compress(raw);
    let offset = bytes.len() as u64;
    bytes.extend_from_slice(&packed);
    // A block is slightly longer than `BLOCK_BYTES`, or has one record.
    let short = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let crc = crc32fast::hash(&packed);
    Block { first, offset, packed: short(packed.len()), raw: short(raw.len()), crc }
}

fn footer(last: (Revision, Digest), index_offset: u64, index: &[u8]) -> [u8; FOOTER] {
    let mut footer = [0; FOOTER];
    footer[..8].copy_from_slice(&FOOTER_MAGIC);
    footer[8..16].copy_from_slice(&last.0.get().to_le_bytes());
    footer[16..48].copy_from_slice(&last.1.0);
    footer[48..56].copy_from_slice(&index_offset.to_le_bytes());
    footer[56..60].copy_from_slice(&u32::try_from(index.len()).unwrap_or(u32::MAX).to_le_bytes());
    footer[60..64].copy_from_slice(&crc32fast::hash(index).to_le_bytes());
    let crc = crc32fast::hash(&footer[..76]);
    footer[76..].copy_from_slice(&crc.to_le_bytes());
    footer
}

fn read(file: &File, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>, HistoryError> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset).map_err(HistoryError::io("read", path))?;
    Ok(bytes)
}

//! # Backups
//!
//! A backup is the state at one revision and the history up to it, as one stream of bytes: a file, or the response of
//! `GET /v1/backup`. It is written and read frame by frame; no frame is larger than [`FRAME_BYTES_MAX`].
//!
//! ```text
//!   magic 8 · frame · frame …
//!   frame    length u32 · kind u8 · check 8 · payload          numbers little-endian
//!   check    first 8 bytes of BLAKE3 over offset in the file u64 · length · kind · payload
//!   kinds    1 header   2 state, in pieces   3 records, in batches   4 end;  + 128: payload is LZ4
//! ```
//! In this order. `end` carries the digest of all bytes before it; a stream without `end` is not a complete backup.
//! The framing never changes. The format number at the start of the header defines the payloads; a program refuses
//! formats newer than its own.
//!
//! ## Laws
//! 1. What [`Reader`] accepts to the end is byte for byte what one [`Writer`] wrote.
//! 2. A reader holds one frame and the bytes pushed last, whatever the input.
//! 3. What [`Check`] accepts besides is a state whose invariants hold, at the end of a history whose
//!    digests chain up to it; if that history is complete, replaying it gives that state.

mod check;
mod read;
mod write;

use alloc::string::String;

use serde::{Deserialize, Serialize};

pub use check::{Check, Checked};
pub use read::{Part, Reader, end_of};
pub use write::Writer;

use crate::entry::{Digest, Index, Millis, Revision, Term};
use crate::state::State;

/// The first bytes of every backup.
pub const MAGIC: [u8; 8] = *b"ROMBKUP\n";
/// The format that this program writes, and the newest that it reads.
pub const FORMAT: u16 = 1;
/// Largest payload of a frame, bytes, before and after compression.
pub const FRAME_BYTES_MAX: usize = 32 << 20;
/// Bytes of state per frame.
pub const STATE_PIECE_BYTES: usize = 1 << 20;

/// Bytes of the frame header: length, kind, check.
const PREFIX_BYTES: usize = 13;
/// Payloads of at least this size are compressed, if that makes them smaller.
const COMPRESS_BYTES_MIN: usize = 4 << 10;
/// Added to the kind of a compressed frame.
const LZ4: u8 = 128;

/// Kinds of frames.
mod kind {
    pub(super) const HEADER: u8 = 1;
    pub(super) const STATE: u8 = 2;
    pub(super) const RECORDS: u8 = 3;
    pub(super) const END: u8 = 4;
}

/// Describes a backup. Frozen, like all of format 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the program that wrote it, for information.
    pub program: String,
    /// Id of the cluster.
    pub cluster: String,
    /// Id of the replica that took the backup.
    pub replica: u64,
    /// When it was taken, by that replica's clock.
    pub taken_at: Millis,
    /// Recovered from the data directory of a stopped replica: its last records may never have been acknowledged, and
    /// acknowledged ones may be missing.
    pub recovered: bool,
    /// Revision of the state.
    pub revision: Revision,
    /// Digest of the history at that revision.
    pub digest: Digest,
    /// Time of the last entry in the state.
    pub at: Millis,
    /// Raft index of that entry.
    pub index: Index,
    pub term: Term,
    /// Digest of the content of the state ([`State::state_digest`]).
    pub state_digest: Digest,
    /// Length of the state, bytes.
    pub state_bytes: u64,
    /// Revision of the first record; one more than `revision` when there is none.
    pub oldest: Revision,
    /// Digest of the history before `oldest`.
    pub previous: Digest,
    /// Hosts in the state.
    pub hosts: u64,
    /// Live addresses in the state.
    pub addresses: u64,
}

/// Where and how a backup is taken.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Version of the program.
    pub program: String,
    /// Id of the cluster.
    pub cluster: String,
    /// Id of the replica.
    pub replica: u64,
    /// When, by the clock of the replica.
    pub taken_at: Millis,
    /// Recovered from the data of a stopped replica.
    pub recovered: bool,
}

impl Header {
    /// The header of a backup of `state`, whose snapshot has `state_bytes` bytes, with the records from `oldest` on;
    /// `previous` is the digest before `oldest`. O(n).
    #[must_use]
    pub fn of(
        state: &State,
        state_bytes: usize,
        origin: Origin,
        (oldest, previous): (Revision, Digest),
    ) -> Self {
        let Origin { program, cluster, replica, taken_at, recovered } = origin;
        Self {
            program,
            cluster,
            replica,
            taken_at,
            recovered,
            revision: state.revision(),
            digest: state.digest(),
            at: state.at(),
            index: state.index(),
            term: state.term,
            state_digest: state.state_digest(),
            state_bytes: state_bytes as u64,
            oldest,
            previous,
            hosts: state.hosts().count() as u64,
            addresses: state.ipam().address_count() as u64,
        }
    }

    /// Records in the backup.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.revision.next().since(self.oldest)
    }

    /// Whether the history goes back to the first event.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.oldest == 1
    }
}

/// The end of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Bytes before the end.
    pub bytes: u64,
    /// Records among them.
    pub records: u64,
    /// BLAKE3 of the bytes before the end. It identifies the backup.
    pub digest: Digest,
}

/// Why a backup cannot be read or used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// The magic is missing.
    #[error("this is not a backup: it does not begin like one")]
    NotBackup,
    /// Written by a newer program.
    #[error(
        "the backup has format {format}, and this program reads up to {FORMAT}: use a newer one"
    )]
    Format {
        /// The format in the header.
        format: u16,
    },
    /// The end is missing.
    #[error(
        "the backup is cut short after {bytes} bytes (whole up to byte {whole}, revision {revision}): \
         take it again"
    )]
    Truncated {
        /// Bytes that were read.
        bytes: u64,
        /// Bytes of complete frames among them.
        whole: u64,
        /// Revision of the last complete record; 0 if there is none.
        revision: Revision,
    },
    /// The bytes differ from those that were written.
    #[error("the backup is damaged at byte {offset}: {why}")]
    Damaged {
        /// Offset of the frame.
        offset: u64,
        why: String,
    },
    /// The bytes are intact, but the content contradicts itself.
    #[error("the backup is inconsistent: {why}")]
    Inconsistent { why: String },
}

/// The check of a frame.
fn check_of(offset: u64, length: u32, kind: u8, payload: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&offset.to_le_bytes());
    hasher.update(&length.to_le_bytes());
    hasher.update(&[kind]);
    hasher.update(payload);
    let mut check = [0; 8];
    let digest = hasher.finalize();
    check.iter_mut().zip(digest.as_bytes()).for_each(|(to, from)| *to = *from);
    check
}

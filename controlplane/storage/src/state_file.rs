//! A file that contains a state, with a typed head: the format of snapshots and checkpoints.
//!
//! ```text
//!   magic 8 · head length u32 · head crc32 u32 · head (postcard) · body (lz4 frame of the state)
//!                                                 the caller's part, then lengths and digest of the body
//! ```
//! Opening a file checks the head and the file's length; reading the state checks the rest. Atomic renames are in
//! [`crate::durable`].

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use lz4_flex::frame::{FrameDecoder, FrameEncoder};
use romana_statemachine::entry::{unwire, wire};
use romana_statemachine::{Digest, State};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::platform::FileExt;
use crate::platform::fs::File;

const PREFIX_BYTES: usize = 16;

/// Format of one kind of state file.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// Magic number at the start.
    pub magic: &'static [u8; 8],
    /// Maximum length of the head, in bytes.
    pub head_bytes_max: usize,
}

/// Last part of the head in every format.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Body {
    state_bytes: u64,
    body_bytes: u64,
    body_digest: Digest,
}

/// Why a state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// A file operation failed.
    #[error("{}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The contents are corrupt.
    #[error("{} is not whole: {why}", .path.display())]
    Damaged { path: PathBuf, why: String },
}

/// An encoded state file, to be written.
#[derive(Debug)]
pub struct Encoded {
    prefix: [u8; PREFIX_BYTES],
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Encoded {
    /// Encodes a state under a head. Takes about a second per million addresses.
    ///
    /// # Errors
    /// The state cannot be compressed.
    pub fn new<H: Serialize>(form: &Form, head: &H, state: &State) -> io::Result<Self> {
        let bytes = state.snapshot();
        let mut encoder = FrameEncoder::new(Vec::new());
        encoder.write_all(&bytes)?;
        let body = encoder.finish()?;
        let (state_bytes, body_bytes) = (bytes.len() as u64, body.len() as u64);
        let head = wire(&(head, Body { state_bytes, body_bytes, body_digest: Digest::of(&body) }));
        let length = u32::try_from(head.len()).unwrap_or(u32::MAX);
        let mut prefix = [0; PREFIX_BYTES];
        prefix[..8].copy_from_slice(form.magic);
        prefix[8..12].copy_from_slice(&length.to_le_bytes());
        prefix[12..].copy_from_slice(&crc32fast::hash(&head).to_le_bytes());
        Ok(Self { prefix, head, body })
    }

    /// Writes the encoded file.
    ///
    /// # Errors
    /// The I/O error.
    pub fn write_to(&self, file: &mut impl Write) -> io::Result<()> {
        [&self.prefix[..], &self.head, &self.body].iter().try_for_each(|part| file.write_all(part))
    }

    /// Length of the encoded file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.prefix.len() + self.head.len() + self.body.len()) as u64
    }
}

/// An open file whose head was read. It stays readable after it is unlinked.
#[derive(Clone, Debug)]
pub struct StateFile<H> {
    path: PathBuf,
    file: Arc<File>,
    bytes: u64,
    body_at: u64,
    head: Arc<H>,
    body: Body,
}

impl<H: DeserializeOwned> StateFile<H> {
    /// Opens a file and checks its head. Blocks.
    ///
    /// # Errors
    /// [`StateFileError`].
    pub fn open(form: &Form, path: &Path) -> Result<Self, StateFileError> {
        let io = |source| StateFileError::Io { path: path.into(), source };
        let damaged = |why: String| StateFileError::Damaged { path: path.into(), why };
        let short = |_| damaged("it is too short".into());
        let mut file = File::open(path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        let mut prefix = [0; PREFIX_BYTES];
        file.read_exact(&mut prefix).map_err(short)?;
        let (magic, numbers) = prefix.split_at(form.magic.len());
        if magic != form.magic {
            return Err(damaged("it does not start like one".into()));
        }
        let number = |at: usize| {
            let four = numbers.get(at..at + 4).and_then(|four| four.try_into().ok());
            four.map_or(0, u32::from_le_bytes)
        };
        let length = number(0) as usize;
        if length > form.head_bytes_max {
            return Err(damaged("its head is too long".into()));
        }
        let mut head = vec![0; length];
        file.read_exact(&mut head).map_err(short)?;
        if crc32fast::hash(&head) != number(4) {
            return Err(damaged("the checksum of the head is wrong".into()));
        }
        let (head, body): (H, Body) =
            unwire(&head).map_err(|error| damaged(format!("its head does not parse: {error}")))?;
        let body_at = (PREFIX_BYTES + length) as u64;
        if body_at.checked_add(body.body_bytes) != Some(bytes) {
            return Err(damaged("the file has another length than the head says".into()));
        }
        let (path, file, head) = (path.into(), Arc::new(file), Arc::new(head));
        Ok(Self { path, file, bytes, body_at, head, body })
    }
}

impl<H> StateFile<H> {
    /// The caller's part of the head.
    #[must_use]
    pub fn head(&self) -> &H {
        &self.head
    }

    /// Path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The same file under its new name, after a rename.
    #[must_use]
    pub fn named(self, path: PathBuf) -> Self {
        Self { path, ..self }
    }

    /// A [`StateFileError::Damaged`] for this file.
    pub fn damaged(&self, why: impl Into<String>) -> StateFileError {
        StateFileError::Damaged { path: self.path.clone(), why: why.into() }
    }

    /// Bytes from `at`, at most `max`; empty at the end. Blocks.
    ///
    /// # Errors
    /// The I/O error.
    pub fn read_at(&self, at: u64, max: usize) -> io::Result<Bytes> {
        let left = usize::try_from(self.bytes.saturating_sub(at)).unwrap_or(max);
        let mut chunk = vec![0; max.min(left)];
        self.file.read_exact_at(&mut chunk, at)?;
        Ok(chunk.into())
    }

    /// Decodes and verifies the state. Blocks, for about a second per million addresses.
    ///
    /// # Errors
    /// [`StateFileError`].
    pub fn read_state(&self) -> Result<State, StateFileError> {
        let Body { state_bytes, body_bytes, body_digest } = self.body;
        let length = usize::try_from(body_bytes).map_err(|e| self.damaged(e.to_string()))?;
        let mut body = vec![0; length];
        let read = self.file.read_exact_at(&mut body, self.body_at);
        read.map_err(|source| StateFileError::Io { path: self.path.clone(), source })?;
        if Digest::of(&body) != body_digest {
            return Err(self.damaged("the digest of the body is wrong"));
        }
        let mut bytes = Vec::new();
        let mut body = FrameDecoder::new(body.as_slice()).take(state_bytes + 1);
        body.read_to_end(&mut bytes).map_err(|e| self.damaged(e.to_string()))?;
        if bytes.len() as u64 != state_bytes {
            return Err(self.damaged("the state has another length than the head says"));
        }
        State::from_snapshot(&bytes).map_err(|e| self.damaged(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use romana_statemachine::Revision;

    use std::fs;

    use super::*;

    const FORM: Form = Form { magic: b"ROMTEST\x01", head_bytes_max: 256 };

    #[test]
    fn a_file_has_the_bytes_that_it_always_had() {
        let encoded = Encoded::new(&FORM, &(7u16, "c"), &State::new()).unwrap();
        let mut bytes = Vec::new();
        encoded.write_to(&mut bytes).unwrap();
        assert_eq!(encoded.bytes(), bytes.len() as u64);
        // magic · length · checksum · 7, "c" · length of the state, of the body, digest of the body · body
        let state = State::new().snapshot();
        let body_digest = Digest::of(&encoded.body);
        let lengths = wire(&(state.len() as u64, encoded.body.len() as u64, body_digest));
        let head = [&[7, 1, b'c'][..], &lengths].concat();
        let length = u32::try_from(head.len()).unwrap();
        let crc = crc32fast::hash(&head).to_le_bytes();
        let expected = [&b"ROMTEST\x01"[..], &length.to_le_bytes(), &crc, &head, &encoded.body];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn damage_is_found_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut whole = Vec::new();
        let encoded = Encoded::new(&FORM, &7u16, &State::new()).unwrap();
        encoded.write_to(&mut whole).unwrap();
        let read = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let file = StateFile::<u16>::open(&FORM, &path)?;
            Ok::<_, StateFileError>((*file.head(), file.read_state()?.revision()))
        };
        assert_eq!(read(&whole).unwrap(), (7, Revision(0)));
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            assert!(matches!(read(&bytes), Err(StateFileError::Damaged { .. })), "at {at}");
            assert!(matches!(read(&whole[..at]), Err(StateFileError::Damaged { .. })), "to {at}");
        }
    }
}

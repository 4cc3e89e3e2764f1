//! Checks the content of a backup, beyond its bytes: the state, and the history that led to it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{BackupError, End, Header, Part};
use crate::entry::Record;
use crate::state::State;

/// Takes the parts that a [`super::Reader`] returns and checks their content.
#[derive(Debug, Default)]
pub struct Check {
    header: Option<Header>,
    bytes: Vec<u8>,
    state: Option<State>,
    /// The state from replaying the records, from the first on.
    replayed: Option<State>,
    end: Option<End>,
}

/// A backup that passed all checks.
#[derive(Clone, Debug)]
pub struct Checked {
    pub header: Header,
    pub end: End,
    pub state: State,
    /// Whether the history was complete, and replaying it gave the same state.
    pub replayed: bool,
}

impl Check {
    /// A check before the first part.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next part.
    ///
    /// # Errors
    /// [`BackupError::Inconsistent`].
    pub fn part(&mut self, part: &Part) -> Result<(), BackupError> {
        match part {
            Part::Header(header) => {
                self.replayed = header.is_complete().then(State::new);
                self.header = Some(header.clone());
                self.decode_when_whole()
            }
            Part::State(piece) => {
                self.bytes.extend_from_slice(piece);
                self.decode_when_whole()
            }
            Part::Records(records) => self.replay(records),
            Part::End(end) => {
                self.end = Some(*end);
                Ok(())
            }
        }
    }

    /// The result, after the end.
    ///
    /// # Errors
    /// [`BackupError::Inconsistent`], also before the end.
    pub fn finish(self) -> Result<Checked, BackupError> {
        let Self { header: Some(header), state: Some(state), end: Some(end), replayed, .. } = self
        else {
            return Err(wrong("it has no end"));
        };
        if let Some(replayed) = &replayed
            && (replayed.digest() != header.digest
                || replayed.state_digest() != header.state_digest)
        {
            return Err(wrong("replaying its history gives another state"));
        }
        Ok(Checked { header, end, state, replayed: replayed.is_some() })
    }

    fn decode_when_whole(&mut self) -> Result<(), BackupError> {
        let Some(header) = &self.header else { return Ok(()) };
        if (self.bytes.len() as u64) < header.state_bytes {
            return Ok(());
        }
        let state = State::from_snapshot(&self.bytes);
        self.bytes = Vec::new();
        let state = state.map_err(|error| wrong(format!("its state: {error}")))?;
        if (state.revision(), state.digest()) != (header.revision, header.digest) {
            return Err(wrong("its state is of another revision than the header says"));
        }
        if state.state_digest() != header.state_digest {
            return Err(wrong("the digest of its state is not what the header says"));
        }
        state.validate().map_err(|what| {
            let first = what.first().cloned().unwrap_or_default();
            wrong(format!("{} invariants of its state do not hold: {first}", what.len()))
        })?;
        self.state = Some(state);
        Ok(())
    }

    fn replay(&mut self, records: &[Record]) -> Result<(), BackupError> {
        let Some(replayed) = &mut self.replayed else { return Ok(()) };
        for record in records {
            replayed.follow(record).map_err(|error| wrong(format!("its history: {error}")))?;
        }
        Ok(())
    }
}

fn wrong(why: impl Into<String>) -> BackupError {
    BackupError::Inconsistent { why: why.into() }
}

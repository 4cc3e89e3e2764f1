//! Takes a backup: a stream of bytes, produced at the pace of the reader.

use std::time::{SystemTime, UNIX_EPOCH};

use romana_statemachine::backup::{BackupError, Header, Origin, STATE_PIECE_BYTES, Writer};
use romana_statemachine::{Millis, Revision, State};
use romana_storage::history::{History, HistoryError};

/// Maximum records and bytes per batch.
const BATCH_RECORDS_MAX: usize = 8192;
const BATCH_BYTES_MAX: usize = 512 << 10;

/// Why a backup cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The history cannot be read.
    #[error("the history cannot be read")]
    History(#[from] HistoryError),
    /// State and history do not match.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The history ends before the revision of the state.
    #[error("the history ends before revision {revision}")]
    Behind { revision: Revision },
}

/// A backup in progress. Holds the encoded state and at most one batch of records.
pub struct Take {
    header: Header,
    state: Vec<u8>,
    /// Bytes of the state already written.
    written: usize,
    history: History,
    next: Revision,
    first: Option<Vec<u8>>,
    writer: Option<Writer>,
}

impl Take {
    /// Begins a backup of `state`, which the history must reach; without `records`, a backup of the state
    /// only. Takes about a second per million addresses.
    ///
    /// # Errors
    /// [`TakeError::Behind`].
    pub fn begin(
        state: &State,
        history: History,
        origin: Origin,
        records: bool,
    ) -> Result<Self, TakeError> {
        let (revision, digest) = (state.revision(), state.digest());
        if history.last().0 < revision {
            return Err(TakeError::Behind { revision });
        }
        let (oldest, previous) = history.begin();
        let from = if records && oldest <= revision {
            (oldest, previous)
        } else {
            (revision.next(), digest)
        };
        let bytes = state.snapshot();
        let header = Header::of(state, bytes.len(), origin, from);
        let (writer, first) = Writer::begin(&header);
        let (first, writer) = (Some(first), Some(writer));
        Ok(Self { header, state: bytes, written: 0, history, next: from.0, first, writer })
    }

    /// The header of this backup.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next bytes; `None` after the last. Blocks on the disk.
    ///
    /// # Errors
    /// [`TakeError`]; the bytes returned so far are then not a valid backup.
    pub fn piece(&mut self) -> Result<Option<Vec<u8>>, TakeError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let Some(writer) = &mut self.writer else { return Ok(None) };
        if self.written < self.state.len() {
            let end = self.state.len().min(self.written + STATE_PIECE_BYTES);
            let bytes = writer.state(self.state.get(self.written..end).unwrap_or_default())?;
            self.written = end;
            if end == self.state.len() {
                self.state = Vec::new();
                self.written = 0;
            }
            return Ok(Some(bytes));
        }
        if self.next <= self.header.revision {
            let mut records = self.history.read(self.next, BATCH_RECORDS_MAX, BATCH_BYTES_MAX)?;
            records.retain(|record| record.revision <= self.header.revision);
            let behind = TakeError::Behind { revision: self.header.revision };
            self.next = records.last().ok_or(behind)?.revision.next();
            return Ok(Some(writer.records(&records)?));
        }
        match self.writer.take() {
            Some(writer) => Ok(Some(writer.end()?.0)),
            None => Ok(None),
        }
    }
}

/// Wall-clock time, for headers.
#[must_use]
pub fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Origin of a backup, for headers.
#[must_use]
pub fn origin(cluster: String, replica: u64, recovered: bool) -> Origin {
    let program = env!("CARGO_PKG_VERSION").into();
    Origin { program, cluster, replica, taken_at: now(), recovered }
}

//! Taking a backup: its bytes, piece by piece, as fast as whoever reads them.

use std::time::{SystemTime, UNIX_EPOCH};

use romana_statemachine::backup::{BackupError, Header, Origin, STATE_PIECE_BYTES, Writer};
use romana_statemachine::{Millis, Revision, State};
use romana_storage::history::{History, HistoryError};

/// Records in one piece, at most, and bytes of them.
const BATCH_RECORDS_MAX: usize = 8192;
const BATCH_BYTES_MAX: usize = 512 << 10;

/// Why a backup cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The history cannot be read.
    #[error("the history cannot be read")]
    History(#[from] HistoryError),
    /// State and history do not fit together.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The history ends before the state.
    #[error("the history ends before revision {revision}")]
    Behind {
        /// Revision of the state.
        revision: Revision,
    },
}

/// A backup that is being written. Holds the bytes of the state, and no more than one batch of records.
pub struct Take {
    header: Header,
    state: Vec<u8>,
    /// State that was written, bytes.
    written: usize,
    history: History,
    next: Revision,
    first: Option<Vec<u8>>,
    writer: Option<Writer>,
}

impl Take {
    /// Begins a backup of `state`, which the history must reach; without `records`, of the state
    /// alone. Takes about a second per million addresses.
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

    /// What it is of.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next bytes; `None` after the last. Blocks on the disk.
    ///
    /// # Errors
    /// [`TakeError`]; what was given out is then no backup.
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

/// The clock, for headers.
#[must_use]
pub fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Where a backup is taken.
#[must_use]
pub fn origin(cluster: String, replica: u64, recovered: bool) -> Origin {
    let program = env!("CARGO_PKG_VERSION").into();
    Origin { program, cluster, replica, taken_at: now(), recovered }
}

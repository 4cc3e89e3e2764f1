//! Replays an exported history: computes the state from the output of `GET /v1/audit/export`, without a
//! server and without trusting the file.
//!
//! ```text
//!   {"romana_history":1,"cluster_id":…,"first":…,"previous":…,"state":…,"last":…,"digest":…}
//!   record, one per line, as in the feed
//!   {"end":{"revision":…,"digest":…,"state_digest":…}}
//! ```
//!
//! Every record must continue the chain of digests, and the resulting state must match the digest at the end.
//! A truncated, reordered or edited file is refused, with the line number. A file that begins after revision
//! 1 contains the state before its first record; if a later record signs that checkpoint, the state is
//! checked against the signature.
//!
//! Not verifiable: `cluster_id`, which is not signed, and whether the whole file is a consistent forgery. To
//! exclude that, compare the digest at some revision with another source.

use std::io::{self, BufRead};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
pub use romana_api::audit::ExportHeader as Header;
use romana_api::audit::{ExportEnd, ExportLast};
use romana_statemachine::event::CheckpointSigned;
use romana_statemachine::{Digest, Event, Millis, Record, Revision, State};
use serde::Deserialize;

use crate::follow::parse_record;

/// Size limit of a record's line, bytes: one with the largest possible topology.
pub const RECORD_BYTES_MAX: usize = 64 << 20;
/// Size limit of the first line, bytes: one that contains the state of a large cluster.
pub const HEADER_BYTES_MAX: usize = 2 << 30;
/// Version of the file format.
const FORMAT: u64 = 1;

/// Why a file is not a valid export.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("line {line}: {why}")]
    Line { line: u64, why: String },
    #[error("the file cannot be read after line {line}")]
    Io {
        /// The last line that was read.
        line: u64,
        source: io::Error,
    },
}

/// Where the replay stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Until {
    /// At the end, which is verified.
    #[default]
    End,
    /// At this revision. Later records are not read.
    Revision(Revision),
    /// At the last record that is not after this time.
    Time(Millis),
}

/// The result of a replay.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// First line of the file.
    pub header: Header,
    /// The state at the end of the replay.
    pub state: State,
    pub state_digest: Digest,
    /// Number of records applied.
    pub records: u64,
    /// Whether the end of the file was reached and verified.
    pub complete: bool,
    /// The record that signs the initial state of the file, if the replay reached it.
    pub vouched_by: Option<Revision>,
}

/// A replay in progress, which takes lines. Memory is bounded by the state's size.
#[derive(Debug)]
pub struct Replay {
    until: Until,
    line: u64,
    header: Option<Header>,
    state: State,
    /// Digest of the state in the header.
    base: Option<Digest>,
    vouched_by: Option<Revision>,
    records: u64,
    ended: Option<Digest>,
    stopped: bool,
}

impl Replay {
    /// The state before the first line.
    #[must_use]
    pub fn new(until: Until) -> Self {
        Self {
            until,
            line: 0,
            header: None,
            state: State::new(),
            base: None,
            vouched_by: None,
            records: 0,
            ended: None,
            stopped: false,
        }
    }

    /// The last revision replayed.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.state.revision()
    }

    /// The first line, once it was read.
    #[must_use]
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// Whether the replay has reached its end point and needs no further lines.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.stopped
    }

    /// Processes the next line, with or without its line end.
    ///
    /// # Errors
    /// [`ReplayError::Line`]; the replay is invalid afterwards.
    pub fn line(&mut self, line: &[u8]) -> Result<(), ReplayError> {
        self.line += 1;
        if self.stopped {
            return Ok(());
        }
        self.take(line).map_err(|why| ReplayError::Line { line: self.line, why })
    }

    fn take(&mut self, line: &[u8]) -> Result<(), String> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return match self.ended {
                Some(_) => Ok(()),
                None => Err("the line is empty".into()),
            };
        }
        if self.ended.is_some() {
            return Err("there is more after the end".into());
        }
        let Some(header) = &self.header else { return self.begin(line) };
        let last = header.last;
        if line.starts_with(b"{\"end\"") {
            let ExportLast { end } = parse(line, "the end of an export")?;
            return self.end(&end);
        }
        if line.starts_with(b"{\"error\"") {
            let said = String::from_utf8_lossy(&line[..line.len().min(500)]).into_owned();
            return Err(format!("the server could not go on when it was exported: {said}"));
        }
        let (record, unknown) = parse_record(line).map_err(|error| not("a record", &error))?;
        if let Some(member) = unknown {
            let revision = record.revision;
            return Err(format!(
                "record {revision} has {member}, which this program does not know: replay it with a newer one"
            ));
        }
        if record.revision > last {
            return Err(format!("record {} is after the last one, {last}", record.revision));
        }
        self.stopped = match self.until {
            Until::End => false,
            Until::Revision(revision) => record.revision > revision,
            Until::Time(at) => record.at > at,
        };
        if self.stopped {
            return Ok(());
        }
        self.record(&record)?;
        self.stopped = self.until == Until::Revision(record.revision);
        Ok(())
    }

    fn begin(&mut self, line: &[u8]) -> Result<(), String> {
        let mut header: Header = parse(line, "the first line of an exported history")?;
        let Header { romana_history: format, first, previous, last, .. } = header;
        if format != FORMAT {
            return Err(format!("format {format} is not known to this program, only {FORMAT}"));
        }
        if first == 0 || last < first.minus(1) {
            return Err(format!("records {first} to {last} cannot be"));
        }
        match header.state.take() {
            None if first == 1 => {}
            None => return Err(format!("it begins with revision {first} but has no state before")),
            Some(_) if first == 1 => return Err("there is a state before the first record".into()),
            Some(text) => self.state = decode(&text)?,
        }
        let (revision, digest) = (self.state.revision(), self.state.digest());
        if revision != first.minus(1) || digest != previous {
            return Err(format!(
                "the state before the first record is of revision {revision} with digest {digest}, \
                 not of {} with {previous}",
                first.minus(1)
            ));
        }
        if let Until::Revision(wanted) = self.until
            && !(revision..=last).contains(&wanted)
        {
            return Err(format!("the file leads from revision {revision} to {last}, not {wanted}"));
        }
        self.stopped = self.until == Until::Revision(revision);
        self.base = (first > 1).then(|| self.state.state_digest());
        self.header = Some(header);
        Ok(())
    }

    fn record(&mut self, record: &Record) -> Result<(), String> {
        self.state.follow(record).map_err(|error| error.to_string())?;
        self.records += 1;
        if let (Event::CheckpointSigned(signed), Some(base), Some(header)) =
            (&record.event, self.base, &self.header)
            && signed.revision.next() == header.first
        {
            let CheckpointSigned { digest, state_digest, .. } = *signed;
            if digest != header.previous || state_digest != base {
                return Err(format!(
                    "it signs state {state_digest} for revision {}, and the file begins with {base}",
                    signed.revision
                ));
            }
            self.vouched_by = Some(record.revision);
        }
        Ok(())
    }

    fn end(&mut self, end: &ExportEnd) -> Result<(), String> {
        let Some(header) = &self.header else { return Err("it ends before it begins".into()) };
        let state_digest = self.state.state_digest();
        let (revision, digest) = (self.state.revision(), self.state.digest());
        if revision != header.last || digest != header.digest {
            return Err(format!(
                "it ends at revision {revision} with digest {digest}, the first line says {} with {}",
                header.last, header.digest
            ));
        }
        let found = ExportEnd { revision, digest, state_digest };
        if *end != found {
            let said = |end: &ExportEnd| {
                let ExportEnd { revision, digest, state_digest } = end;
                format!("revision {revision} with digest {digest} and state digest {state_digest}")
            };
            return Err(format!("it says {}, and the replay has {}", said(end), said(&found)));
        }
        self.ended = Some(state_digest);
        Ok(())
    }

    /// The result.
    ///
    /// # Errors
    /// [`ReplayError::Line`]: the lines ended too early.
    pub fn finish(self) -> Result<Replayed, ReplayError> {
        let early = |why: String| Err(ReplayError::Line { line: self.line + 1, why });
        let Some(header) = self.header else { return early("the file is empty".into()) };
        let revision = self.state.revision();
        let reached = match self.until {
            Until::End => false,
            Until::Revision(wanted) => revision == wanted,
            Until::Time(_) => self.stopped,
        };
        if self.ended.is_none() && !reached {
            let last = header.last;
            return early(format!(
                "the file was cut: it ends after revision {revision}, the last one is {last}, and \
                 there is no end line"
            ));
        }
        let state_digest = self.ended.unwrap_or_else(|| self.state.state_digest());
        Ok(Replayed {
            header,
            state: self.state,
            state_digest,
            records: self.records,
            complete: self.ended.is_some(),
            vouched_by: self.vouched_by,
        })
    }
}

fn parse<'a, T: Deserialize<'a>>(line: &'a [u8], what: &str) -> Result<T, String> {
    serde_json::from_slice(line).map_err(|error| not(what, &error))
}

fn not(what: &str, error: &serde_json::Error) -> String {
    // Each line is parsed separately, so "line 1" would mislead.
    let why = error.to_string().replace(" at line 1 column ", " at column ");
    format!("it is not {what}: {why}")
}

/// Decodes the state before the first record.
fn decode(text: &str) -> Result<State, String> {
    let bytes = BASE64.decode(text).map_err(|error| format!("the state is not base64: {error}"))?;
    let state = State::from_snapshot(&bytes).map_err(|error| error.to_string())?;
    match state.validate() {
        Ok(()) => Ok(state),
        Err(wrong) => {
            Err(format!("the state before the first record cannot be: {}", wrong.join("; ")))
        }
    }
}

/// Replays a whole file; `progress` is called with the replay and the number of bytes read.
///
/// # Errors
/// [`ReplayError`].
pub fn replay(
    mut reader: impl BufRead,
    until: Until,
    mut progress: impl FnMut(&Replay, usize),
) -> Result<Replayed, ReplayError> {
    let mut replay = Replay::new(until);
    let mut line = Vec::new();
    while !replay.is_done() {
        let max = if replay.line == 0 { HEADER_BYTES_MAX } else { RECORD_BYTES_MAX };
        line.clear();
        let read = read_line(&mut reader, &mut line, max);
        let whole = read.map_err(|source| ReplayError::Io { line: replay.line, source })?;
        if !whole {
            let why = format!("the line is longer than {max} bytes");
            return Err(ReplayError::Line { line: replay.line + 1, why });
        }
        if line.is_empty() {
            break;
        }
        replay.line(&line)?;
        progress(&replay, line.len());
    }
    replay.finish()
}

/// Reads a line with its line end; nothing at the end of the file. `false`: it is longer than `max`.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>, max: usize) -> io::Result<bool> {
    loop {
        let piece = match reader.fill_buf() {
            Ok(piece) => piece,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if piece.is_empty() {
            return Ok(true);
        }
        let end = piece.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let used = end.unwrap_or(piece.len());
        if line.len() + used > max {
            return Ok(false);
        }
        line.extend_from_slice(&piece[..used]);
        reader.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests;

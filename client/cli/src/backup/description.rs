//! What a backup file says that it is, and what the checks found.

use std::path::Path;

use jiff::Timestamp;
use romana_statemachine::backup::{Checked, End, Header};
use romana_statemachine::{Digest, Millis, Revision};
use serde::Serialize;

use crate::table::{Table, cell, optional};

/// What a file says that it is.
#[derive(Debug, Serialize)]
pub(super) struct Description {
    file: String,
    /// Digest that identifies the backup; `None`: it has no end.
    backup: Option<Digest>,
    cluster_id: String,
    replica: u64,
    program: String,
    taken_at: String,
    recovered: bool,
    revision: Revision,
    at: String,
    digest: Digest,
    state_digest: Digest,
    oldest: Revision,
    records: u64,
    complete: bool,
    hosts: u64,
    addresses: u64,
    /// Only if it was verified.
    #[serde(flatten)]
    verified: Option<Verified>,
}

/// The result of the checks.
#[derive(Debug, Serialize)]
struct Verified {
    verified: bool,
    /// Whether the history goes back to the beginning, and replaying it gives the state.
    replayed: bool,
}

impl Description {
    pub(super) fn new(file: &Path, header: &Header, end: Option<&End>) -> Self {
        Self {
            file: file.display().to_string(),
            backup: end.map(|end| end.digest),
            cluster_id: header.cluster.clone(),
            replica: header.replica,
            program: header.program.clone(),
            taken_at: time(header.taken_at),
            recovered: header.recovered,
            revision: header.revision,
            at: time(header.at),
            digest: header.digest,
            state_digest: header.state_digest,
            oldest: header.oldest,
            records: header.records(),
            complete: header.is_complete(),
            hosts: header.hosts,
            addresses: header.addresses,
            verified: None,
        }
    }

    pub(super) fn checked(file: &Path, checked: &Checked) -> Self {
        let verified = Some(Verified { verified: true, replayed: checked.replayed });
        Self { verified, ..Self::new(file, &checked.header, Some(&checked.end)) }
    }
}

/// The description, and whether it was verified.
pub(super) fn table(backup: &Description) -> Table {
    let mut table = Table::new(&["", ""], "");
    for (name, text) in [
        ("file", cell(&backup.file)),
        ("cluster", cell(&backup.cluster_id)),
        ("taken at", cell(&backup.taken_at)),
        ("from replica", cell(backup.replica)),
        ("revision", cell(backup.revision)),
        ("of", cell(&backup.at)),
        ("digest", cell(backup.digest)),
        ("state digest", cell(backup.state_digest)),
        ("history from", cell(backup.oldest)),
        ("records", cell(backup.records)),
        ("hosts", cell(backup.hosts)),
        ("addresses", cell(backup.addresses)),
        ("backup", optional(backup.backup)),
    ] {
        table.row(vec![name.into(), text]);
    }
    if backup.recovered {
        table.note(
            "Recovered from the disk of a replica that was down: see `romanad recover --help`.",
        );
    }
    if backup.backup.is_none() {
        table.note("It has no end: it is cut short or damaged.");
    }
    table.note(match backup.verified {
        Some(Verified { replayed: true, .. }) => "Verified: replaying its history gives its state.",
        Some(_) => "Verified. Its history does not go back to the beginning.",
        None => "Not verified: romana backup verify FILE.",
    });
    table
}

/// A time in RFC 3339.
pub(super) fn time(at: Millis) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).map_or_else(|_| at.to_string(), |time| time.to_string())
}

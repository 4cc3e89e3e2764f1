//! `romana audit replay`: no server needed.

use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::Args;
use romana_api::snapshot::Snapshot;
use romana_client::replay::{self, ReplayError, Replayed, Until};
use romana_statemachine::{Digest, Millis, Revision};
use serde::Serialize;

use super::moment::{Moment, moment};
use super::show::bytes_bar;
use crate::answer::Answer;
use crate::failure::Failure;
use crate::input;
use crate::output::Output;
use crate::table::{Table, cell};

/// Checks an exported history and rebuilds the state from it.
#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// File written by `romana audit export`; - reads stdin
    file: PathBuf,
    /// Stop at this revision or time; later records are not checked
    #[arg(long, value_name = "WHEN", value_parser = moment, allow_hyphen_values = true)]
    at: Option<Moment>,
    /// Print the whole state, in the form of GET /v1/snapshot
    #[arg(long)]
    state: bool,
}

impl Replay {
    pub(crate) async fn run(self, out: Output) -> Result<(), Failure> {
        let until = match self.at {
            None => Until::End,
            Some(Moment::Revision(revision)) => Until::Revision(revision),
            Some(Moment::Time(at)) => Until::Time(Moment::millis(at)),
        };
        let file = self.file;
        let run = tokio::task::spawn_blocking(move || read(&file, until));
        let replayed =
            run.await.map_err(|error| Failure::io("replaying", io::Error::other(error)))??;
        if self.state {
            let mut snapshot = Snapshot::new(&replayed.state);
            snapshot.head.state_digest = Some(replayed.state_digest);
            return out.show(&Answer::own(snapshot), super::state::table);
        }
        out.show(&Answer::own(Summary::new(replayed)), table)
    }
}

fn read(path: &Path, until: Until) -> Result<Replayed, Failure> {
    let name = path.display().to_string();
    let (reader, length): (Box<dyn BufRead>, _) = if path == Path::new("-") {
        (Box::new(io::stdin().lock()), None)
    } else {
        let file = input::open(path).map_err(|error| Failure::file(path, &error))?;
        let length = file.metadata().ok().map(|meta| meta.len());
        (Box::new(BufReader::with_capacity(1 << 20, file)), length)
    };
    let bar = bytes_bar(length);
    let mut lines = 0_u64;
    let replayed = replay::replay(reader, until, |replay, bytes| {
        bar.inc(bytes as u64);
        lines += 1;
        if lines.is_multiple_of(4096) {
            bar.set_message(format!("revision {}", replay.revision()));
        }
    });
    bar.finish_and_clear();
    replayed.map_err(|error| match error {
        ReplayError::Io { source, .. } => Failure::io(name, source),
        ReplayError::Line { .. } => Failure::Damaged(format!("{name}: {error}")),
    })
}

/// What was replayed.
#[derive(Debug, Serialize)]
struct Summary {
    cluster_id: String,
    /// Revisions of the first and the last record of the file.
    first: Revision,
    last: Revision,
    /// The last revision replayed.
    revision: Revision,
    at: Millis,
    digest: Digest,
    state_digest: Digest,
    /// Whether the whole file was replayed.
    complete: bool,
    /// Revision of the record that signs the state before the first record.
    vouched_by: Option<Revision>,
    records: u64,
    addresses: usize,
    hosts: usize,
    blocks: usize,
}

impl Summary {
    fn new(replayed: Replayed) -> Self {
        let Replayed { header, state, state_digest, records, complete, vouched_by } = replayed;
        Self {
            cluster_id: header.cluster_id,
            first: header.first,
            last: header.last,
            revision: state.revision(),
            at: state.at(),
            digest: state.digest(),
            state_digest,
            complete,
            vouched_by,
            records,
            addresses: state.ipam().address_count(),
            hosts: state.hosts().count(),
            blocks: state.ipam().blocks().count(),
        }
    }
}

fn table(summary: &Summary) -> Table {
    let mut table = Table::new(&["", ""], "nothing");
    for (name, text) in [
        ("cluster", cell(&summary.cluster_id)),
        ("revision", cell(summary.revision)),
        ("time", cell(summary.at)),
        ("digest", cell(summary.digest)),
        ("state digest", cell(summary.state_digest)),
        ("records", cell(summary.records)),
        ("addresses", cell(summary.addresses)),
        ("hosts", cell(summary.hosts)),
        ("blocks", cell(summary.blocks)),
    ] {
        table.row(vec![name.into(), text]);
    }
    table.note(match summary.complete {
        true => "every record continues the chain, and the end is the one that was exported",
        false => "every record continues the chain; stopped before the end",
    });
    match (summary.first, summary.vouched_by) {
        (Revision(1), _) => {}
        (_, Some(by)) => {
            table.note(format!("it begins with a state that the cluster signed: record {by}"));
        }
        (first, None) => table.note(format!(
            "it begins with the state before revision {first}, which nothing in the file signs"
        )),
    }
    table
}

//! `romana audit replay`: no server needed.

use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::Args;
use romana_api::snapshot::Snapshot;
use romana_client::replay::{self, ReplayError, Replayed, Until};
use serde_json::{Value, json};

use super::moment::{Moment, moment};
use super::show::{bytes_bar, time};
use crate::failure::Failure;
use crate::input;
use crate::output::Output;
use crate::table::Table;

/// Checks an exported history and rebuilds the state from it.
#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// What `romana audit export` wrote; - reads stdin
    file: PathBuf,
    /// Stop at this revision or time; what comes after it is not checked
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
        let summary = summary(&replayed);
        if self.state {
            let mut state = json!(Snapshot::new(&replayed.state));
            state["state_digest"] = summary["state_digest"].clone();
            return out.show(&state, || super::state::table(&state));
        }
        out.show(&summary, || table(&summary))
    }
}

fn read(path: &Path, until: Until) -> Result<Replayed, Failure> {
    let name = path.display().to_string();
    let (reader, length): (Box<dyn BufRead>, _) = if path == Path::new("-") {
        (Box::new(io::stdin().lock()), None)
    } else {
        let file = input::open(path).map_err(|error| Failure::io(&*name, error))?;
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

fn summary(replayed: &Replayed) -> Value {
    let Replayed { header, state, state_digest, records, complete, vouched_by } = replayed;
    let ipam = state.ipam();
    json!({
        "cluster_id": header.cluster_id, "first": header.first, "last": header.last,
        "revision": state.revision(), "at": state.at().0, "digest": state.digest(),
        "state_digest": state_digest, "complete": complete, "vouched_by": vouched_by,
        "records": records, "addresses": ipam.address_count(), "hosts": state.hosts().count(),
        "blocks": ipam.blocks().count(),
    })
}

fn table(summary: &Value) -> Table {
    let mut table = Table::new(&["", ""], "nothing");
    let text = |name: &str| crate::table::cell(summary, &format!("/{name}"));
    table.row(vec!["cluster".into(), text("cluster_id")]);
    table.row(vec!["revision".into(), text("revision")]);
    table.row(vec!["time".into(), time(summary.get("at"))]);
    table.row(vec!["digest".into(), text("digest")]);
    table.row(vec!["state digest".into(), text("state_digest")]);
    for name in ["records", "addresses", "hosts", "blocks"] {
        table.row(vec![name.into(), text(name)]);
    }
    table.note(match summary["complete"] == true {
        true => "every record continues the chain, and the end is the one that was exported",
        false => "every record continues the chain; stopped before the end",
    });
    match (summary["first"].as_u64(), summary["vouched_by"].as_u64()) {
        (Some(1), _) => {}
        (_, Some(by)) => {
            table.note(format!("it begins with a state that the cluster signed: record {by}"))
        }
        (first, None) => table.note(format!(
            "it begins with the state before revision {}, which nothing in the file signs",
            first.unwrap_or_default()
        )),
    }
    table
}

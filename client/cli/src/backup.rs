//! `romana backup`: save, verify and show backups, and restore one as a new cluster.

mod description;

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::Subcommand;
use futures_util::{Stream, StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use romana_api::health::Health;
use romana_client::model::ClusterStatus;
use romana_client::{ApiError, Error, Restoration, Server};
use romana_statemachine::backup::{BackupError, Check, Checked, Part, Reader, end_of};
use romana_statemachine::{escaped, plural};
use serde::Serialize;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::time::{Instant, sleep};

use crate::answer::{Answer, to_json};
use crate::context::Context;
use crate::failure::Failure;
use crate::sink::Sink;
use crate::table::{Table, cell};
use description::{Description, time};

/// Bytes per read.
const READ_BYTES: usize = 256 << 10;
/// Bytes at the end of a file that are searched for the end of the backup.
const TAIL_BYTES: u64 = 128;
/// How long the new cluster may take until it is ready.
const READY_MAX: Duration = Duration::from_secs(120);
/// How long to wait before reporting that it is not ready.
const QUIET_MAX: Duration = Duration::from_secs(2);
/// Pause between two checks of whether it is ready.
const READY_PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Take a backup from a running cluster; it is verified while it is written
    Save {
        /// File to write, replaced once the backup is complete; `-` is stdout, which gets it as it arrives
        file: PathBuf,
        /// Save the state only: the backup is smaller, but the history is lost after a restore
        #[arg(long)]
        no_history: bool,
        /// Save what the replica itself has; this works without a leader, too
        #[arg(long)]
        local: bool,
    },
    /// Check a backup: every byte, the chain of the history, the invariants of the state
    Verify {
        /// Backup file
        file: PathBuf,
    },
    /// Show the description of a backup, without checking the rest of the file
    #[command(visible_alias = "info")]
    Show {
        /// Backup file
        file: PathBuf,
    },
    /// Start a new cluster from a backup: sends it to all founding replicas (-r URL,URL,URL), which
    /// must have been started with --await-restore and empty data directories
    Restore {
        /// Backup file
        file: PathBuf,
    },
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Save { file, no_history, local } => save(ctx, &file, !no_history, local).await,
            Self::Verify { file } => {
                let checked = Description::checked(&file, &verify(&file).await?);
                ctx.out.show(&Answer::own(checked), description::table)
            }
            Self::Show { file } => {
                ctx.out.show(&Answer::own(show(&file).await?), description::table)
            }
            Self::Restore { file } => restore(ctx, &file).await,
        }
    }
}

/// Checks a backup while it is streamed.
struct Passing {
    reader: Reader,
    check: Check,
    bar: ProgressBar,
}

impl Passing {
    fn new(bar: ProgressBar) -> Self {
        Self { reader: Reader::new(), check: Check::new(), bar }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.bar.inc(bytes.len() as u64);
        self.reader.push(bytes);
        while let Some(part) = self.reader.part()? {
            if let Part::Header(header) = &part {
                self.bar.set_message(format!("revision {}", header.revision));
            }
            self.check.part(&part)?;
        }
        Ok(())
    }

    fn finish(self) -> Result<Checked, BackupError> {
        self.bar.finish_and_clear();
        self.reader.finish()?;
        self.check.finish()
    }
}

/// A progress bar on terminals, for this many bytes; a counter if the length is unknown.
fn bar(length: Option<u64>) -> ProgressBar {
    let template = match length {
        Some(_) => "  {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {msg}",
        None => "  {spinner} {bytes}  {bytes_per_sec}  {msg}",
    };
    let bar = length.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

async fn save(ctx: &Context, file: &Path, history: bool, local: bool) -> Result<(), Failure> {
    // Opened before the request: without a writable path there is no use for the backup.
    let mut sink = Sink::open(Some(file)).await?;
    let mut download = ctx.client.backup(history, local).await?;
    let mut passing = Passing::new(bar(None));
    let unusable = |error| bad("what the replica sent", &error);
    while let Some(piece) = download.piece().await? {
        passing.push(&piece).map_err(unusable)?;
        sink = sink.write(piece).await?;
    }
    let checked = passing.finish().map_err(unusable)?;
    let quiet = sink.is_stdout();
    sink.finish().await?;
    if quiet {
        return Ok(());
    }
    let description = Description::checked(file, &checked);
    let sentence = format!(
        "{}: revision {} with {}, verified",
        file.display(),
        checked.header.revision,
        plural(checked.end.records, "record"),
    );
    ctx.out.done(&Answer::own(description), sentence)
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| Failure::io(path, error)
}

/// Details of a bad backup.
#[derive(Serialize)]
struct Place {
    /// Where it is damaged or ends.
    offset: Option<u64>,
}

/// A bad backup, as a refusal with the same code as a replica's.
fn bad(what: &str, error: &BackupError) -> Failure {
    let (offset, hint) = match error {
        BackupError::Damaged { offset, .. } => (Some(*offset), "Use another backup."),
        BackupError::Truncated { whole, .. } => (Some(*whole), ""),
        _ => (None, ""),
    };
    Failure::Client(Error::Refused(Box::new(ApiError {
        code: String::from("BackupUnusable"),
        message: format!("{what}: {error}"),
        hint: hint.into(),
        details: to_json(&Place { offset }),
        status: 422,
    })))
}

/// A regular file for reading, and its length.
async fn open(file: &Path) -> Result<(File, u64), Failure> {
    let path = file.to_owned();
    let opened = tokio::task::spawn_blocking(move || romana_daemon::file::open(&path)).await;
    let opened = opened.map_err(std::io::Error::other).flatten();
    let (opened, found) = opened.map_err(|error| Failure::file(file, &error))?;
    Ok((File::from_std(opened), found.len()))
}

async fn verify(file: &Path) -> Result<Checked, Failure> {
    let unusable = |error| bad(&file.display().to_string(), &error);
    let (mut opened, length) = open(file).await?;
    let mut passing = Passing::new(bar(Some(length)));
    let mut bytes = vec![0; READ_BYTES];
    loop {
        let read = opened.read(&mut bytes).await.map_err(io(file))?;
        if read == 0 {
            return passing.finish().map_err(unusable);
        }
        passing.push(bytes.get(..read).unwrap_or_default()).map_err(unusable)?;
    }
}

async fn show(file: &Path) -> Result<Description, Failure> {
    let unusable = |error| bad(&file.display().to_string(), &error);
    let (mut opened, length) = open(file).await?;
    let (mut reader, mut bytes) = (Reader::new(), vec![0; READ_BYTES]);
    let header = loop {
        let read = opened.read(&mut bytes).await.map_err(io(file))?;
        reader.push(bytes.get(..read).unwrap_or_default());
        match reader.part().map_err(unusable)? {
            Some(Part::Header(header)) => break header,
            _ if read == 0 => reader.finish().map(|_| ()).map_err(unusable)?,
            _ => {}
        }
    };
    let mut tail = Vec::new();
    let from = SeekFrom::Start(length.saturating_sub(TAIL_BYTES));
    opened.seek(from).await.map_err(io(file))?;
    opened.read_to_end(&mut tail).await.map_err(io(file))?;
    Ok(Description::new(file, &header, end_of(&tail, length).as_ref()))
}

async fn restore(ctx: &Context, file: &Path) -> Result<(), Failure> {
    let checked = verify(file).await?;
    let (_, length) = open(file).await?;
    let servers = ctx.client.servers();
    let waiting = waiting(ctx, &servers).await?;
    let mut made: Option<Restoration> = None;
    for server in &waiting {
        let bar = bar(Some(length)).with_message(server.to_string());
        let sent = ctx.client.restore(server, length, pieces(file, &bar).await?).await;
        bar.finish_and_clear();
        let restoration = match (sent, &made) {
            (Ok(restoration), _) => restoration,
            (Err(error), None) => return Err(error.into()),
            (Err(error), Some(made)) => {
                return Err(incomplete(made, &format!("{server} did not take it: {error}")));
            }
        };
        if let Some(other) = made.as_ref().filter(|other| **other != restoration) {
            let why = format!(
                "{server} made cluster {} of it, another made {}: start all founders with the same \
                 --initial-cluster and --cluster-token, and empty data directories",
                restoration.cluster_id, other.cluster_id
            );
            return Err(Failure::Broken(why));
        }
        made = Some(restoration);
    }
    let Some(made) = made else {
        return Err(Failure::usage(
            "none of these replicas waits for a backup: they serve a cluster, or have taken one already. A backup \
             begins a new cluster, on replicas that are started with --await-restore and empty data directories",
        ));
    };
    wait_ready(ctx, &servers, &made).await?;
    let restored = Restored {
        made,
        servers: servers.iter().map(ToString::to_string).collect(),
        taken_at: time(checked.header.taken_at),
    };
    ctx.out.show(&Answer::own(restored), restored_table)
}

/// The replicas that wait for a backup. All must respond; those that do not wait are left out.
async fn waiting(ctx: &Context, servers: &[Server]) -> Result<Vec<Server>, Failure> {
    let mut waiting = Vec::new();
    for server in servers {
        match ctx.client.get_from::<Health>(server, "/healthz").await {
            Ok(health) if health.waiting => waiting.push(server.clone()),
            // An earlier attempt may have restored it already; whether it is the right cluster is checked at the end.
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(waiting)
}

/// The bytes of a file as a stream that advances a progress bar.
async fn pieces(
    file: &Path,
    bar: &ProgressBar,
) -> Result<impl Stream<Item = std::io::Result<Bytes>> + Send + 'static, Failure> {
    let (opened, _) = open(file).await?;
    let bar = bar.clone();
    Ok(stream::try_unfold(opened, |mut opened| async move {
        let mut bytes = vec![0; READ_BYTES];
        let read = opened.read(&mut bytes).await?;
        bytes.truncate(read);
        Ok((read > 0).then_some((Bytes::from(bytes), opened)))
    })
    .inspect(move |piece| {
        if let Ok(piece) = piece {
            bar.inc(piece.len() as u64);
        }
    }))
}

/// Waits until all servers serve the new cluster, and reports the reason if that takes long.
async fn wait_ready(ctx: &Context, servers: &[Server], made: &Restoration) -> Result<(), Failure> {
    let (begin, patience) = (Instant::now(), ctx.patience(READY_MAX));
    for server in servers {
        let mut told = String::new();
        while let Err(error) = ctx.client.get_from::<Health>(server, "/readyz").await {
            let waited = begin.elapsed();
            if waited > patience {
                let why = format!("after {} s: {error}", waited.as_secs());
                return Err(incomplete(made, &why));
            }
            let why = error.to_string();
            if waited > QUIET_MAX && told != why && ctx.out.is_for_people() {
                let shown = escaped(&why);
                anstream::eprintln!("{server} has the backup and does not serve yet: {shown}");
                if told.is_empty() {
                    anstream::eprintln!("waiting until more than half of the founders have it");
                }
                told = why;
            }
            sleep(READY_PAUSE).await;
        }
        let cluster = ctx.client.cluster_of(server).await;
        let ClusterStatus { cluster_id: theirs, .. } =
            cluster.map_err(|error| incomplete(made, &error.to_string()))?;
        if theirs != made.cluster_id {
            let why = format!("{server} serves cluster {theirs}, not {}", made.cluster_id);
            return Err(Failure::Broken(why));
        }
    }
    Ok(())
}

/// The founders have the backup, but the new cluster does not serve.
fn incomplete(made: &Restoration, why: &str) -> Failure {
    let Restoration { cluster_id, revision, .. } = made;
    Failure::Incomplete(
        format!(
            "the backup was restored, as revision {revision} of the new cluster {cluster_id}, and that does not \
             serve: {why}"
        ),
        "It serves when more than half of its founders have the backup. Send it to all of them (those that have it \
         keep it): romana -r URL,URL,URL backup restore FILE",
    )
}

/// A cluster that was restored.
#[derive(Debug, Serialize)]
struct Restored {
    #[serde(flatten)]
    made: Restoration,
    servers: Vec<String>,
    taken_at: String,
}

fn restored_table(restored: &Restored) -> Table {
    let mut table = Table::new(&["", ""], "");
    let Restored { made, taken_at, .. } = restored;
    for (name, text) in [
        ("new cluster", cell(&made.cluster_id)),
        ("from cluster", cell(&made.source)),
        ("taken at", cell(taken_at)),
        ("revision", cell(made.revision)),
        ("addresses", cell(made.addresses)),
        ("hosts waited for", cell(made.waiting)),
    ] {
        table.row(vec![name.into(), text]);
    }
    if made.waiting > 0 {
        table.note(
            "Nothing fresh is allocated until every host has reported what runs there (agents do that by \
             themselves).\nTo go on without those that are missing: romana cluster resume",
        );
    }
    table
}

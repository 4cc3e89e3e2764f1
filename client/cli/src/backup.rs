//! `romana backup`: save, verify and show backups, and restore one as a new cluster.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::Subcommand;
use futures_util::{Stream, StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use romana_client::{ApiError, Error, Restoration, Server};
use romana_statemachine::backup::{BackupError, Check, Checked, End, Header, Part, Reader, end_of};
use romana_statemachine::{Millis, escaped, plural};
use serde_json::{Value, json};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::time::{Instant, sleep};

use crate::context::Context;
use crate::failure::Failure;
use crate::sink::Sink;
use crate::table::{Table, cell};

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
        /// File to write, replaced when the backup is whole; a pipe gets it as it comes, `-` is stdout
        file: PathBuf,
        /// The state alone, without the history: smaller, and the past is gone after a restore
        #[arg(long)]
        no_history: bool,
        /// What the asked replica has, also when there is no leader
        #[arg(long)]
        local: bool,
    },
    /// Check a file: every byte, the chain of the history, the invariants of the state
    Verify {
        /// The backup
        file: PathBuf,
    },
    /// Show what a file says it is, without checking the rest
    #[command(visible_alias = "info")]
    Show {
        /// The backup
        file: PathBuf,
    },
    /// Begin a new cluster: sends the file to all its founders (-r URL,URL,URL), which were started
    /// with --await-restore and empty data directories
    Restore {
        /// The backup
        file: PathBuf,
    },
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Save { file, no_history, local } => save(ctx, &file, !no_history, local).await,
            Self::Verify { file } => {
                let value = described(&file, &verify(&file).await?);
                ctx.out.show(&value, || table(&value))
            }
            Self::Show { file } => {
                let value = show(&file).await?;
                ctx.out.show(&value, || table(&value))
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
    let value = described(file, &checked);
    let sentence = format!(
        "{}: revision {} with {}, verified",
        file.display(),
        checked.header.revision,
        plural(checked.end.records, "record"),
    );
    ctx.out.done(&value, sentence)
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| Failure::io(path, error)
}

/// A bad backup, as a refusal with the same code as a replica's.
fn bad(what: &str, error: &BackupError) -> Failure {
    let (offset, hint) = match error {
        BackupError::Damaged { offset, .. } => (json!(offset), "Use another backup."),
        BackupError::Truncated { whole, .. } => (json!(whole), ""),
        _ => (Value::Null, ""),
    };
    Failure::Client(Error::Refused(Box::new(ApiError {
        code: String::from("BackupUnusable"),
        message: format!("{what}: {error}"),
        hint: hint.into(),
        details: json!({ "offset": offset }),
        status: 422,
    })))
}

/// A regular file for reading, and its length.
async fn open(file: &Path) -> Result<(File, u64), Failure> {
    let path = file.to_owned();
    let opened = tokio::task::spawn_blocking(move || romana_daemon::file::open(&path)).await;
    let (opened, found) = opened.map_err(std::io::Error::other).flatten().map_err(io(file))?;
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

async fn show(file: &Path) -> Result<Value, Failure> {
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
    Ok(shown(file, &header, end_of(&tail, length).as_ref()))
}

fn time(at: Millis) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).map_or_else(|_| at.to_string(), |time| time.to_string())
}

/// A header and an end as JSON.
fn shown(file: &Path, header: &Header, end: Option<&End>) -> Value {
    json!({
        "file": file.display().to_string(),
        "backup": end.map(|end| end.digest),
        "cluster_id": header.cluster,
        "replica": header.replica,
        "program": header.program,
        "taken_at": time(header.taken_at),
        "recovered": header.recovered,
        "revision": header.revision,
        "at": time(header.at),
        "digest": header.digest,
        "state_digest": header.state_digest,
        "oldest": header.oldest,
        "records": header.records(),
        "complete": header.is_complete(),
        "hosts": header.hosts,
        "addresses": header.addresses,
    })
}

/// The result of the checks as JSON.
fn described(file: &Path, checked: &Checked) -> Value {
    let mut value = shown(file, &checked.header, Some(&checked.end));
    value["verified"] = json!(true);
    value["replayed"] = json!(checked.replayed);
    value
}

fn table(value: &Value) -> Table {
    let mut table = Table::new(&["", ""], "");
    let rows = [
        ("file", "/file"),
        ("cluster", "/cluster_id"),
        ("taken at", "/taken_at"),
        ("from replica", "/replica"),
        ("revision", "/revision"),
        ("of", "/at"),
        ("digest", "/digest"),
        ("state digest", "/state_digest"),
        ("history from", "/oldest"),
        ("records", "/records"),
        ("hosts", "/hosts"),
        ("addresses", "/addresses"),
        ("backup", "/backup"),
    ];
    for (name, pointer) in rows {
        table.row(vec![name.into(), cell(value, pointer)]);
    }
    let is = |name: &str| value.get(name).and_then(Value::as_bool);
    if is("recovered") == Some(true) {
        table.note(
            "Recovered from the disk of a replica that was down: see `romanad recover --help`.",
        );
    }
    if value.get("backup").is_none_or(Value::is_null) {
        table.note("It has no end: it is cut short or damaged.");
    }
    match (is("verified"), is("replayed")) {
        (Some(true), Some(true)) => table.note("Verified: replaying its history gives its state."),
        (Some(true), _) => table.note("Verified. Its history does not go back to the beginning."),
        _ => table.note("Not verified: romana backup verify FILE."),
    }
    table
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
    let mut value = json!(made);
    value["servers"] = json!(servers.iter().map(ToString::to_string).collect::<Vec<_>>());
    value["taken_at"] = json!(time(checked.header.taken_at));
    ctx.out.show(&value, || restored(&value))
}

/// The replicas that wait for a backup. All must respond; those that do not wait are left out.
async fn waiting(ctx: &Context, servers: &[Server]) -> Result<Vec<Server>, Failure> {
    let mut waiting = Vec::new();
    for server in servers {
        match ctx.client.get_from::<Value>(server, "/healthz").await {
            Ok(health) if health.get("waiting") == Some(&json!(true)) => {
                waiting.push(server.clone())
            }
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
        while let Err(error) = ctx.client.get_from::<Value>(server, "/readyz").await {
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
        let cluster = ctx.client.get_from::<Value>(server, "/v1/cluster").await;
        let cluster = cluster.map_err(|error| incomplete(made, &error.to_string()))?;
        if cell(&cluster, "/cluster_id") != made.cluster_id {
            let theirs = cell(&cluster, "/cluster_id");
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

fn restored(value: &Value) -> Table {
    let mut table = Table::new(&["", ""], "");
    for (name, pointer) in [
        ("new cluster", "/cluster_id"),
        ("from cluster", "/source"),
        ("taken at", "/taken_at"),
        ("revision", "/revision"),
        ("addresses", "/addresses"),
        ("hosts waited for", "/waiting"),
    ] {
        table.row(vec![name.into(), cell(value, pointer)]);
    }
    if value.get("waiting") != Some(&json!(0)) {
        table.note(
            "Nothing fresh is allocated until every host has reported what runs there (agents do that by \
             themselves).\nTo go on without those that are missing: romana cluster resume",
        );
    }
    table
}

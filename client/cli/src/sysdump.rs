//! `romana sysdump`: one archive with what support needs, without secrets. It works when no replica answers, and says
//! what it could not get.

mod archive;
mod host;
mod kubernetes;
mod redact;
mod replicas;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args as ClapArgs;
use jiff::Timestamp;
use romana_statemachine::plural;
use tokio::time::{Instant, timeout_at};

use crate::answer::{Answer, to_json};
use crate::context::Context;
use crate::failure::Failure;
use crate::sink::Sink;
use crate::table::{Table, Tone};
use crate::{doctor, ipam, process};
use archive::{Archive, Content, Index, Item};
use redact::Redactor;

/// Time for everything; `--timeout` changes it.
const WITHIN: Duration = Duration::from_secs(90);
/// Who may read the archive: it describes the whole network.
const MODE: u32 = 0o600;

/// Collects what support needs into one archive: replicas, agents, this host, Kubernetes.
#[derive(Debug, ClapArgs)]
pub(crate) struct Command {
    /// The archive; `-` writes to stdout [default: romana-sysdump-TIME.tar.gz]
    #[arg(short, long, value_name = "FILE.tar.gz")]
    output: Option<PathBuf>,
    /// Namespace of Romana's pods
    #[arg(long, default_value = "kube-system")]
    namespace: String,
    /// Port of the agents' status and metrics
    #[arg(long, default_value_t = 9607, value_name = "PORT")]
    agent_port: u16,
    /// Facts of this machine [default: if it is a host or a replica of Romana]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    local: Option<bool>,
    /// Where this machine's files are: a debugging pod has them below /host
    #[arg(long, default_value = "/", value_name = "DIR")]
    host_root: PathBuf,
}

/// The items so far. What was found before the time is over is kept.
#[derive(Clone, Default)]
struct Found(Arc<Mutex<Vec<Item>>>);

impl Found {
    fn add(&self, item: Item) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(item);
    }

    fn take(&self) -> Vec<Item> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn read<T>(&self, read: impl FnOnce(&[Item]) -> T) -> T {
        read(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let now = Timestamp::now();
        let name = format!("romana-sysdump-{}", now.strftime("%Y%m%dT%H%M%SZ"));
        let path = self.output.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
        let sink = Sink::open_private(&path, MODE).await?;
        let found = Found::default();
        let begun = Instant::now();
        let within = ctx.patience(WITHIN);
        self.collect(ctx, &found, begun + within).await;
        let about = BTreeMap::from([
            ("created_at", now.to_string()),
            ("version", env!("CARGO_PKG_VERSION").into()),
            ("took_seconds", format!("{:.1}", begun.elapsed().as_secs_f64())),
            ("replicas_asked", join(&ctx.client.servers())),
        ]);
        let items = found.take();
        let at = u64::try_from(now.as_second()).unwrap_or_default();
        let packed = tokio::task::spawn_blocking(move || pack(&name, items, about, at)).await;
        let packed = packed.map_err(io::Error::other).flatten();
        let (bytes, index) = packed.map_err(|error| Failure::io("the archive", error))?;
        let to_stdout = sink.is_stdout();
        sink.write(bytes.into()).await?.finish().await?;
        let sentence = sentence(&index, &path.display().to_string());
        if to_stdout {
            anstream::eprintln!("{sentence}");
            return Ok(());
        }
        ctx.out.show(&Answer::own(index), |index| table(index, sentence))
    }

    /// Collects everything, each part by itself, until the deadline.
    async fn collect(&self, ctx: &Context, found: &Found, deadline: Instant) {
        let parts = async {
            tokio::join!(
                timed("replicas", found, deadline, self.cluster(ctx, found)),
                timed("doctor.json", found, deadline, async {
                    let findings = doctor::findings(ctx).await;
                    found.add(document("doctor.json", "romana doctor", Ok(to_json(&findings))));
                }),
                timed("ipam.json", found, deadline, async {
                    let report = ipam::report(ctx).await;
                    let report = report.map(|it| to_json(&it)).map_err(|why| why.to_string());
                    found.add(document("ipam.json", "romana ipam check", report));
                }),
                timed("host", found, deadline, self.host(found)),
                timed("kubernetes", found, deadline, self.kubernetes(found)),
            )
        };
        parts.await;
    }

    /// The replicas, then the agents on the hosts that they know.
    async fn cluster(&self, ctx: &Context, found: &Found) {
        let servers = replicas::all(&ctx.client).await;
        replicas::items(&ctx.client, &servers, |item| found.add(item)).await;
        let hosts = found.read(replicas::hosts);
        let (agents, note) = replicas::agents(&hosts, self.agent_port);
        note.into_iter().for_each(|note| found.add(note));
        replicas::agent_items(&ctx.client, &agents, |item| found.add(item)).await;
    }

    async fn host(&self, found: &Found) {
        if self.local.unwrap_or_else(|| host::is_host(&self.host_root)) {
            host::items(&self.host_root, |item| found.add(item)).await;
        } else {
            let why = "this machine is no host of Romana; --local collects its facts all the same";
            found.add(Item::new("host", "this machine", Err(why.into())));
        }
    }

    async fn kubernetes(&self, found: &Found) {
        let missing = |why: &str| Item::new("kubernetes", "kubectl", Err(why.into()));
        let in_cluster = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        if process::find("kubectl", std::env::var_os("PATH").as_deref()).is_none() {
            found.add(missing("kubectl is not installed here"));
        } else if !in_cluster && host::kubeconfigs().is_empty() {
            found.add(missing("kubectl has no kubeconfig here (KUBECONFIG, ~/.kube/config)"));
        } else {
            kubernetes::items(&self.namespace, |item| found.add(item)).await;
        }
    }
}

/// Runs a part of the collection; what is late is missing.
async fn timed(part: &str, found: &Found, deadline: Instant, work: impl Future<Output = ()>) {
    if timeout_at(deadline, work).await.is_err() {
        let why = "the time was over before all of it was collected; --timeout gives more";
        found.add(Item::new(format!("{part}.late"), part, Err(why.into())));
    }
}

/// A document of this program as an item.
fn document(path: &str, from: &str, document: Result<serde_json::Value, String>) -> Item {
    let content =
        document.map(|it| Content { bytes: format!("{it:#}\n").into_bytes(), cut: false });
    Item::new(path, from, content)
}

/// Redacts the items and makes the archive of them.
fn pack(
    name: &str,
    items: Vec<Item>,
    about: BTreeMap<&'static str, String>,
    at: u64,
) -> io::Result<(Vec<u8>, Index)> {
    let mut archive = Archive::new(name, Redactor::new(host::known_secrets()), at);
    items.into_iter().try_for_each(|item| archive.add(item))?;
    archive.finish(about)
}

fn join(servers: &[romana_client::Server]) -> String {
    servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn sentence(index: &Index, path: &str) -> String {
    let missing = index.missing().count();
    let there = plural(index.items.len().saturating_sub(missing), "item");
    format!(
        "{path}: {there}, {missing} could not be had (index.json says why). Read it before you send it."
    )
}

/// The items that are missing; the others are as expected.
fn table(index: &Index, sentence: String) -> Table {
    let mut table = Table::new(&["MISSING", "WHY"], "nothing is missing");
    for entry in index.missing() {
        let why = entry.missing.clone().unwrap_or_default();
        table.toned(Tone::Warning, vec![entry.path.clone(), why]);
    }
    table.note(sentence);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_late_is_missing_and_what_came_before_is_kept() {
        let found = Found::default();
        let deadline = Instant::now() + Duration::from_millis(20);
        timed("replicas", &found, deadline, async {
            found.add(Item::new("a", "", Ok(Content::default())));
            std::future::pending::<()>().await;
        })
        .await;
        let items = found.take();
        assert_eq!(items.len(), 2);
        assert!(items[1].found.as_ref().unwrap_err().contains("--timeout"), "{items:?}");
    }

    #[test]
    fn the_archive_is_made_of_what_was_found() {
        let items = vec![
            document("doctor.json", "romana doctor", Ok(serde_json::json!({"token": "abcdefgh"}))),
            Item::new("b", "", Err("no answer".into())),
        ];
        let (bytes, index) = pack("d", items, BTreeMap::new(), 0).unwrap();
        assert!(!bytes.is_empty());
        assert_eq!(index.items[1].redacted, 1);
        assert!(sentence(&index, "x.tar.gz").starts_with("x.tar.gz: 1 item, 1 could not be had"));
    }
}

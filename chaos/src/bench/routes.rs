//! Time from an allocation that needs a new block until its route is in every other host's kernel: hosts with
//! real agents on one link, each in its own network namespace.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use romana_client::Client;
use romana_statemachine::command::AllocateAddress;
use serde_json::{Value, json};

use super::BenchOptions;
use super::namespaces::{Namespace, Site};
use super::report::{Budget, Machine, print_budgets};
use crate::cluster::find_romanad;

/// A route that takes longer counts as lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// A route added to a host's kernel.
struct News {
    prefix: String,
    at: Instant,
}

/// Runs on a dedicated thread, because a thread cannot leave a namespace.
pub(super) async fn run(options: &BenchOptions, hosts: usize, blocks: usize) -> Result<Value> {
    let romanad = find_romanad(options.romanad.as_deref())?;
    let machine = Machine::look();
    let measured = tokio::task::spawn_blocking(move || {
        let thread = std::thread::spawn(move || measure(&romanad, hosts, blocks));
        thread.join().unwrap_or_else(|_| bail!("the measurement panicked"))
    });
    let [asked, answered] = measured.await??;
    println!("Routes: {blocks} new blocks, {hosts} hosts with agents on one link, three replicas.");
    machine.print();
    let ms = |figures: &Histogram<u64>, quantile| figures.value_at_quantile(quantile) as f64 / 1e3;
    print_budgets(&[
        Budget::at_most(
            "assigned → route in every other kernel, p99, ms",
            ms(&answered, 0.99),
            50.0,
        ),
        Budget::note("… p50, ms", ms(&answered, 0.5)),
        Budget::note("asked → assigned → route everywhere, p99, ms", ms(&asked, 0.99)),
        Budget::note("… p50, ms", ms(&asked, 0.5)),
    ]);
    Ok(json!({"assigned_p50_ms": ms(&answered, 0.5), "assigned_p99_ms": ms(&answered, 0.99),
        "asked_p50_ms": ms(&asked, 0.5), "asked_p99_ms": ms(&asked, 0.99)}))
}

fn measure(romanad: &Path, hosts: usize, blocks: usize) -> Result<[Histogram<u64>; 2]> {
    let site = Site::start(romanad, "br")?;
    let (tell, news) = channel();
    let mut agents = Vec::new();
    for n in 1..=hosts {
        let mut host = site.host(n, &[])?;
        monitor(&mut host, tell.clone())?;
        agents.push(host);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { events(&site.client(hosts).await?, &news, hosts, blocks).await })
}

/// Sends a notification for every route that a host's kernel gets.
fn monitor(host: &mut Namespace, tell: Sender<News>) -> Result<()> {
    let mut command = Command::new("ip");
    command
        .args(["-n", &host.name, "monitor", "route"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().context("run ip monitor")?;
    let lines = BufReader::new(child.stdout.take().context("its output")?);
    host.children.push(child);
    std::thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            let at = Instant::now();
            let prefix = line.split_whitespace().next().unwrap_or_default().to_owned();
            if line.contains(" via ") && tell.send(News { prefix, at }).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Each allocation is for another tenant, and on the next host: a new block that cannot
/// be merged with the previous one.
async fn events(
    client: &Client,
    news: &Receiver<News>,
    hosts: usize,
    blocks: usize,
) -> Result<[Histogram<u64>; 2]> {
    let mut figures = [Histogram::new(3)?, Histogram::new(3)?];
    for number in 0..blocks + 10 {
        let ask = AllocateAddress {
            name: format!("a{number}").into(),
            host: format!("h{}", number % hosts + 1).into(),
            tenant: format!("t{number}").into(),
            segment: "default".into(),
            network: None,
            ip: None,
        };
        let asked = Instant::now();
        let block = client.allocate(ask).await?.block.to_string();
        let answered = Instant::now();
        let mut last = answered;
        let mut seen = 0;
        while seen < hosts - 1 {
            let news = news.recv_timeout(PATIENCE);
            let news = news.with_context(|| format!("{block} reached {seen} hosts"))?;
            if news.prefix == block {
                seen += 1;
                last = last.max(news.at);
            }
        }
        // The first ones are warm-up.
        if number >= 10 {
            for (figures, since) in figures.iter_mut().zip([asked, answered]) {
                figures.record(u64::try_from((last - since).as_micros())?.max(1))?;
            }
        }
    }
    Ok(figures)
}

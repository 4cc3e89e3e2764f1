//! Thousands of followers of the feed, each with its own connection, in this process: the time until an event
//! that concerns all hosts has reached every follower, and which followers receive an event that concerns one
//! host. Most follow one host, as agents do; every fiftieth follows everything.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use romana_client::Client;
use romana_statemachine::command::AllocateAddress;
use romana_statemachine::command::{HostChange, Labels};
use romana_statemachine::{Command, Revision};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::large::{PER_HOST, Site, host_name};
use super::report::{Budget, Machine, print_budgets};
use super::{BenchOptions, ours};
use crate::caller::library;
use crate::cluster::Cluster;

/// Every so many-th follower follows everything.
const EVERYTHING: u64 = 50;
/// Hosts with allocations.
const TOUCHED: u64 = 100;
/// Timeout until an event has reached all followers.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between events, so that they do not delay each other.
const PAUSE: Duration = Duration::from_millis(50);

/// What one follower received.
#[derive(Debug, Default)]
struct Sent {
    records: AtomicU64,
    bytes: AtomicU64,
}

/// Arrivals reported by the followers.
#[derive(Debug, Default)]
struct Board {
    /// By revision: number of followers that have it, and the time of the last arrival.
    arrivals: Mutex<HashMap<u64, (u64, Instant)>>,
    /// Followers that have received their first bookmark.
    following: AtomicU64,
}

impl Board {
    fn arrivals(&self) -> MutexGuard<'_, HashMap<u64, (u64, Instant)>> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrived(&self, revision: u64) {
        let now = Instant::now();
        let mut arrivals = self.arrivals();
        let (count, last) = arrivals.entry(revision).or_insert((0, now));
        (*count, *last) = (*count + 1, now);
    }

    /// The time at which the last of `all` followers had the revision.
    async fn at_all(&self, revision: Revision, all: u64) -> Result<Instant> {
        let start = Instant::now();
        loop {
            let found = self.arrivals().get(&revision.get()).copied();
            let (count, last) = found.unwrap_or((0, start));
            if count >= all {
                return Ok(last);
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "revision {revision} is at {count} of {all} followers"
            );
            // The poll interval does not matter: arrival times are recorded by the followers.
            sleep(Duration::from_millis(2)).await;
        }
    }
}

/// A follower: one connection, read until the end.
struct Follower {
    number: u64,
    stream: TcpStream,
    board: Arc<Board>,
    sent: Arc<Sent>,
}

impl Follower {
    async fn open(to: SocketAddr, number: u64, board: Arc<Board>) -> Result<Self> {
        let mut stream = TcpStream::connect(to).await.context("connect a follower")?;
        let filter = match number % EVERYTHING {
            0 => String::new(),
            _ => format!("?host={}", host_name(number)),
        };
        let ask = format!(
            "GET /v1/events{filter} HTTP/1.1\r\nHost: {to}\r\nAccept: application/x-ndjson\r\n\r\n"
        );
        stream.write_all(ask.as_bytes()).await.context("ask for the feed")?;
        Ok(Self { number, stream, board, sent: Arc::default() })
    }

    /// Reads lines. Lines other than records and bookmarks are HTTP chunk framing.
    async fn follow(mut self) -> Result<()> {
        let mut buffer = Vec::with_capacity(1024);
        let mut following = false;
        loop {
            let read = self.stream.read_buf(&mut buffer).await?;
            ensure!(read > 0, "follower {} was cut off", self.number);
            let Some(end) = buffer.iter().rposition(|byte| *byte == b'\n') else { continue };
            for line in buffer[..end].split(|byte| *byte == b'\n') {
                if line.starts_with(b"{\"bookmark\"") {
                    if !following {
                        following = true;
                        self.board.following.fetch_add(1, Ordering::Relaxed);
                    }
                } else if let Some(revision) = revision(line) {
                    self.sent.records.fetch_add(1, Ordering::Relaxed);
                    self.sent.bytes.fetch_add(line.len() as u64, Ordering::Relaxed);
                    self.board.arrived(revision);
                }
            }
            buffer.drain(..=end);
        }
    }
}

/// The revision of a record in the feed's JSON form.
fn revision(line: &[u8]) -> Option<u64> {
    let digits = line.strip_prefix(b"{\"revision\":")?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

/// All followers, and what they received.
struct Crowd {
    board: Arc<Board>,
    sent: Vec<Arc<Sent>>,
    tasks: JoinSet<Result<()>>,
}

impl Crowd {
    async fn open(apis: &[SocketAddr], count: u64) -> Result<Self> {
        let board = Arc::new(Board::default());
        let (mut sent, mut tasks) = (Vec::new(), JoinSet::new());
        for (number, to) in (0..count).zip(apis.iter().copied().cycle()) {
            let follower = Follower::open(to, number, Arc::clone(&board)).await?;
            sent.push(Arc::clone(&follower.sent));
            tasks.spawn(follower.follow());
        }
        let mut crowd = Self { board, sent, tasks };
        let start = Instant::now();
        while crowd.board.following.load(Ordering::Relaxed) < count {
            crowd.check()?;
            ensure!(start.elapsed() < PATIENCE, "not all followers got their first bookmark");
            sleep(Duration::from_millis(10)).await;
        }
        Ok(crowd)
    }

    /// Fails if a follower was disconnected.
    fn check(&mut self) -> Result<()> {
        match self.tasks.try_join_next() {
            None => Ok(()),
            Some(ended) => ended.context("a follower")?,
        }
    }

    fn records(&self) -> Vec<u64> {
        self.sent.iter().map(|sent| sent.records.load(Ordering::Relaxed)).collect()
    }

    fn bytes(&self) -> u64 {
        self.sent.iter().map(|sent| sent.bytes.load(Ordering::Relaxed)).sum()
    }
}

pub(super) async fn run(
    options: &BenchOptions,
    followers: u64,
    events: usize,
    at_leader: bool,
) -> Result<Value> {
    let machine = Machine::look();
    let open = raise_open_files(followers + 1024)?;
    let cluster = ours::three(options).await?;
    let site = Site::for_addresses(followers * PER_HOST);
    let client = library(&cluster.apis(), "chaos:bench")?;
    set_up(&client, site).await?;
    let apis = match at_leader {
        false => cluster.apis(),
        true => vec![leader(&cluster).await?],
    };
    eprintln!("{followers} followers on {} replicas, {open} open files allowed", apis.len());
    let mut crowd = Crowd::open(&apis, followers).await?;

    let (from_ask, from_ack) = for_all(&client, &mut crowd, followers, events).await?;
    let narrow = for_one(&client, &mut crowd, site).await?;
    println!(
        "The feed: {followers} followers in one process, {} of everything, the others of one host each, \
         at {} of 3 replicas, all on one machine; {events} events that concern all, {} that concern one host.",
        followers.div_ceil(EVERYTHING),
        apis.len(),
        narrow.events
    );
    machine.print();
    print_budgets(&[
        Budget::at_most(
            "asked → committed → at the last follower, p99, ms",
            at(&from_ask, 0.99),
            100.0,
        ),
        Budget::note("… p50, ms", at(&from_ask, 0.5)),
        Budget::note("acknowledged → at the last follower, p99, ms", at(&from_ack, 0.99)),
        Budget::note("… p50, ms", at(&from_ack, 0.5)),
        Budget::at_most("one host's event: followers of one host that get it", narrow.of_host, 1.0),
        Budget::note("followers of everything that get it", narrow.of_everything),
        Budget::at_most(
            "records that reached a follower of another host",
            narrow.strays as f64,
            0.0,
        ),
        Budget::note("bytes sent for it, all followers", narrow.bytes),
    ]);
    Ok(json!({"bench": "feed", "machine": machine, "followers": followers, "at": apis.len(),
              "from_ask_ms": from_ask, "from_ack_ms": from_ack, "one_host": {
                  "events": narrow.events, "of_host": narrow.of_host, "strays": narrow.strays,
                  "of_everything": narrow.of_everything, "bytes": narrow.bytes}}))
}

async fn leader(cluster: &Cluster) -> Result<SocketAddr> {
    let leader = cluster.wait_leader(Duration::from_secs(10)).await?;
    Ok(cluster.replicas()[leader].api)
}

/// Raises the limit of open files for this process and its children.
pub(super) fn raise_open_files(wanted: u64) -> Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = maximum.unwrap_or_else(|| wanted.max(current.unwrap_or(wanted)));
    setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum })?;
    ensure!(
        raised >= wanted,
        "{wanted} open files are needed, {raised} allowed: raise `ulimit -n`"
    );
    Ok(raised)
}

/// Creates topology, hosts, and one address on each host that will be used, so that its block exists.
async fn set_up(client: &Client, site: Site) -> Result<()> {
    client.submit(&Command::SetTopology(site.topology(1))).await.context("set the topology")?;
    let hosts = site.furniture().filter(|command| matches!(command, Command::AddHost(_)));
    together(client, hosts.collect()).await?;
    let first = (1..=TOUCHED).map(|host| Command::AllocateAddress(on_host(host, 0)));
    together(client, first.collect()).await
}

/// Submits commands concurrently; none may be refused.
async fn together(client: &Client, commands: Vec<Command>) -> Result<()> {
    let mut tasks = JoinSet::new();
    for command in commands {
        let client = client.clone();
        tasks.spawn(async move { client.submit(&command).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.context("a command")?.context("set up")?;
    }
    Ok(())
}

fn on_host(host: u64, nth: u64) -> AllocateAddress {
    AllocateAddress {
        name: format!("pod-{host}-{nth}").into(),
        host: host_name(host).into(),
        tenant: "tenant0".into(),
        segment: "default".into(),
        network: None,
        ip: None,
    }
}

/// Events that concern every host: times from request and from acknowledgement until the last follower
/// has them; sorted, milliseconds.
async fn for_all(
    client: &Client,
    crowd: &mut Crowd,
    followers: u64,
    events: usize,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut from_ask, mut from_ack) = (Vec::new(), Vec::new());
    // The first one is warm-up and not counted.
    for number in 0..=events {
        crowd.check()?;
        sleep(PAUSE).await;
        let info = Labels::from([(String::from("event"), number.to_string())]);
        let change = HostChange {
            name: host_name(0).into(),
            ip: None,
            addresses: None,
            labels: None,
            info: Some(info),
        };
        let asked = Instant::now();
        let done = client.submit(&Command::UpdateHost(change)).await.context("change a host")?;
        let acknowledged = Instant::now();
        let last = crowd.board.at_all(done.revision, followers).await?;
        if number > 0 {
            from_ask.push((last - asked).as_secs_f64() * 1e3);
            from_ack.push(last.saturating_duration_since(acknowledged).as_secs_f64() * 1e3);
        }
    }
    from_ask.sort_by(f64::total_cmp);
    from_ack.sort_by(f64::total_cmp);
    Ok((from_ask, from_ack))
}

/// Which followers receive an event that concerns one host, on average.
struct Narrow {
    events: u64,
    of_host: f64,
    of_everything: f64,
    /// Records that a follower of another host received: must be 0.
    strays: u64,
    bytes: f64,
}

/// Events that concern one host each: additional addresses in existing blocks.
async fn for_one(client: &Client, crowd: &mut Crowd, site: Site) -> Result<Narrow> {
    let (before, bytes_before) = (crowd.records(), crowd.bytes());
    let per_host = 6;
    let touched = TOUCHED.min(site.hosts - 1);
    let mut last = Revision(0);
    for nth in 1..=per_host {
        for host in 1..=touched {
            let ask = Command::AllocateAddress(on_host(host, nth));
            last = client.submit(&ask).await.context("allocate")?.revision;
        }
    }
    let of_everything = (crowd.sent.len() as u64).div_ceil(EVERYTHING);
    crowd.board.at_all(last, of_everything).await?;
    // Allow time for records that must not arrive.
    sleep(Duration::from_millis(500)).await;
    crowd.check()?;
    let events = per_host * touched;
    let got = crowd.records();
    let mut narrow = Narrow { events, of_host: 0.0, of_everything: 0.0, strays: 0, bytes: 0.0 };
    for (number, (before, after)) in (0u64..).zip(before.iter().zip(&got)) {
        let records = after - before;
        if number.is_multiple_of(EVERYTHING) {
            narrow.of_everything += records as f64 / events as f64;
        } else if number <= touched {
            narrow.strays += records.saturating_sub(per_host);
            narrow.of_host += records as f64;
        } else {
            narrow.strays += records;
        }
    }
    // Hosts whose number is a multiple of this have no dedicated follower.
    let followed = (1..=touched).filter(|host| !host.is_multiple_of(EVERYTHING)).count();
    narrow.of_host /= followed as f64 * per_host as f64;
    narrow.bytes = (crowd.bytes() - bytes_before) as f64 / events as f64;
    Ok(narrow)
}

/// A quantile of sorted values.
fn at(sorted: &[f64], quantile: f64) -> f64 {
    let rank = (sorted.len() as f64 * quantile).ceil();
    #[expect(clippy::cast_possible_truncation, reason = "ranks are small")]
    #[expect(clippy::cast_sign_loss, reason = "ranks are positive")]
    let place = (rank as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(place).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_figures_that_were_measured() {
        let sorted: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((at(&sorted, 0.5), at(&sorted, 0.99), at(&sorted, 1.0)), (100.0, 198.0, 200.0));
        assert_eq!((at(&[7.0], 0.99), at(&[], 0.5)), (7.0, 0.0));
    }

    #[test]
    fn records_are_told_from_framing() {
        assert_eq!(revision(br#"{"revision":17,"index":3}"#), Some(17));
        assert_eq!(revision(b"1f\r"), None);
        assert_eq!(revision(br#"{"bookmark":{"revision":17}}"#), None);
    }
}

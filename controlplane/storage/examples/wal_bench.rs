//! Measures the log and the history by hand:
//! `cargo run --release -p romana-storage --example wal_bench -- DIR [SECONDS]`
//!
//! Entries of 256 bytes, one per append, several in flight; an entry counts once it is durable.

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use romana_statemachine::{Actor, Digest, Event, Index, Millis, Record, Revision, event};
use romana_storage::history::{History, HistoryOptions};
use romana_storage::wal::{Wal, WalOptions};

fn main() -> Result<()> {
    let dir = std::env::args().nth(1).context("name an empty directory on the disk to measure")?;
    let run = std::env::args().nth(2).map_or(Ok(3), |seconds| seconds.parse())?;
    for in_flight in [1, 64, 512] {
        let dir = Path::new(&dir).join(format!("wal-{in_flight}"));
        log(&dir, in_flight, Duration::from_secs(run))?;
    }
    history(&Path::new(&dir).join("history"))
}

fn log(dir: &Path, in_flight: u64, run: Duration) -> Result<()> {
    let (wal, _) = Wal::open(dir, WalOptions::default())?;
    let payload = Bytes::from(vec![7; 256]);
    let (tell, told) = mpsc::channel();
    let begin = Instant::now();
    let mut waits = Vec::new();
    let (mut sent, mut done) = (0, 0);
    while begin.elapsed() < run || done < sent {
        while sent < done + in_flight && begin.elapsed() < run {
            sent += 1;
            let (tell, asked) = (tell.clone(), Instant::now());
            let finish = move |outcome| _ = tell.send((asked, outcome));
            wal.append(vec![(sent, payload.clone())], Box::new(finish));
            if sent % 50_000 == 0 {
                wal.purge(sent - 20_000, Bytes::new(), Box::new(|_| ()));
            }
        }
        if done < sent {
            let (asked, outcome): (Instant, std::io::Result<()>) = told.recv()?;
            outcome?;
            waits.push(asked.elapsed());
            done += 1;
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    waits.sort_unstable();
    let at =
        |permille: usize| waits.get(waits.len() * permille / 1000).copied().unwrap_or_default();
    println!(
        "log, {in_flight} in flight: {:.0} entries/s, p50 {:?}, p99 {:?}, p99.9 {:?}, max {:?}",
        f64::from(u32::try_from(done)?) / seconds,
        at(500),
        at(990),
        at(999),
        waits.last().copied().unwrap_or_default(),
    );
    drop(wal);
    let begin = Instant::now();
    let (_, found) = Wal::open(dir, WalOptions::default())?;
    println!("    opened in {:?}: {} to {:?}", begin.elapsed(), found.first, found.last);
    Ok(())
}

fn history(dir: &Path) -> Result<()> {
    let mut last = (0, Digest::default());
    let records: Vec<Record> = (0..500_000).map(|_| record(&mut last)).collect();
    let begin = cpu_time()?;
    let bytes: usize = records.iter().map(|r| romana_statemachine::entry::wire(r).len()).sum();
    let spent = (cpu_time()? - begin) / 500_000;
    println!("history: encoding alone {spent:?} of CPU per record, {bytes} bytes");
    let history = History::open(dir, HistoryOptions::default())?;
    let begin = cpu_time()?;
    for batch in records.chunks(64) {
        history.append(batch)?;
    }
    let spent = (cpu_time()? - begin) / 500_000;
    println!("history: append {spent:?} of CPU per record, batches of 64");
    let begin = Instant::now();
    history.sync()?;
    println!("history: sync {:?}", begin.elapsed());
    drop(history);
    let begin = Instant::now();
    let history = History::open(dir, HistoryOptions::default())?;
    println!("history: opened in {:?}", begin.elapsed());
    let begin = Instant::now();
    for n in 0..2000_u64 {
        history.read(Revision(1 + n * 104_729 % 500_000), 1, 1 << 20)?;
    }
    println!("history: read of one record anywhere {:?}", begin.elapsed() / 2000);
    let begin = Instant::now();
    history.verify()?;
    println!("history: verify {:?} per record", begin.elapsed() / 500_000);
    Ok(())
}

/// CPU time of this thread: does not depend on what else the machine does.
fn cpu_time() -> Result<Duration> {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(times.split(' ').next().unwrap_or_default().parse()?))
}

fn record(last: &mut (u64, Digest)) -> Record {
    let revision = last.0 + 1;
    let octet = |shift: u32| u8::try_from(revision >> shift & 0xff).unwrap_or(0);
    let event = Event::AddressReleased(event::AddressReleased {
        name: format!("default/pod-{revision}").into(),
        ip: [10, octet(16), octet(8), octet(0)].into(),
        block: "10.0.0.0/29".parse().unwrap_or_default(),
        host: format!("host-{}", revision % 100).into(),
        tenant: "default".into(),
        segment: "default".into(),
        reason: event::ReleaseReason::Requested,
    });
    let (at, actor) = (Millis(revision), Actor::from("agent:host-1"));
    let digest = Record::chain(&last.1, Revision(revision), Index(revision), at, &actor, &event);
    *last = (revision, digest);
    Record { revision: Revision(revision), index: Index(revision), at, actor, event, digest }
}

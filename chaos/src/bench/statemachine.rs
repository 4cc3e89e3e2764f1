//! The state machine alone: allocate and release per second, bytes per live address, snapshots.
//! Each size runs in a process of its own, so that memory figures do not mix. Times are processor
//! time of the one thread that works, so that other programs on the machine do not count.

use std::process::Command as Process;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use romana_statemachine::command::{ReleaseAddress, SettingsChange};
use romana_statemachine::{Actor, Command, Entry, Millis, Position, Proposal, State};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ours;
use super::report::Machine;

/// Commands in one entry while filling and measuring: what the leader gathers under load.
const BATCH: u64 = 64;
/// Pairs of allocate and release that are measured.
const PAIRS: u64 = 400_000;

/// Figures of one size.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Size {
    live: u64,
    pairs_per_second: f64,
    bytes_per_address: f64,
    snapshot_ms: f64,
    snapshot_bytes: usize,
    restore_ms: f64,
    clone_us: f64,
}

/// All sizes.
pub(super) fn run(live: &[usize]) -> Result<Value> {
    let machine = Machine::look();
    let own = std::env::current_exe().context("find this program")?;
    println!(
        "State machine alone, in process, {} commands per entry, reuse delay 0, {} hosts, blocks of /29.",
        BATCH,
        ours::HOSTS
    );
    machine.print();
    println!(
        "{:>9} {:>15} {:>14} {:>12} {:>14} {:>11} {:>9}",
        "live",
        "alloc+rel/cpu s",
        "bytes/address",
        "snapshot ms",
        "snapshot bytes",
        "restore ms",
        "clone µs"
    );
    let mut sizes = Vec::new();
    for count in live {
        let output = Process::new(&own)
            .args(["bench", "statemachine", "--one", &count.to_string()])
            .output()
            .context("run one size")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let size: Size = serde_json::from_slice(&output.stdout).context("figures of one size")?;
        println!(
            "{:>9} {:>15.0} {:>14.0} {:>12.1} {:>14} {:>11.1} {:>9.2}",
            size.live,
            size.pairs_per_second,
            size.bytes_per_address,
            size.snapshot_ms,
            size.snapshot_bytes,
            size.restore_ms,
            size.clone_us
        );
        sizes.push(size);
    }
    Ok(json!({"bench": "statemachine", "machine": machine, "sizes": sizes}))
}

/// One size, printed as JSON.
pub(super) fn one(live: usize) -> Result<()> {
    println!("{}", serde_json::to_string(&measure(live as u64)?)?);
    Ok(())
}

struct Machinery {
    state: State,
    index: u64,
}

impl Machinery {
    fn apply(&mut self, commands: impl Iterator<Item = Command>) -> Result<()> {
        self.index += 1;
        let actor = Actor::from("bench");
        let proposals =
            commands.map(|command| Proposal { actor: actor.clone(), command }).collect();
        let entry = Entry { at: Millis(self.index), proposals };
        let (outcomes, records) = self.state.apply(Position { term: 1, index: self.index }, &entry);
        std::hint::black_box(records);
        for outcome in outcomes {
            outcome.result.context("the state machine refused")?;
        }
        Ok(())
    }
}

fn allocate(number: u64) -> Command {
    Command::AllocateAddress(ours::allocation(number))
}

fn release(number: u64) -> Command {
    Command::ReleaseAddress(ReleaseAddress { address: ours::allocation(number).name })
}

fn measure(live: u64) -> Result<Size> {
    let mut machine = Machinery { state: State::new(), index: 0 };
    let no_delay = SettingsChange { address_reuse_delay_ms: Some(0), ..SettingsChange::default() };
    machine.apply([Command::SetTopology(ours::topology())].into_iter())?;
    machine.apply([Command::ChangeSettings(no_delay)].into_iter())?;
    machine.apply((0..ours::HOSTS).map(|number| Command::AddHost(ours::host(number))))?;
    let before = resident_bytes();
    for start in (0..live).step_by(usize::try_from(BATCH)?) {
        machine.apply((start..live.min(start + BATCH)).map(allocate))?;
    }
    let bytes_per_address = resident_bytes().saturating_sub(before) as f64 / live as f64;

    // The oldest is released for each new one: the number of live addresses stays.
    let start = Processor::now()?;
    let mut next = live;
    while next < live + PAIRS {
        let batch = next..next + BATCH / 2;
        next = batch.end;
        machine.apply(batch.flat_map(|number| [release(number - live), allocate(number)]))?;
    }
    let pairs_per_second = (next - live) as f64 / start.elapsed()?.as_secs_f64();

    let start = Processor::now()?;
    let copy = machine.state.clone();
    let clone_us = start.elapsed()?.as_secs_f64() * 1e6;
    let start = Processor::now()?;
    let bytes = copy.snapshot();
    let snapshot_ms = start.elapsed()?.as_secs_f64() * 1e3;
    let start = Processor::now()?;
    let again = State::from_snapshot(&bytes).context("read the snapshot back")?;
    let restore_ms = start.elapsed()?.as_secs_f64() * 1e3;
    ensure!(again.digest() == machine.state.digest(), "the snapshot is another state");
    Ok(Size {
        live,
        pairs_per_second,
        bytes_per_address,
        snapshot_ms,
        snapshot_bytes: bytes.len(),
        restore_ms,
        clone_us,
    })
}

/// Processor time of this thread.
struct Processor(Duration);

impl Processor {
    fn now() -> Result<Self> {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat")
            .context("read this thread's processor time")?;
        let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
        Ok(Self(Duration::from_nanos(nanos.context("processor time is a number")?)))
    }

    fn elapsed(&self) -> Result<Duration> {
        Ok(Self::now()?.0.saturating_sub(self.0))
    }
}

/// Resident memory of this process, bytes.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok());
    kilobytes.unwrap_or_default() * 1024
}

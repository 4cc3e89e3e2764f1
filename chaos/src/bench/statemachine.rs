//! The state machine alone: allocations and releases per second, bytes per live address, snapshots, digests,
//! plans. Each size runs in its own process, so that memory values are independent. Times are processor time
//! of the single working thread, so that other programs on the machine only matter through shared caches and
//! memory. Entries are created outside the measured time.

use std::process::Command as Process;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use romana_statemachine::command::{ReleaseAddress, SettingsChange};
use romana_statemachine::{Actor, Command, Entry, Index, Millis, Position, Proposal, State, Term};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::large::Site;
use super::report::{Budget, Machine, median_by, print_budgets, resident_bytes};

/// Commands per entry while filling and measuring: what the leader batches under load.
const BATCH: u64 = 64;
/// Entries created at a time, outside the measured time.
const ENTRIES: u64 = 50;
/// Pairs of allocation and release that are measured.
const PAIRS: u64 = 400_000;

/// Results for one size.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Size {
    live: u64,
    hosts: u64,
    tenants: u64,
    pairs_per_second: f64,
    bytes_per_address: f64,
    snapshot_ms: f64,
    snapshot_bytes: usize,
    restore_ms: f64,
    digest_ms: f64,
    plan_ms: f64,
    clone_us: f64,
}

/// Runs all sizes in several rounds; the table shows medians by speed.
pub(super) fn run(live: &[usize], rounds: usize) -> Result<Value> {
    let machine = Machine::look();
    println!(
        "State machine alone, in process, {BATCH} commands per entry, reuse delay 0, blocks of /29, \
         200 addresses per host, 8 per tenant on a host; {rounds} rounds, median by speed."
    );
    machine.print();
    println!(
        "{:>9} {:>6} {:>7} {:>21} {:>8} {:>12} {:>10} {:>10} {:>9} {:>8} {:>8}",
        "live",
        "hosts",
        "tenants",
        "pairs/cpu s (min-max)",
        "bytes/ip",
        "snapshot ms",
        "its MB",
        "restore ms",
        "digest ms",
        "plan ms",
        "clone µs"
    );
    let mut sizes = Vec::new();
    let mut all = Vec::new();
    for count in live {
        let measured = (0..rounds).map(|_| in_own_process(*count)).collect::<Result<Vec<_>>>()?;
        let speed = |size: &Size| size.pairs_per_second;
        let Some(size) = median_by(measured.clone(), speed) else { continue };
        print_size(&size, &measured);
        sizes.push(size);
        all.push(measured);
    }
    print_budgets(&budgets(&sizes));
    Ok(json!({"bench": "statemachine", "machine": machine, "sizes": sizes, "rounds": all}))
}

fn in_own_process(live: usize) -> Result<Size> {
    let own = std::env::current_exe().context("find this program")?;
    let output = Process::new(&own)
        .args(["bench", "statemachine", "--one", &live.to_string()])
        .output()
        .context("run one size")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("figures of one size")
}

fn print_size(size: &Size, rounds: &[Size]) {
    let speeds = || rounds.iter().map(|size| size.pairs_per_second);
    let (least, most) = (speeds().fold(f64::MAX, f64::min), speeds().fold(0.0, f64::max));
    let speed = format!("{:.0} ({:.0}-{:.0}k)", size.pairs_per_second, least / 1e3, most / 1e3);
    println!(
        "{:>9} {:>6} {:>7} {:>21} {:>8.0} {:>12.1} {:>10.1} {:>10.1} {:>9.1} {:>8.1} {:>8.2}",
        size.live,
        size.hosts,
        size.tenants,
        speed,
        size.bytes_per_address,
        size.snapshot_ms,
        size.snapshot_bytes as f64 / 1e6,
        size.restore_ms,
        size.digest_ms,
        size.plan_ms,
        size.clone_us
    );
}

fn budgets(sizes: &[Size]) -> Vec<Budget> {
    let speeds = || sizes.iter().map(|size| size.pairs_per_second);
    let (least, most) = (speeds().fold(f64::MAX, f64::min), speeds().fold(0.0, f64::max));
    let mut budgets = vec![
        Budget::at_least("allocate + release, the slowest size, pairs/s", least, 500_000.0),
        // Speed must not depend on size; the design gives no budget for the ratio.
        Budget::note("the slowest size, relative to the fastest", least / most),
    ];
    if let Some(largest) = sizes.iter().max_by_key(|size| size.live) {
        budgets.push(Budget::at_most("bytes per live address", largest.bytes_per_address, 300.0));
    }
    budgets
}

/// Measures one size, and prints the result as JSON.
pub(super) fn one(live: usize) -> Result<()> {
    println!("{}", serde_json::to_string(&measure(live as u64)?)?);
    Ok(())
}

struct Machinery {
    state: State,
    index: u64,
}

impl Machinery {
    fn apply(&mut self, entry: &Entry) -> Result<()> {
        self.index += 1;
        let (outcomes, records) =
            self.state.apply(Position { term: Term(1), index: Index(self.index) }, entry);
        std::hint::black_box(records);
        for outcome in outcomes {
            outcome.result.context("the state machine refused")?;
        }
        Ok(())
    }
}

fn entry(commands: impl Iterator<Item = Command>) -> Entry {
    let actor = Actor::from("bench");
    let proposal = |command| Proposal { actor: actor.clone(), command };
    Entry { at: Millis(0), proposals: commands.map(proposal).collect() }
}

fn measure(live: u64) -> Result<Size> {
    let site = Site::for_addresses(live);
    let mut machine = Machinery { state: State::new(), index: 0 };
    let no_delay = SettingsChange { address_reuse_delay_ms: Some(0), ..SettingsChange::default() };
    machine.apply(&entry([Command::SetTopology(site.topology(1))].into_iter()))?;
    machine.apply(&entry([Command::ChangeSettings(no_delay)].into_iter()))?;
    machine.apply(&entry(site.furniture()))?;
    let before = resident_bytes(None);
    let allocate = |number| Command::AllocateAddress(site.allocation(number));
    for start in (0..live).step_by(usize::try_from(BATCH)?) {
        machine.apply(&entry((start..live.min(start + BATCH)).map(allocate)))?;
    }
    let bytes_per_address = resident_bytes(None).saturating_sub(before) as f64 / live as f64;

    // Releases the oldest for each new one, so that the number of live addresses stays the same.
    let release = |number| {
        let address = site.allocation(number).name;
        Command::ReleaseAddress(ReleaseAddress { address })
    };
    let (mut next, mut spent) = (live, Duration::ZERO);
    while next < live + PAIRS {
        let batches = (0..ENTRIES).map(|batch| {
            let first = next + batch * BATCH / 2;
            let numbers = first..first + BATCH / 2;
            entry(numbers.flat_map(|number| [release(number - live), allocate(number)]))
        });
        let entries: Vec<Entry> = batches.collect();
        next += ENTRIES * BATCH / 2;
        let start = Processor::now()?;
        for entry in &entries {
            machine.apply(entry)?;
        }
        spent += start.elapsed()?;
    }
    let pairs_per_second = (next - live) as f64 / spent.as_secs_f64();
    let size = Size {
        live,
        hosts: site.hosts,
        tenants: site.tenants,
        pairs_per_second,
        bytes_per_address,
        ..whole(&machine.state, site)?
    };
    Ok(size)
}

/// Operations on a whole state.
fn whole(state: &State, site: Site) -> Result<Size> {
    let (copy, clone_ms) = timed(|| state.clone())?;
    let (bytes, snapshot_ms) = timed(|| copy.snapshot())?;
    let (again, restore_ms) = timed(|| State::from_snapshot(&bytes))?;
    let again = again.context("read the snapshot back")?;
    let (digest, digest_ms) = timed(|| state.state_digest())?;
    ensure!(again.digest() == state.digest(), "the snapshot is of another history");
    ensure!(again.state_digest() == digest, "the snapshot is another state");
    // A second network, so that there is a change to plan.
    let (plan, plan_ms) = timed(|| state.plan_topology(&site.topology(2)))?;
    let plan = plan.context("plan a topology")?;
    ensure!(plan.changed && plan.conflicts.is_empty(), "the plan is {:?}", plan.conflicts);
    Ok(Size {
        live: 0,
        hosts: 0,
        tenants: 0,
        pairs_per_second: 0.0,
        bytes_per_address: 0.0,
        snapshot_ms,
        snapshot_bytes: bytes.len(),
        restore_ms,
        digest_ms,
        plan_ms,
        clone_us: clone_ms * 1e3,
    })
}

/// The result and the processor time of some work, milliseconds.
fn timed<T>(work: impl FnOnce() -> T) -> Result<(T, f64)> {
    let start = Processor::now()?;
    let result = work();
    Ok((result, start.elapsed()?.as_secs_f64() * 1e3))
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

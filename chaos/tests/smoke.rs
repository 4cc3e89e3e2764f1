//! Short runs against real `romanad` processes. The long ones are `chaos run`.

use std::process::Command;
use std::time::Duration;

use romana_chaos::cluster::find_romanad;
use romana_chaos::nemesis::{Fault, possible};
use romana_chaos::run::{RunOptions, run};

/// The faults that can be injected here; in CI that must be all of them.
fn everything() -> String {
    let all = Fault::list("all").expect("faults");
    let can = possible(&all);
    assert!(can.len() == all.len() || std::env::var_os("CI").is_none(), "needs root: {all:?}");
    can.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// `CHAOS_SEED`, or a seed derived from the commit: new with each commit, but
/// reproducible. Without git it is fixed.
fn seed_of_the_commit() -> u64 {
    if let Ok(seed) = std::env::var("CHAOS_SEED") {
        return seed.parse().expect("CHAOS_SEED is a number");
    }
    let head = Command::new("git").args(["rev-parse", "HEAD"]).output();
    let head = head.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let digits = head.ok().and_then(|head| head.get(..15).map(str::to_owned));
    digits.and_then(|digits| u64::from_str_radix(&digits, 16).ok()).unwrap_or(4)
}

fn options(seed: u64, seconds: u64, clients: usize, nemesis: &str) -> RunOptions {
    let faults = Fault::list(nemesis).expect("faults");
    RunOptions {
        seed,
        seconds,
        clients,
        replicas: 3,
        faults,
        interval: Duration::from_secs(2),
        kubernetes: false,
        lying_disk: false,
        romanad: find_romanad(None).expect("cargo build --workspace --bins comes first"),
        previous: None,
        parent: None,
        keep: false,
    }
}

async fn all_laws_hold(options: &RunOptions) {
    let report = run(options).await.expect("the run can be carried out");
    assert!(
        report.violations.is_empty(),
        "{:#?}\n{:?}\ndata and logs: {:?}\nagain with: {}",
        report.violations,
        report.story.facts,
        report.kept,
        options.reproduce(),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_are_killed_and_replicas_paused() {
    all_laws_hold(&options(1, 10, 16, "kill-leader,pause")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_power_is_cut() {
    all_laws_hold(&options(2, 10, 16, "power,power-all")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_are_put_back() {
    let options = options(5, 18, 8, "older-copy");
    all_laws_hold(&RunOptions { interval: Duration::from_secs(8), ..options }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_sends_what_no_peer_would() {
    all_laws_hold(&options(6, 10, 8, "forged-peer,kill-leader,pause")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_neither_read_nor_finish() {
    all_laws_hold(&options(7, 12, 8, "abusive-clients")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_broken_in_turn() {
    all_laws_hold(&options(4, 25, 16, &everything())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_seed_for_each_commit() {
    let options = options(seed_of_the_commit(), 20, 16, &everything());
    println!("{}", options.reproduce());
    all_laws_hold(&options).await;
}

/// Tests the judge: on a disk with ineffective fsync, power cuts lose acknowledged allocations.
#[tokio::test(flavor = "multi_thread")]
async fn a_lying_disk_is_found_out() {
    let options = RunOptions { lying_disk: true, ..options(3, 5, 16, "power-all") };
    // A replica may also be unable to start at all.
    if let Ok(report) = run(&options).await {
        if let Some(kept) = &report.kept {
            std::fs::remove_dir_all(kept).expect("remove what was kept");
        }
        assert!(!report.violations.is_empty(), "nothing was lost?\n{:?}", report.story.facts);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn seeds_that_once_failed() {
    let seeds = include_str!("../seeds.txt");
    for line in seeds.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (Some(seed), Some(seconds), Some(clients), Some(interval_ms)) =
            (number(), number(), number(), number())
        else {
            panic!("{line:?} is not `seed seconds clients interval-ms nemesis`");
        };
        let clients = usize::try_from(clients).expect("few clients");
        let nemesis = words.next().expect("a nemesis");
        let interval = Duration::from_millis(interval_ms);
        let options = RunOptions { interval, ..options(seed, seconds, clients, nemesis) };
        all_laws_hold(&options).await;
    }
}

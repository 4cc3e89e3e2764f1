//! The log and the history on a disk that loses power, fails or fills up (`chaos/src/powerfail.c`).
//! This program runs itself as the affected child process: [`writer_process`], [`historian_process`].

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::mpsc;

use bytes::Bytes;
use romana_statemachine::{Actor, Event, Index, Millis, Record, Revision, event};
use romana_storage::history::{History, HistoryOptions};
use romana_storage::wal::{Recovered, Wal, WalOptions};

/// Environment variable with the child's directory; its presence marks a child.
const DIR: &str = "POWERFAIL_DIR";

const LOG: WalOptions = WalOptions { segment_bytes: 64 << 10, mark: None, owner: None };
const HISTORY: HistoryOptions = HistoryOptions { segment_bytes: 16 << 10 };

/// Compiles the shim into `dir`.
fn shim(dir: &Path) -> PathBuf {
    let library = dir.join("powerfail.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../chaos/src/powerfail.c");
    let compiler = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([library.as_os_str(), source.as_ref()])
        .args(["-ldl", "-lpthread"])
        .output()
        .expect("this test needs a C compiler named cc");
    assert!(compiler.status.success(), "{}", String::from_utf8_lossy(&compiler.stderr));
    library
}

/// Runs `process` of this program on `dir`, with the shim and its `settings`.
fn run(process: &str, shim: &Path, dir: &Path, settings: &[(&str, String)]) -> Output {
    let program = std::env::current_exe().unwrap();
    Command::new(program)
        .args(["--exact", process, "--nocapture", "--test-threads=1"])
        .env("LD_PRELOAD", shim)
        .env("PF_DIR", dir)
        .env(DIR, dir)
        .envs(settings.iter().cloned())
        .output()
        .unwrap()
}

/// The last number that the child printed, by keyword.
fn said(output: &Output) -> HashMap<String, u64> {
    let text = String::from_utf8_lossy(&output.stdout);
    let words = text.lines().filter_map(|line| line.split_once(' '));
    words.filter_map(|(word, number)| Some((word.to_owned(), number.parse().ok()?))).collect()
}

/// Prints one line unbuffered: a line that is not written before the power fails does not count.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// The payload of entry `index`: contains the index and is up to two pages long.
fn payload(index: u64) -> Bytes {
    let words = usize::try_from(index * 7919 % 1000).unwrap() + 1;
    index.to_le_bytes().repeat(words).into()
}

/// In the child: appends with eight entries in flight, with an occasional vote and purge, and prints what
/// is acknowledged. After the first error it waits for five more results.
#[test]
fn writer_process() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let (wal, found) = match Wal::open(Path::new(&dir), LOG) {
        Ok(opened) => opened,
        Err(error) => return say(&format!("unopened {error}")),
    };
    let (tell, told) = mpsc::channel();
    let done = |word: &'static str, index: u64| -> romana_storage::wal::Done {
        let tell = tell.clone();
        Box::new(move |outcome| tell.send((word, index, outcome)).unwrap())
    };
    let mut next = found.last.map_or(found.first, |last| last + 1).max(1);
    let (mut flying, mut errors, mut acknowledged_after) = (0, 0, 0);
    while errors < 6 && next < 100_000 {
        while flying < 8 {
            if next % 50 == 9 {
                let vote = Bytes::copy_from_slice(&next.to_le_bytes());
                wal.save_vote(vote, done("vote", next));
                flying += 1;
            }
            if next % 50 == 7 && next > 300 {
                wal.purge(next - 200, "marker".into(), done("purge", next - 200));
                flying += 1;
            }
            wal.append(vec![(next, payload(next))], done("ack", next));
            (next, flying) = (next + 1, flying + 1);
        }
        let (word, index, outcome) = told.recv().unwrap();
        flying -= 1;
        match outcome {
            Ok(()) if errors > 0 => acknowledged_after += 1,
            Ok(()) => say(&format!("{word} {index}")),
            Err(_) => errors += 1,
        }
    }
    say(&format!("acknowledged-after-an-error {acknowledged_after}"));
    say(&format!("failed {}", u64::from(wal.failed().is_some())));
}

/// Opens the log after the fault and checks that everything the child reported is there.
fn check_log(dir: &Path, said: &HashMap<String, u64>, round: &str) -> Recovered {
    let (wal, found) = Wal::open(dir, LOG).unwrap_or_else(|error| panic!("{round}: {error}"));
    let at_least = |word: &str| said.get(word).copied().unwrap_or(0);
    assert!(found.last.unwrap_or(0) >= at_least("ack"), "{round}: {found:?}, {said:?}");
    let purged = found.purged.as_ref().map_or(0, |(upto, _)| *upto);
    assert!(purged >= at_least("purge"), "{round}: {found:?}, {said:?}");
    let vote = found.vote.as_ref().and_then(|vote| vote.first_chunk()).copied();
    assert!(vote.map_or(0, u64::from_le_bytes) >= at_least("vote"), "{round}: {found:?}, {said:?}");
    let entries = wal.read(found.first, u64::MAX, usize::MAX).unwrap();
    let indexes = found.first..found.last.map_or(found.first, |last| last + 1);
    assert!(entries.iter().map(|(index, _)| *index).eq(indexes), "{round}");
    assert!(entries.iter().all(|(index, entry)| *entry == payload(*index)), "{round}");
    found
}

/// Deterministic random numbers for faults.
fn dice(round: u64, upto: u64) -> u64 {
    (round.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) >> 33)
        % upto
}

#[test]
fn power_cuts_lose_nothing_acknowledged() {
    let tools = tempfile::tempdir().unwrap();
    let shim = shim(tools.path());
    let log = tools.path().join("cuts");
    let mut undone = 0;
    for round in 0..40 {
        // Ten consecutive power cuts on each log.
        let dir = tools.path().join(format!("log-{}", round / 10));
        std::fs::create_dir_all(&dir).unwrap();
        let mut settings = vec![
            ("PF_CUTSYNC", (1 + dice(round, 120)).to_string()),
            ("PF_LOG", log.display().to_string()),
        ];
        // In some rounds all unsynced pages are lost, in the others a random subset.
        if round % 5 != 0 {
            settings.push(("PF_RAND", round.to_string()));
        }
        let output = run("writer_process", &shim, &dir, &settings);
        assert_eq!(output.status.code(), Some(9), "{output:?}");
        check_log(&dir, &said(&output), &format!("round {round} {settings:?} {output:?}"));
        let cuts = std::fs::read_to_string(&log).unwrap();
        undone += u32::from(!cuts.lines().last().unwrap().contains("writes=0 "));
    }
    assert!(undone >= 20, "only {undone} cuts had anything to lose");
}

#[test]
fn a_failed_sync_stops_the_log_for_good() {
    let tools = tempfile::tempdir().unwrap();
    let shim = shim(tools.path());
    // Fails syncs of files and of the directory: at open, in groups and at rotation.
    for nth in [1, 3, 4, 5, 6, 9, 20, 21, 22, 23, 24, 25, 26, 27, 60] {
        let dir = tempfile::tempdir().unwrap();
        let output = run("writer_process", &shim, dir.path(), &[("PF_EIO", nth.to_string())]);
        let said = said(&output);
        let text = String::from_utf8_lossy(&output.stdout);
        if text.contains("unopened") {
            assert!(nth <= 6, "{text}");
        } else {
            assert_eq!(said.get("failed"), Some(&1), "sync {nth}: {output:?}");
            assert_eq!(said.get("acknowledged-after-an-error"), Some(&0), "sync {nth}");
        }
        check_log(dir.path(), &said, &format!("sync {nth}"));
    }
}

#[test]
fn a_full_disk_stops_the_log_and_keeps_what_was_acknowledged() {
    let tools = tempfile::tempdir().unwrap();
    let shim = shim(tools.path());
    for room in [1, 70, 5_000, 33_333, 150_000, 400_000] {
        let dir = tempfile::tempdir().unwrap();
        let output = run("writer_process", &shim, dir.path(), &[("PF_ROOM", room.to_string())]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let words = said(&output);
        if !text.contains("unopened") {
            assert_eq!(words.get("failed"), Some(&1), "{text}");
            assert_eq!(words.get("acknowledged-after-an-error"), Some(&0), "{text}");
        }
        // With the disk still full it opens, or says why not; then there is space again.
        let again = run("writer_process", &shim, dir.path(), &[("PF_ROOM", "0".to_owned())]);
        assert!(!String::from_utf8_lossy(&again.stdout).contains("damaged"), "{again:?}");
        check_log(dir.path(), &words, &format!("room {room}"));
    }
}

/// Records that follow `last`.
fn records(last: &mut (Revision, romana_statemachine::Digest), count: u64) -> Vec<Record> {
    let mut make = || {
        let revision = last.0.next();
        let event = Event::TenantDeleted(event::TenantDeleted { id: revision.to_string().into() });
        let (at, actor) = (Millis(revision.get()), Actor::from("powerfail"));
        let index = Index(revision.get());
        let digest = Record::chain(&last.1, revision, index, at, &actor, &event);
        *last = (revision, digest);
        Record { revision, index, at, actor, event, digest }
    };
    (0..count).map(|_| make()).collect()
}

/// In the child: appends to a history with occasional syncs, and prints what is durable.
#[test]
fn historian_process() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let history = History::open(Path::new(&dir), HISTORY).unwrap();
    let mut last = history.last();
    for round in 0..20_000 {
        history.append(&records(&mut last, 1 + round % 13)).unwrap();
        if round % 7 == 0 {
            history.sync().unwrap();
            say(&format!("synced {}", last.0));
        }
    }
}

#[test]
fn power_cuts_lose_nothing_of_the_synced_history() {
    let tools = tempfile::tempdir().unwrap();
    let shim = shim(tools.path());
    for round in 0..30 {
        let dir = tools.path().join(format!("history-{}", round / 6));
        std::fs::create_dir_all(&dir).unwrap();
        let mut settings = vec![("PF_CUTSYNC", (1 + dice(round, 60)).to_string())];
        if round % 5 != 0 {
            settings.push(("PF_RAND", round.to_string()));
        }
        let output = run("historian_process", &shim, &dir, &settings);
        assert_eq!(output.status.code(), Some(9), "{output:?}");
        let synced = said(&output).get("synced").copied().unwrap_or(0);
        let history =
            History::open(&dir, HISTORY).unwrap_or_else(|error| panic!("{round}: {error}"));
        assert!(history.last().0 >= synced, "round {round}");
        assert_eq!(history.verify().unwrap(), history.last(), "round {round}");
    }
}

/// In the child: like [`historian_process`], and also purges old records and occasionally resets the history.
#[test]
fn purger_process() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let history = History::open(Path::new(&dir), HISTORY).unwrap();
    let mut last = history.last();
    for round in 1..20_000 {
        history.append(&records(&mut last, 1 + round % 41)).unwrap();
        if round % 7 == 0 {
            history.sync().unwrap();
            say(&format!("synced {}", last.0));
        }
        if round % 11 == 0 {
            history.close_segment().unwrap();
            let oldest = history.purge_before(Revision(last.0.get().saturating_sub(500))).unwrap();
            say(&format!("oldest {oldest}"));
        }
        if round % 29 == 0 {
            last = (last.0.plus(100), romana_statemachine::Digest::of(&round.to_le_bytes()));
            history.reset(last.0, last.1).unwrap();
            say(&format!("synced {}", last.0));
            say(&format!("oldest {}", last.0.next()));
        }
    }
}

#[test]
fn power_cuts_leave_a_purged_history_whole() {
    let tools = tempfile::tempdir().unwrap();
    let shim = shim(tools.path());
    for round in 0..40 {
        let dir = tools.path().join(format!("purged-{}", round / 8));
        std::fs::create_dir_all(&dir).unwrap();
        let mut settings = vec![("PF_CUTSYNC", (1 + dice(round, 120)).to_string())];
        if round % 5 != 0 {
            settings.push(("PF_RAND", round.to_string()));
        }
        let output = run("purger_process", &shim, &dir, &settings);
        assert_eq!(output.status.code(), Some(9), "{output:?}");
        let said = said(&output);
        let at_least = |word: &str| said.get(word).copied().unwrap_or(0);
        let history =
            History::open(&dir, HISTORY).unwrap_or_else(|error| panic!("{round}: {error}"));
        assert!(history.last().0 >= at_least("synced"), "round {round}");
        assert!(history.oldest() >= at_least("oldest"), "round {round}");
        assert_eq!(history.verify().unwrap(), history.last(), "round {round}");
    }
}

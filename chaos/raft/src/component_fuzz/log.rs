//! The log: after any end of a life its content is that after some change, and not one
//! before the last acknowledged change.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use romana_storage::platform::{below, disk};
use romana_storage::wal::{Done, Recovered, Wal, WalOptions};
use tokio::sync::oneshot;

/// Possible content of a log. Entries and votes are numbers, spread over some bytes.
#[derive(Clone, Debug, Default, PartialEq)]
struct Content {
    vote: Option<u64>,
    purged: Option<u64>,
    first: u64,
    entries: Vec<u64>,
}

/// A machine's log, and its possible content.
pub(super) struct Log {
    machine: String,
    /// The content after each requested change; the first is certain.
    versions: Vec<Content>,
    changes: u64,
}

fn spread(number: u64) -> Vec<u8> {
    let length = 8 + usize::try_from(number * 37 % 600).unwrap_or(0);
    number.to_le_bytes().into_iter().cycle().take(length).collect()
}

fn gathered(bytes: &[u8]) -> Result<u64, String> {
    let number = bytes.first_chunk().map(|head| u64::from_le_bytes(*head));
    let number = number.filter(|number| spread(*number) == bytes);
    number.ok_or_else(|| format!("has bytes that nobody wrote: {bytes:?}"))
}

impl super::Part for Log {
    fn new(machine: String) -> Self {
        Self { machine, versions: vec![Content::default()], changes: 0 }
    }

    fn live(&mut self) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(|error| error.to_string())?;
        runtime.block_on(self.run())
    }
}

impl Log {
    async fn run(&mut self) -> Result<(), String> {
        let dir = PathBuf::from(format!("/{}/wal", self.machine));
        let excused = super::excuse(&self.machine);
        let options = WalOptions { segment_bytes: 4096, mark: None, owner: None };
        let (log, found) = match Wal::open(&dir, options) {
            Ok(opened) if !disk::is_dark(&self.machine) => opened,
            // The power failed during the open.
            Ok(_) => return Ok(()),
            Err(_) if excused() => return Ok(()),
            Err(error) => return Err(format!("does not open: {error:?}")),
        };
        let content = content(&log, &found)?;
        if !self.versions.contains(&content) {
            let least = &self.versions[0];
            return Err(format!("is {content:?}, which it never was after {least:?}"));
        }
        self.versions = vec![content];
        let acknowledged = Arc::new(AtomicUsize::new(0));
        for _ in 0..below(50) {
            if disk::is_dark(&self.machine) || !self.step(&log, &acknowledged).await {
                break;
            }
        }
        self.versions.drain(..acknowledged.load(Ordering::SeqCst));
        Ok(())
    }

    /// Executes one operation. `false`: the log has stopped.
    async fn step(&mut self, log: &Wal, acknowledged: &Arc<AtomicUsize>) -> bool {
        match below(16) {
            13 => disk::fail_next_sync(&self.machine),
            14 => disk::cut_power_after(&self.machine, 1 + below(20)),
            15 => tokio::task::yield_now().await,
            die => return self.change(die, log, acknowledged).await,
        }
        true
    }

    async fn change(&mut self, die: u64, log: &Wal, acknowledged: &Arc<AtomicUsize>) -> bool {
        let mut now = self.versions.last().cloned().unwrap_or_default();
        self.changes += 1;
        let number = self.changes;
        let ask: Box<dyn FnOnce(Done)> = match die {
            0..7 => {
                let entries = self.append(&mut now, 1 + below(6));
                let spread = |(index, number)| (index, spread(number).into());
                Box::new(move |done| log.append(entries.into_iter().map(spread).collect(), done))
            }
            7..9 => {
                now.vote = Some(number);
                Box::new(|done| log.save_vote(spread(number).into(), done))
            }
            9..11 => {
                let last = now.next().checked_sub(1 + below(8));
                now.truncate_after(last);
                Box::new(move |done| log.truncate_after(last, done))
            }
            _ => {
                let upto = now.next().saturating_sub(below(12));
                now.purge(upto);
                Box::new(move |done| log.purge(upto, spread(upto).into(), done))
            }
        };
        self.versions.push(now);
        let (version, acknowledged) = (self.versions.len() - 1, Arc::clone(acknowledged));
        let (tell, told) = oneshot::channel();
        ask(Box::new(move |outcome| {
            if outcome.is_ok() {
                acknowledged.fetch_max(version, Ordering::SeqCst);
            }
            _ = tell.send(outcome.is_ok());
        }));
        // Do not always wait, so that writes are grouped.
        below(3) == 0 || told.await.unwrap_or(false)
    }

    /// Appends entries. Each gives a version, as a group may be written partly.
    fn append(&mut self, now: &mut Content, count: u64) -> Vec<(u64, u64)> {
        let mut entries = Vec::new();
        for _ in 0..count {
            self.changes += 1;
            entries.push((now.next(), self.changes));
            now.entries.push(self.changes);
            self.versions.push(now.clone());
        }
        entries
    }
}

impl Content {
    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn truncate_after(&mut self, last: Option<u64>) {
        let kept = last.map_or(0, |last| (last + 1).saturating_sub(self.first));
        self.entries.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
    }

    fn purge(&mut self, upto: u64) {
        if self.purged.is_none_or(|purged| purged < upto) {
            let gone = usize::try_from(upto + 1 - self.first).unwrap_or(usize::MAX);
            self.entries.drain(..gone.min(self.entries.len()));
            (self.purged, self.first) = (Some(upto), upto + 1);
        }
    }
}

fn content(log: &Wal, found: &Recovered) -> Result<Content, String> {
    let entries = log.read(found.first, u64::MAX, usize::MAX);
    let entries = entries.map_err(|error| format!("cannot be read: {error:?}"))?;
    let entries = entries.iter().zip(found.first..).map(|((index, bytes), wanted)| {
        if *index != wanted {
            return Err(format!("has entry {index} where {wanted} should be"));
        }
        gathered(bytes)
    });
    let purged = found.purged.as_ref().map(|(upto, marker)| match gathered(marker) {
        Ok(number) if number == *upto => Ok(number),
        _ => Err(format!("was purged up to {upto} and has the marker of another: {marker:?}")),
    });
    Ok(Content {
        vote: found.vote.as_deref().map(gathered).transpose()?,
        purged: purged.transpose()?,
        first: found.first,
        entries: entries.collect::<Result<_, _>>()?,
    })
}

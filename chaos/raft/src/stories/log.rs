//! The log: after any end of a life it is what some change made of it, and none before the last one that was
//! acknowledged.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use romana_controlplane::platform::{below, disk};
use romana_controlplane::wal::{Done, Recovered, Wal, WalOptions};
use tokio::sync::oneshot;

/// What can be in a log. Entries and votes are numbers, spread over some bytes.
#[derive(Clone, Debug, Default, PartialEq)]
struct Content {
    vote: Option<u64>,
    purged: Option<u64>,
    first: u64,
    entries: Vec<u64>,
}

/// A machine's log, and what may be in it.
pub(super) struct Log {
    machine: String,
    /// Each change that was asked for, after the one before; the first is certainly there.
    versions: Vec<Content>,
    changes: u64,
}

type Bytes = Vec<u8>;

fn spread(number: u64) -> Bytes {
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
        let failed = disk::failed_syncs(&self.machine);
        let options = WalOptions { segment_bytes: 4096, mark: None };
        let (log, found) = match Wal::open(&dir, options) {
            Ok(opened) if !disk::is_dark(&self.machine) => opened,
            // With the last of the power.
            Ok(_) => return Ok(()),
            Err(_)
                if disk::is_dark(&self.machine) || disk::failed_syncs(&self.machine) > failed =>
            {
                return Ok(());
            }
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

    /// Does something. `false`: the log has stopped.
    async fn step(&mut self, log: &Wal, acknowledged: &Arc<AtomicUsize>) -> bool {
        let mut now = self.versions.last().cloned().unwrap_or_default();
        let next = now.first + now.entries.len() as u64;
        self.changes += 1;
        let (tell, told) = oneshot::channel();
        let done = |version: usize| -> Done {
            let acknowledged = Arc::clone(acknowledged);
            Box::new(move |outcome| {
                if outcome.is_ok() {
                    acknowledged.fetch_max(version, Ordering::SeqCst);
                }
                _ = tell.send(outcome.is_ok());
            })
        };
        let version = self.versions.len();
        match below(16) {
            0..7 => {
                let count = 1 + below(6);
                let mut entries = Vec::new();
                for index in next..next + count {
                    self.changes += 1;
                    now.entries.push(self.changes);
                    // Half a group may be there.
                    self.versions.push(now.clone());
                    entries.push((index, spread(self.changes).into()));
                }
                log.append(entries, done(self.versions.len() - 1));
            }
            7..9 => {
                now.vote = Some(self.changes);
                self.versions.push(now);
                log.save_vote(spread(self.changes).into(), done(version));
            }
            9..11 => {
                let last = next.checked_sub(1 + below(8));
                let kept = last.map_or(0, |last| (last + 1).saturating_sub(now.first));
                now.entries.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
                self.versions.push(now);
                log.truncate_after(last, done(version));
            }
            11..13 => {
                let upto = next.saturating_sub(below(12));
                if now.purged.is_none_or(|purged| purged < upto) {
                    let gone = usize::try_from(upto + 1 - now.first).unwrap_or(usize::MAX);
                    now.entries.drain(..gone.min(now.entries.len()));
                    (now.purged, now.first) = (Some(upto), upto + 1);
                }
                self.versions.push(now);
                log.purge(upto, spread(upto).into(), done(version));
            }
            13 => {
                disk::fail_next_sync(&self.machine);
                return true;
            }
            14 => {
                disk::cut_power_after(&self.machine, 1 + below(20));
                return true;
            }
            _ => {
                tokio::task::yield_now().await;
                return true;
            }
        }
        // Others go on at once: then there are groups.
        below(3) == 0 || told.await.unwrap_or(false)
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

//! The history alone on one disk, in stories of a few lives: what a whole cluster meets once in thousands of
//! seeds (a segment that cannot be packed, later ones that can, and then no power) is in every tenth of these.

use std::path::PathBuf;
use std::time::Duration;

use romana_controlplane::history::{History, HistoryError, HistoryOptions};
use romana_controlplane::platform::{begin, below, disk, random};
use romana_statemachine::{Actor, Digest, Event, Millis, Record, Revision, event};

/// Lives of a story.
const LIVES: u64 = 5;

/// Who has the disk, and what it owes.
struct Story {
    machine: String,
    /// The last revision that a sync acknowledged.
    safe: Revision,
    /// The revision up to which nothing is kept.
    purged: Revision,
}

/// Tells stories; the first one that ends badly, and how.
pub(crate) fn tell(seeds: std::ops::Range<u64>) -> Result<(), (u64, String)> {
    for seed in seeds {
        begin(seed, Duration::ZERO);
        let mut story = Story { machine: format!("s{seed}"), safe: 0, purged: 0 };
        for _ in 0..LIVES {
            story.live().map_err(|why| (seed, why))?;
        }
    }
    Ok(())
}

impl Story {
    /// From the start of a process to its end.
    fn live(&mut self) -> Result<(), String> {
        let machine = self.machine.clone();
        disk::power_on(&machine);
        let failed = disk::failed_syncs(&machine);
        let dir = PathBuf::from(format!("/{machine}/history"));
        if below(8) == 0 {
            disk::cut_power_after(&machine, 1 + below(12));
        }
        match History::open(&dir, HistoryOptions { segment_bytes: 512 + below(2048) }) {
            Ok(history) => self.use_it(&history)?,
            Err(_) if disk::is_dark(&machine) || disk::failed_syncs(&machine) > failed => {}
            Err(error) => return Err(format!("it does not open: {error:?}")),
        }
        if random() {
            disk::cut_power(&machine);
        }
        disk::kill(&machine);
        Ok(())
    }

    fn use_it(&mut self, history: &History) -> Result<(), String> {
        let (last, oldest) = (history.last().0, history.oldest());
        if last < self.safe || oldest > self.purged + 1 {
            let Self { safe, purged, .. } = self;
            return Err(format!("{purged}..={safe} is owed, {oldest}..={last} is there"));
        }
        history.verify().map_err(|error| format!("it is damaged: {error:?}"))?;
        for _ in 0..below(60) {
            // A history that has stopped stays so: its next life looks at what is there.
            if disk::is_dark(&self.machine) || self.step(history).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn step(&mut self, history: &History) -> Result<(), HistoryError> {
        match below(16) {
            0..8 => history.append(&records(history.last(), 1 + below(6)))?,
            8..12 => {
                let last = history.last().0;
                history.sync()?;
                self.safe = last;
            }
            12 => disk::fail_next_sync(&self.machine),
            13 => disk::cut_power_after(&self.machine, 1 + below(30)),
            14 => history.close_segment()?,
            _ => {
                // What is wanted may go, in part or whole, also when that is interrupted.
                let upto = below(self.safe + 1);
                self.purged = self.purged.max(upto);
                _ = history.purge_before(upto)?;
            }
        }
        Ok(())
    }
}

/// `count` records that follow `last`.
fn records(mut last: (Revision, Digest), count: u64) -> Vec<Record> {
    let mut make = || {
        let revision = last.0 + 1;
        let id = format!(
            "tenant-{revision}-{}",
            "x".repeat(usize::try_from(revision % 64).unwrap_or(0))
        );
        let event = Event::TenantCreated(event::TenantCreated {
            id: id.into(),
            labels: [].into_iter().collect(),
        });
        let (at, actor) = (Millis(revision * 10), Actor::from("story"));
        let digest = Record::chain(&last.1, revision, revision, at, &actor, &event);
        last = (revision, digest);
        Record { revision, index: revision, at, actor, event, digest }
    };
    (0..count).map(|_| make()).collect()
}

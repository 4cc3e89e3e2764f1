//! The history opens, complete and in order, with everything that a sync has acknowledged.

use std::path::PathBuf;

use romana_statemachine::{Actor, Digest, Event, Index, Millis, Record, Revision, event};
use romana_storage::history::{History, HistoryError, HistoryOptions};
use romana_storage::platform::{below, disk};

/// A machine's history, and the guarantees given.
pub(super) struct Kept {
    machine: String,
    /// The last revision that a sync acknowledged.
    safe: Revision,
    /// Records up to this revision may be purged.
    purged: Revision,
}

impl super::Part for Kept {
    fn new(machine: String) -> Self {
        Self { machine, safe: Revision(0), purged: Revision(0) }
    }

    fn live(&mut self) -> Result<(), String> {
        let excused = super::excuse(&self.machine);
        let dir = PathBuf::from(format!("/{}/history", self.machine));
        match History::open(&dir, HistoryOptions { segment_bytes: 512 + below(2048) }) {
            Ok(history) => self.use_it(&history),
            Err(_) if excused() => Ok(()),
            Err(error) => Err(format!("does not open: {error:?}")),
        }
    }
}

impl Kept {
    fn use_it(&mut self, history: &History) -> Result<(), String> {
        let (last, oldest) = (history.last().0, history.oldest());
        if last < self.safe || oldest > self.purged.next() {
            let Self { safe, purged, .. } = self;
            return Err(format!("owes {purged}..={safe}, and has {oldest}..={last}"));
        }
        history.verify().map_err(|error| format!("is damaged: {error:?}"))?;
        for _ in 0..below(60) {
            // A stopped history stays stopped: its next life checks the content.
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
                // The requested part may be purged entirely or partly, also on interruption.
                let upto = Revision(below(self.safe.next().get()));
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
        let revision = last.0.next();
        let id = format!(
            "tenant-{revision}-{}",
            "x".repeat(usize::try_from(revision.get() % 64).unwrap_or(0))
        );
        let event = Event::TenantCreated(event::TenantCreated {
            id: id.into(),
            labels: [].into_iter().collect(),
        });
        let (at, actor) = (Millis(revision.get() * 10), Actor::from("story"));
        let index = Index(revision.get());
        let digest = Record::chain(&last.1, revision, index, at, &actor, &event);
        last = (revision, digest);
        Record { revision, index, at, actor, event, digest }
    };
    (0..count).map(|_| make()).collect()
}

//! Audit queries. All of them block on the disk.

use std::net::IpAddr;
use std::sync::Arc;

use romana_statemachine::audit::{Filter, Moment, Tenure, tenures};
use romana_statemachine::{Millis, Record, Revision, State};
use romana_storage::history::HistoryError;

use super::Audit;
use super::keys::{self, Key};
use crate::Cancel;

/// Records read for one page of a log without a selective filter.
const SCAN_RECORDS_MAX: usize = 200_000;
const CHUNK_RECORDS: usize = 1024;
const CHUNK_BYTES: usize = 1 << 20;

/// Why a query cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The index is being rebuilt.
    #[error("the index is being built: it has reached revision {reached}")]
    Rebuilding {
        /// How far it reaches.
        reached: Revision,
    },
    /// The history cannot be read, or no longer reaches back that far.
    #[error("the history cannot be read")]
    History(#[from] HistoryError),
    /// The query needs records that cannot be indexed, because the history cannot be read.
    #[error("the history cannot be read")]
    Stuck(#[source] Arc<HistoryError>),
    /// The caller has gone.
    #[error("nobody waits for the answer")]
    Cancelled,
}

/// One page of a long answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Start of the next page; `None` on the last one.
    pub next: Option<Revision>,
}

impl Audit {
    /// Tenures of an address up to a revision, oldest first; only those that began after `after`.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn who(
        &self,
        ip: IpAddr,
        upto: Revision,
        after: Revision,
        limit: usize,
    ) -> Result<Page<Tenure>, AuditError> {
        let revisions = self.revisions(&[keys::of_ip(ip)], after, upto)?;
        let (mut records, mut begun, mut more) = (Vec::new(), 0, false);
        for revision in revisions {
            let record = self.record(revision)?;
            // The previous page ended with the tenure that this record began.
            if revision == after {
                records.push(record);
                continue;
            }
            if Tenure::begun(&record).is_some() {
                more = begun == limit;
                if more {
                    break;
                }
                begun += 1;
            }
            records.push(record);
        }
        let mut items = tenures(ip, &records);
        items.retain(|tenure| after == 0 || tenure.from.is_some_and(|from| from.revision > after));
        let next = items.last().and_then(|last| last.from).map(|from| from.revision);
        Ok(Page { items, next: next.filter(|_| more) })
    }

    /// The holder of an address at a revision, if there was one.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn who_at(
        &self,
        ip: IpAddr,
        at: Revision,
        upto: Revision,
    ) -> Result<Option<Tenure>, AuditError> {
        let revisions = self.revisions(&[keys::of_ip(ip)], Revision(0), upto)?;
        let (before, later) = revisions.split_at(revisions.partition_point(|r| *r <= at));
        let mut records = Vec::new();
        for revision in before.iter().rev() {
            let record = self.record(*revision)?;
            // A record may end one tenure and begin the next.
            if Tenure::begun(&record).is_some() {
                records.push(record);
                break;
            }
            if Tenure::ended(&record).is_some() {
                return Ok(None);
            }
        }
        for revision in later {
            let record = self.record(*revision)?;
            let ends = Tenure::ended(&record).is_some();
            records.push(record);
            if ends {
                break;
            }
        }
        Ok(tenures(ip, &records).into_iter().find(|tenure| tenure.held_at(at)))
    }

    /// Records that match a filter, from `from` to `upto`, oldest first. A page may have fewer than `limit` records,
    /// even none, and still have a successor.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn log(
        &self,
        filter: &Filter,
        from: Revision,
        upto: Revision,
        limit: usize,
        cancel: &Cancel,
    ) -> Result<Page<Record>, AuditError> {
        let from = from.max(self.0.shared.history.oldest());
        match keys::of_filter(filter) {
            Some(keys) => {
                let revisions = self.revisions(&keys, from, upto)?;
                self.pick(filter, &revisions, limit, cancel)
            }
            None => self.scan(filter, from, upto, limit, cancel),
        }
    }

    fn pick(
        &self,
        filter: &Filter,
        revisions: &[Revision],
        limit: usize,
        cancel: &Cancel,
    ) -> Result<Page<Record>, AuditError> {
        let mut items = Vec::new();
        for (looked, revision) in revisions.iter().enumerate() {
            if cancel.is_cancelled() {
                return Err(AuditError::Cancelled);
            }
            if items.len() == limit || looked == SCAN_RECORDS_MAX {
                return Ok(Page { items, next: Some(*revision) });
            }
            let record = self.record(*revision)?;
            if filter.wants(&record) {
                items.push(record);
            }
        }
        Ok(Page { items, next: None })
    }

    fn scan(
        &self,
        filter: &Filter,
        from: Revision,
        upto: Revision,
        limit: usize,
        cancel: &Cancel,
    ) -> Result<Page<Record>, AuditError> {
        let (mut items, mut next, mut looked) = (Vec::new(), from, 0);
        while next <= upto && looked < SCAN_RECORDS_MAX {
            if cancel.is_cancelled() {
                return Err(AuditError::Cancelled);
            }
            let records = self.0.shared.history.read(next, CHUNK_RECORDS, CHUNK_BYTES)?;
            if records.is_empty() {
                return Ok(Page { items, next: None });
            }
            for record in records {
                if items.len() == limit || record.revision > upto {
                    let more = record.revision <= upto;
                    return Ok(Page { items, next: more.then_some(record.revision) });
                }
                (next, looked) = (record.revision.next(), looked + 1);
                if filter.wants(&record) {
                    items.push(record);
                }
            }
        }
        Ok(Page { items, next: (next <= upto).then_some(next) })
    }

    /// The last revision whose time is not after `at`; 0 when all are. Times never decrease, so this is a binary
    /// search.
    ///
    /// # Errors
    /// [`AuditError::History`].
    pub fn revision_at(&self, at: Millis) -> Result<Revision, AuditError> {
        let history = &self.0.shared.history;
        let (mut low, mut high) = (history.oldest(), history.last().0.next());
        while low < high {
            let middle = low.plus((high.since(low)) / 2);
            if self.record(middle)?.at <= at { low = middle.next() } else { high = middle }
        }
        Ok(low.minus(1))
    }

    /// Where the history begins; `None` while it is empty.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn kept(&self) -> Result<Option<Moment>, AuditError> {
        let history = &self.0.shared.history;
        let revision = history.oldest();
        if history.last().0 < revision {
            return Ok(None);
        }
        let at = self.record(revision)?.at;
        Ok(Some(Moment { revision, at }))
    }

    /// Revisions that have one of some keys, from `from` to `upto`, in order.
    fn revisions(
        &self,
        keys: &[Key],
        from: Revision,
        upto: Revision,
    ) -> Result<Vec<Revision>, AuditError> {
        let shared = &self.0.shared;
        let from = from.max(shared.history.oldest());
        let found = {
            let view = shared.view();
            let reached = view.tail.last;
            let stuck = shared.stuck.borrow().clone();
            let rebuilding = stuck.map_or(AuditError::Rebuilding { reached }, AuditError::Stuck);
            let Some(index) = view.index.as_ref().filter(|_| reached >= upto) else {
                return Err(rebuilding);
            };
            let look = |key| {
                let mut found = index.find(key, from, view.tail.first)?;
                found.extend(view.tail.find(key, from));
                Ok(found)
            };
            keys.iter().map(look).collect::<Result<Vec<_>, super::index::IndexError>>()
        };
        let found = found.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "audit: the index is damaged");
            shared.view_mut().index = None;
            self.0.wake();
            AuditError::Rebuilding { reached: Revision(0) }
        })?;
        let mut revisions: Vec<Revision> = found.into_iter().flatten().collect();
        revisions.retain(|revision| *revision <= upto);
        revisions.sort_unstable();
        revisions.dedup();
        Ok(revisions)
    }

    fn record(&self, revision: Revision) -> Result<Record, AuditError> {
        let history = &self.0.shared.history;
        let record = history.read(revision, 1, CHUNK_BYTES)?.into_iter().next();
        Ok(record.ok_or_else(|| HistoryError::Compacted { oldest: history.oldest() })?)
    }
}

/// The tenure of a live address whose first record is no longer kept.
#[must_use]
pub fn lasting(state: &State, ip: IpAddr) -> Option<Tenure> {
    let live = state.ipam().by_ip(ip)?;
    let (name, host, tenant, segment) = (live.name, live.host, live.tenant, live.segment);
    let (actor, from, to, reason, late) = (None, None, None, None, None);
    Some(Tenure { ip, name, host, tenant, segment, actor, from, to, reason, late })
}

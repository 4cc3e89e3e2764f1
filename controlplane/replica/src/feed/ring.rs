//! The recent records in memory, indexed so that followers can skip quickly.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use romana_api::feed::RecordLine;
use romana_statemachine::entry::wire;
use romana_statemachine::event::EventMeta;
use romana_statemachine::name::HostName;
use romana_statemachine::{Event, Record, Revision, Topic};

use super::{Filter, Form};

/// Memory of a record of ordinary size in bytes, including both JSON forms.
const ORDINARY_BYTES: usize = 1536;

/// A set of topics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Topics(u16);

impl Topics {
    /// All topics.
    #[must_use]
    pub fn all() -> Self {
        Topic::ALL.into_iter().fold(Self::default(), Self::with)
    }

    /// The set with one more topic.
    #[must_use]
    pub fn with(self, topic: Topic) -> Self {
        Self(self.0 | 1 << topic as u16)
    }

    /// Whether the topic is in the set.
    #[must_use]
    pub fn has(self, topic: Topic) -> bool {
        self.0 & 1 << topic as u16 != 0
    }

    /// Whether the sets have a topic in common.
    #[must_use]
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether it has no topic.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A record in the ring and its JSON forms, encoded on demand.
pub(super) struct Item {
    record: Record,
    weight: usize,
    sse: OnceLock<Bytes>,
    ndjson: OnceLock<Bytes>,
}

impl Item {
    /// The record in a form; encoded once, then shared.
    pub(super) fn bytes(&self, form: Form) -> Result<Bytes, serde_json::Error> {
        let cache = match form {
            Form::Sse => &self.sse,
            Form::Ndjson => &self.ndjson,
        };
        if let Some(bytes) = cache.get() {
            return Ok(bytes.clone());
        }
        let bytes = render(&self.record, form)?;
        Ok(cache.get_or_init(|| bytes).clone())
    }
}

/// Events from this version on are wrapped in an envelope for followers that do not know them. Every follower knows
/// the earlier events.
const ENVELOPED_SINCE: u16 = 4;

/// Encodes a record.
pub(super) fn render(record: &Record, form: Form) -> Result<Bytes, serde_json::Error> {
    let mut bytes = BytesMut::with_capacity(512);
    if form == Form::Sse {
        bytes.put_slice(b"id: ");
        bytes.put_slice(record.revision.to_string().as_bytes());
        bytes.put_slice(b"\nevent: ");
        bytes.put_slice(record.event.name().as_bytes());
        bytes.put_slice(b"\ndata: ");
    }
    let EventMeta { since, topic, optional, .. } = *record.event.meta();
    if since < ENVELOPED_SINCE {
        serde_json::to_writer((&mut bytes).writer(), record)?;
    } else {
        let (since, topic, optional) = (Some(since), Some(topic), Some(optional));
        serde_json::to_writer(
            (&mut bytes).writer(),
            &RecordLine { record, since, topic, optional },
        )?;
    }
    bytes.put_slice(if form == Form::Sse { b"\n\n" } else { b"\n" });
    Ok(bytes.freeze())
}

/// Estimated memory of a record, including its JSON forms.
fn weigh(event: &Event) -> usize {
    match event {
        Event::TopologySet(_)
        | Event::HostAdded(_)
        | Event::HostUpdated(_)
        | Event::TenantCreated(_)
        | Event::SegmentCreated(_)
        | Event::PolicySet(_)
        | Event::EndpointSet(_)
        | Event::VipRequested(_) => ORDINARY_BYTES + 8 * wire(event).len(),
        _ => ORDINARY_BYTES,
    }
}

/// The last evicted revision per topic and host: a follower behind the ring that missed nothing of interest need not
/// read the history.
struct Evicted {
    any: [Revision; Topic::ALL.len()],
    shared: [Revision; Topic::ALL.len()],
    hosts: HashMap<HostName, Revision>,
}

/// Which followers new records could concern.
pub(super) enum Interest {
    /// Unknown: wake all followers.
    Everybody,
    /// Topics of the new records.
    Some {
        any: Topics,
        /// Topics of records that concern every host.
        shared: Topics,
        /// Topics of records that concern one host only.
        hosts: HashMap<HostName, Topics>,
    },
}

/// What a follower finds in the ring.
pub(super) enum Look {
    /// Its next record may have been evicted.
    Behind,
    /// Matching records, and the revision up to which there are no others.
    Items {
        items: Vec<Arc<Item>>,
        /// There is no other matching record up to here.
        upto: Revision,
    },
}

/// Records `base + 1 ..= base + items.len()`, without gaps.
///
/// Invariants: `shared` and `hosts` hold exactly the revisions of the items that concern every host,
/// or that host only, in ascending order; `bytes` is the sum of the weights.
pub(super) struct Ring {
    capacity_bytes: usize,
    bytes: usize,
    base: Revision,
    items: VecDeque<Arc<Item>>,
    shared: VecDeque<Revision>,
    hosts: HashMap<HostName, VecDeque<Revision>>,
    evicted: Evicted,
}

impl Ring {
    pub(super) fn new(base: Revision, capacity_bytes: usize) -> Self {
        Self {
            capacity_bytes,
            bytes: 0,
            base,
            items: VecDeque::new(),
            shared: VecDeque::new(),
            hosts: HashMap::new(),
            evicted: Evicted {
                any: [base; Topic::ALL.len()],
                shared: [base; Topic::ALL.len()],
                hosts: HashMap::new(),
            },
        }
    }

    /// Revision before the first record in the ring.
    pub(super) fn base(&self) -> Revision {
        self.base
    }

    /// Revision of the last record.
    pub(super) fn last(&self) -> Revision {
        self.base.plus(self.items.len() as u64)
    }

    pub(super) fn extend(&mut self, records: Vec<Record>) {
        for record in records {
            if record.revision <= self.last() {
                continue; // replayed from the log after a restart
            }
            if record.revision > self.last().next() {
                *self = Self::new(record.revision.minus(1), self.capacity_bytes); // a snapshot came
            }
            match record.event.only_host() {
                Some(host) => match self.hosts.get_mut(host) {
                    Some(revisions) => revisions.push_back(record.revision),
                    None => _ = self.hosts.insert(host.clone(), [record.revision].into()),
                },
                None => self.shared.push_back(record.revision),
            }
            let weight = weigh(&record.event);
            self.bytes += weight;
            let (sse, ndjson) = (OnceLock::new(), OnceLock::new());
            self.items.push_back(Arc::new(Item { record, weight, sse, ndjson }));
        }
        while self.bytes > self.capacity_bytes && self.items.len() > 1 {
            self.evict();
        }
    }

    fn evict(&mut self) {
        let Some(item) = self.items.pop_front() else { return };
        self.bytes -= item.weight;
        self.base = self.base.next();
        let topic = item.record.event.topic() as usize;
        self.evicted.any[topic] = self.base;
        let Some(host) = item.record.event.only_host() else {
            self.shared.pop_front();
            self.evicted.shared[topic] = self.base;
            return;
        };
        if let Some(revisions) = self.hosts.get_mut(host) {
            revisions.pop_front();
            if revisions.is_empty() {
                self.hosts.remove(host);
            }
        }
        match self.evicted.hosts.get_mut(host) {
            Some(last) => *last = self.base,
            None => _ = self.evicted.hosts.insert(host.clone(), self.base),
        }
    }

    /// Whether a matching record after `cursor` may have been evicted.
    fn missed(&self, cursor: Revision, filter: &Filter) -> bool {
        let last = |by_topic: &[Revision; Topic::ALL.len()]| {
            let wanted = Topic::ALL.into_iter().filter(|topic| filter.topics.has(*topic));
            wanted.map(|topic| by_topic[topic as usize]).max().unwrap_or(Revision(0))
        };
        let last = match &filter.host {
            None => last(&self.evicted.any),
            Some(host) => {
                let mine = self.evicted.hosts.get(host).copied().unwrap_or(Revision(0));
                last(&self.evicted.shared).max(mine)
            }
        };
        last > cursor
    }

    /// The next matching records after `cursor`; visits at most `max` records.
    pub(super) fn look(&self, cursor: Revision, filter: &Filter, max: usize) -> Look {
        if cursor < self.base && self.missed(cursor, filter) {
            return Look::Behind;
        }
        let after = cursor.max(self.base);
        let Some(host) = &filter.host else {
            let upto = self.last().min(after.plus(max as u64));
            return self.pick(after.next().through(upto), upto.max(cursor), filter);
        };
        let none = VecDeque::new();
        let mine = self.hosts.get(host).unwrap_or(&none);
        let (mut a, mut b) = (later(&self.shared, after), later(mine, after));
        let (mut next_a, mut next_b) = (a.next(), b.next());
        let mut revisions = Vec::new();
        while revisions.len() < max {
            match (next_a, next_b) {
                (Some(x), y) if y.is_none_or(|y| x < y) => {
                    revisions.push(*x);
                    next_a = a.next();
                }
                (_, Some(y)) => {
                    revisions.push(*y);
                    next_b = b.next();
                }
                _ => break,
            }
        }
        let upto =
            if revisions.len() < max { Some(self.last()) } else { revisions.last().copied() };
        self.pick(revisions.into_iter(), upto.unwrap_or(cursor).max(cursor), filter)
    }

    fn pick(
        &self,
        revisions: impl Iterator<Item = Revision>,
        upto: Revision,
        filter: &Filter,
    ) -> Look {
        let mut items = Vec::new();
        for revision in revisions {
            let Ok(at) = usize::try_from(revision.since(self.base) - 1) else { break };
            match self.items.get(at) {
                Some(item) if filter.wants(&item.record.event) => items.push(Arc::clone(item)),
                _ => {}
            }
        }
        Look::Items { items, upto }
    }

    /// Which followers the records after `seen` could concern; advances `seen` to the end.
    pub(super) fn interest_since(&self, seen: &mut Revision) -> Interest {
        let from = std::mem::replace(seen, self.last());
        if from < self.base {
            return Interest::Everybody;
        }
        let (mut any, mut shared, mut hosts) =
            (Topics::default(), Topics::default(), HashMap::new());
        let skip = usize::try_from(from.since(self.base)).unwrap_or(usize::MAX);
        for item in self.items.iter().skip(skip) {
            let topic = item.record.event.topic();
            any = any.with(topic);
            match item.record.event.only_host() {
                None => shared = shared.with(topic),
                Some(host) => match hosts.get_mut(host) {
                    Some(topics) => *topics = Topics::with(*topics, topic),
                    None => _ = hosts.insert(host.clone(), Topics::default().with(topic)),
                },
            }
        }
        Interest::Some { any, shared, hosts }
    }
}

/// The revisions after `after`, ascending.
fn later(revisions: &VecDeque<Revision>, after: Revision) -> impl Iterator<Item = &Revision> {
    let start = revisions.partition_point(|revision| *revision <= after);
    revisions.range(start..)
}

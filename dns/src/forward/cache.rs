//! A cache of other servers' answers: positive and negative ones (RFC 2308), and failures (RFC 9520). Pure: the time comes
//! in with each call.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{LowerName, RData, Record, RecordType};

/// Longest time that an answer, the absence of one, and a failure are kept, seconds.
const POSITIVE_MAX: u32 = 3_600;
const DENIAL_MAX: u32 = 900;
const FAILURE: u32 = 1;
/// How long an answer may be served after its end while no upstream answers (RFC 8767, section 5).
const STALE_MAX: Duration = Duration::from_secs(3_600);
/// Time to live of such an answer, seconds (RFC 8767, section 4).
const STALE_TTL: u32 = 30;

/// What a cached answer is an answer to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// In lower case.
    pub name: LowerName,
    pub kind: RecordType,
    /// The DO bit: with DNSSEC records.
    pub dnssec: bool,
    /// The CD bit: not validated.
    pub unchecked: bool,
}

/// A kind of answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It has records.
    Success,
    /// NXDOMAIN or NODATA.
    Denial,
    /// No answer, or one that says that there is none.
    Failure,
}

/// What the cache has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// An answer whose records live.
    Fresh(Message, Kind),
    /// One that may be used if no upstream answers.
    Stale(Message),
    Missing,
}

#[derive(Clone, Debug)]
struct Entry {
    message: Arc<Message>,
    kind: Kind,
    at: Instant,
    lives: Duration,
}

/// The cache: two generations of at most half its size each. The older one is dropped as a whole, and what was used
/// moves to the younger one; so its memory is bounded, and every step takes the same time.
#[derive(Debug)]
pub struct Cache {
    young: HashMap<Key, Entry>,
    old: HashMap<Key, Entry>,
    half: usize,
}

impl Cache {
    /// An empty cache for so many answers; 0: none are kept.
    #[must_use]
    pub fn new(entries: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half: entries.div_ceil(2) }
    }

    /// Number of answers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Looks an answer up.
    pub fn get(&mut self, key: &Key, now: Instant) -> Lookup {
        let entry = match self.young.get(key) {
            Some(entry) => entry.clone(),
            None => match self.old.remove(key) {
                Some(entry) => {
                    self.put(key.clone(), entry.clone());
                    entry
                }
                None => return Lookup::Missing,
            },
        };
        let age = now.saturating_duration_since(entry.at);
        if age < entry.lives {
            let seconds = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
            return Lookup::Fresh(
                aged(&entry.message, |ttl| ttl.saturating_sub(seconds)),
                entry.kind,
            );
        }
        if entry.kind != Kind::Failure && age < entry.lives + STALE_MAX {
            return Lookup::Stale(aged(&entry.message, |_| STALE_TTL));
        }
        Lookup::Missing
    }

    /// Keeps an answer, if it says for how long. A failure does not replace an answer that may still be served.
    pub fn insert(&mut self, key: Key, message: Arc<Message>, now: Instant) {
        let Some((kind, seconds)) = lifetime(&message, key.kind) else { return };
        if kind == Kind::Failure && matches!(self.get(&key, now), Lookup::Stale(_)) {
            return;
        }
        let lives = Duration::from_secs(seconds.into());
        self.old.remove(&key);
        self.put(key, Entry { message, kind, at: now, lives });
    }

    fn put(&mut self, key: Key, entry: Entry) {
        if self.half == 0 {
            return;
        }
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, entry);
    }
}

/// A message with other times to live. OPT is no record here.
fn aged(message: &Message, ttl: impl Fn(u32) -> u32) -> Message {
    let mut message = message.clone();
    let sections = [&mut message.answers, &mut message.authorities, &mut message.additionals];
    for record in sections.into_iter().flatten() {
        record.ttl = ttl(record.ttl);
    }
    message
}

/// What kind of answer a message is, and for how many seconds it may be kept; `None`: not at all.
#[must_use]
pub fn lifetime(message: &Message, kind: RecordType) -> Option<(Kind, u32)> {
    if message.metadata.truncation {
        return None;
    }
    let shortest = |records: &[Record]| records.iter().map(|record| record.ttl).min();
    let has_answer = message.answers.iter().any(|record| {
        let found = record.record_type();
        found == kind || kind == RecordType::ANY && found != RecordType::CNAME
    });
    let found = match message.metadata.response_code {
        ResponseCode::NoError if has_answer => {
            (Kind::Success, shortest(&message.answers)?.min(POSITIVE_MAX))
        }
        ResponseCode::NoError | ResponseCode::NXDomain => {
            // Without SOA it must not be kept (RFC 2308, section 5).
            let soa = message.authorities.iter().find_map(|record| match &record.data {
                RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                _ => None,
            })?;
            let aliases = shortest(&message.answers).unwrap_or(u32::MAX);
            (Kind::Denial, soa.min(aliases).min(DENIAL_MAX))
        }
        _ => (Kind::Failure, FAILURE),
    };
    (found.1 > 0).then_some(found)
}

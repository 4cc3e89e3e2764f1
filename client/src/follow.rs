//! Follows the feed: all records from a revision on, across reconnects and replicas.
//!
//! The feed is NDJSON: a line is a record or a bookmark (`{"bookmark":{"revision":N}}`), which says that
//! there are no further records up to that revision. A follower resumes after the last revision it has seen,
//! from any replica. If the history is compacted beyond that point, it restarts from a snapshot and reports
//! that ([`Item::Reset`]): its consumer replaces its state.
//!
//! The cluster may be newer than its followers: a record with an unknown event advances the revision and is
//! yielded as [`Item::Unknown`], unless the follower requires that topic. Unknown members of a known event are left out.
//!
//! Without filters, every revision must arrive once, and each record's digest must continue the chain: a
//! gap, a duplicate or another history is an error, not an item. With filters the chain cannot be checked,
//! but every answer names its cluster, and a cluster restored from a backup has another name even if it
//! continues at the same revisions.

use std::time::Duration;

use futures_util::Stream;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use romana_api::header;
use romana_statemachine::name::HostName;
use romana_statemachine::{Digest, Printable, Record, Revision, Topic};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::Client;
use crate::config::Server;
use crate::error::Error;
use crate::ndjson::Lines;
use crate::query::Query;
use crate::retry::Backoff;
use crate::transport::Ask;

mod line;

pub use line::Unknown;
pub(crate) use line::parse_record;
use line::{Line, Over, parse_line};

/// The media type of a feed.
const NDJSON: &str = "application/x-ndjson";
/// Bound of revisions: at a million per second, the log gets there in 146 000 years.
const REVISION_MAX: u64 = 1 << 62;
/// Feeds that end without a line in between before this counts as trouble: a single one
/// means that a replica has stopped.
const ENDS_MAX: u32 = 2;
/// A feed without data for this time is dead: three bookmarks are missing.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Options of a follower.
#[derive(Clone, Debug, Default)]
pub struct FollowOptions {
    /// Follow records after this revision; 0 = from the first. `None` = start with a snapshot.
    pub after: Option<Revision>,
    /// Digest of the history at `after`, if known, to check the first record as well.
    pub digest: Option<Digest>,
    /// Only these topics; empty = all.
    pub topics: Vec<Topic>,
    /// Skip records that concern other hosts only.
    pub host: Option<HostName>,
    /// Topics that must be understood: an unknown event of one of these that may not be skipped is
    /// [`Error::Newer`], and nothing after it is yielded.
    pub required: Vec<Topic>,
    /// The cluster of `after`, if known ([`Follower::cluster`]): no other cluster is followed.
    pub cluster: Option<String>,
}

/// An item of a follower.
#[derive(Clone, Debug)]
pub enum Item {
    /// The next record.
    Record(Box<Record>),
    /// The next record, with an event that this program does not know.
    Unknown(Box<Unknown>),
    /// All records that pass the filter up to this revision have been yielded.
    Bookmark(Revision),
    /// Replace the state by this snapshot; records after its revision follow.
    Reset(Box<Snapshot>),
}

/// `GET /v1/snapshot`.
#[derive(Clone, Debug, Deserialize)]
pub struct Snapshot {
    /// Revision of the state.
    pub revision: Revision,
    /// Digest of the history up to there.
    #[serde(default)]
    pub digest: Option<Digest>,
    /// The state, one member per topic.
    #[serde(flatten)]
    pub state: serde_json::Map<String, Value>,
}

/// A position in the feed, and the connection to read from.
///
/// Invariant: everything that passes the filter up to `last` was yielded exactly once.
#[derive(Debug)]
pub struct Follower {
    client: Client,
    options: FollowOptions,
    last: Option<Revision>,
    digest: Option<Digest>,
    /// The cluster of the records yielded.
    cluster: Option<HeaderValue>,
    feed: Option<Feed>,
    heard: Option<Instant>,
    backoff: Backoff,
    /// Feeds that ended or failed to open since the last line.
    ends: u32,
    /// Records with unknown members since the last [`Self::take_partly_known`].
    partly_known: u64,
    trouble: watch::Sender<Option<String>>,
}

#[derive(Debug)]
struct Feed {
    server: Server,
    body: Incoming,
    lines: Lines,
    /// The media type of an answer that is not a feed.
    other: Option<String>,
}

impl Follower {
    pub(crate) fn new(client: Client, options: FollowOptions) -> Self {
        let digest =
            options.digest.or_else(|| (options.after == Some(Revision(0))).then(Digest::default));
        let last = options.after;
        let backoff = Backoff::new();
        let cluster = options.cluster.as_deref().and_then(|id| HeaderValue::from_str(id).ok());
        let (feed, heard, ends, trouble) = (None, None, 0, watch::Sender::new(None));
        Self {
            client,
            options,
            last,
            digest,
            cluster,
            feed,
            heard,
            backoff,
            ends,
            partly_known: 0,
            trouble,
        }
    }

    /// The revision up to which everything was yielded.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        self.last
    }

    /// The cluster of the records yielded, once one has answered.
    #[must_use]
    pub fn cluster(&self) -> Option<&str> {
        self.cluster.as_ref().and_then(|id| id.to_str().ok())
    }

    /// Digest of the history at [`Self::revision`], when following without filters.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Time since the last data from a replica; `None` before the first.
    #[must_use]
    pub fn staleness(&self) -> Option<Duration> {
        self.heard.map(|heard| heard.elapsed())
    }

    /// Number of records since the last call that were yielded without members that this program does not know: the
    /// cluster is newer. Followers may ignore new members of known events, see `EventMeta::optional`.
    pub fn take_partly_known(&mut self) -> u64 {
        std::mem::take(&mut self.partly_known)
    }

    /// Why the feed cannot be followed, as a watch. [`Self::next`] continues to retry. `None`: no problem.
    #[must_use]
    pub fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.trouble.subscribe()
    }

    /// The next item. Waits, and reconnects indefinitely. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Refused`] if the cluster refuses the request, for example because its history is shorter than
    /// the follower's (`RevisionAhead`: it was restored from a backup); [`Error::Protocol`] if records are
    /// missing, repeated or do not continue the chain, or if this is another cluster. After an error of the
    /// history, the next call starts from a snapshot. [`Error::Newer`]: an event of a required topic is
    /// unknown; the next call meets it again.
    pub async fn next(&mut self) -> Result<Item, Error> {
        loop {
            let Some(last) = self.last else {
                match self
                    .client
                    .snapshot_for(&self.options.topics, self.options.host.as_ref())
                    .await
                {
                    Ok(snapshot) => return Ok(self.reset(snapshot)),
                    Err(error) => self.pause(error).await?,
                }
                continue;
            };
            if self.feed.is_none() {
                match self.connect(last).await {
                    Ok(()) => {}
                    Err(Error::Refused(error)) if error.status == 410 => self.last = None,
                    Err(error) if error.code() == Some("RevisionAhead") => {
                        self.forget();
                        return Err(error);
                    }
                    Err(error) => self.pause(error).await?,
                }
                continue;
            }
            match self.read().await {
                Ok(line) => match self.accept(line, last) {
                    Ok(Some(item)) => return Ok(item),
                    Ok(None) => {}
                    Err(error @ Error::Newer { .. }) => {
                        self.feed = None;
                        return Err(error);
                    }
                    Err(error) => {
                        self.forget();
                        return Err(error);
                    }
                },
                Err(over) => self.over(over).await,
            }
        }
    }

    /// The items as a stream. It ends after the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Item, Error>> + Send {
        futures_util::stream::unfold(Some(self), |follower| async {
            let mut follower = follower?;
            let item = follower.next().await;
            let rest = item.is_ok().then_some(follower);
            Some((item, rest))
        })
    }

    /// Disconnects from a server whose feed has ended, and backs off before the next attempt.
    async fn over(&mut self, over: Over) {
        tracing::debug!(last = self.last.map(Revision::get), ?over, "feed ended");
        if let Some(feed) = self.feed.take() {
            self.client.core().servers().failed(&feed.server, Instant::now());
            let nonsense = matches!(over, Over::Nonsense(_));
            self.missed(nonsense, format!("{}: {}", feed.server, over.why()));
        }
        sleep(self.backoff.next(None, rand::random())).await;
    }

    /// Records a failed attempt. `at_once`: report it even if it is the first.
    fn missed(&mut self, at_once: bool, why: String) {
        self.ends = self.ends.saturating_add(1);
        if at_once || self.ends >= ENDS_MAX {
            // Keep the first reason: updates for each attempt would wake the receivers all the time.
            self.trouble.send_if_modified(|trouble| {
                let new = trouble.is_none();
                trouble.get_or_insert(why);
                new
            });
        }
    }

    /// Clears the trouble.
    fn well(&mut self) {
        (self.heard, self.ends, self.backoff) = (Some(Instant::now()), 0, Backoff::new());
        self.trouble.send_if_modified(|trouble| trouble.take().is_some());
    }

    /// Resets the position: the records yielded do not precede what comes.
    fn forget(&mut self) {
        (self.last, self.digest, self.cluster, self.feed) = (None, None, None, None);
    }

    /// Backs off before the next attempt, if the error is retryable.
    async fn pause(&mut self, error: Error) -> Result<(), Error> {
        match error {
            Error::Unavailable { .. } | Error::Unknown { .. } => {
                tracing::debug!(%error, "feed not available");
                self.missed(false, error.to_string());
                sleep(self.backoff.next(None, rand::random())).await;
                Ok(())
            }
            Error::Refused(_)
            | Error::Protocol { .. }
            | Error::Newer { .. }
            | Error::Config { .. } => Err(error),
        }
    }

    fn reset(&mut self, snapshot: Snapshot) -> Item {
        self.last = Some(snapshot.revision);
        self.digest = snapshot.digest;
        self.cluster = None;
        self.feed = None;
        self.well();
        Item::Reset(Box::new(snapshot))
    }

    async fn connect(&mut self, last: Revision) -> Result<(), Error> {
        let topics: Vec<&str> = self.options.topics.iter().map(|topic| topic.as_str()).collect();
        let topics = (!topics.is_empty()).then(|| topics.join(","));
        let path = Query::new("/v1/events")
            .with("from", Some(last))
            .with("topics", topics)
            .with("host", self.options.host.as_ref());
        let mut ask = Ask::get(path.build());
        (ask.accept, ask.endless) = (NDJSON, true);
        let (server, response) = self.client.core().open(&ask).await?;
        let cluster = response.headers().get(header::CLUSTER).cloned();
        if let (Some(theirs), Some(ours)) = (&cluster, &self.cluster)
            && theirs != ours
        {
            let why = format!("{server} is of cluster {theirs:?}, what was followed is {ours:?}");
            self.forget();
            return Err(Error::protocol(why));
        }
        self.cluster = self.cluster.take().or(cluster);
        let kind = response.headers().get(CONTENT_TYPE);
        let kind = kind.map(|kind| String::from_utf8_lossy(kind.as_bytes()).into_owned());
        let other = kind.filter(|kind| !kind.starts_with(NDJSON));
        let other = other.map(|kind| Printable(kind).to_string());
        let (body, lines) = (response.into_body(), Lines::default());
        self.feed = Some(Feed { server, body, lines, other });
        Ok(())
    }

    /// The next line, or why the feed ended.
    async fn read(&mut self) -> Result<Line, Over> {
        let ended = |why: &str| Err(Over::Ended(why.to_owned()));
        let Some(feed) = &mut self.feed else { return ended("not connected") };
        if let Some(other) = feed.other.take() {
            return Err(Over::Nonsense(format!("it answers with {other}, which is no feed")));
        }
        loop {
            if let Some(line) = feed.lines.next() {
                let line = parse_line(&line)?;
                self.well();
                return Ok(line);
            }
            let frame = match timeout(SILENCE_MAX, feed.body.frame()).await {
                Err(_) => return ended("it was silent for too long"),
                Ok(None) => return ended("the replica closed it"),
                Ok(Some(Err(error))) => return ended(&error.to_string()),
                Ok(Some(Ok(frame))) => frame,
            };
            if frame.data_ref().is_some_and(|piece| !feed.lines.push(piece)) {
                return Err(Over::Nonsense(String::from("a line of the feed is too long")));
            }
        }
    }

    /// Checks that a line is the expected one. `None`: it contains nothing new.
    fn accept(&mut self, line: Line, last: Revision) -> Result<Option<Item>, Error> {
        check_bound(&line)?;
        let filtered = !self.options.topics.is_empty() || self.options.host.is_some();
        match line {
            Line::Bookmark(revision) if revision < last => Ok(None),
            Line::Bookmark(revision) if revision > last && !filtered => {
                Err(Error::protocol(format!("records {last} to {revision} are missing")))
            }
            Line::Bookmark(revision) => {
                self.last = Some(revision);
                Ok(Some(Item::Bookmark(revision)))
            }
            Line::Record(record, unknown) => {
                check_order(record.revision, last, filtered)?;
                if let Some(member) = unknown {
                    // As for an unknown event, the digest cannot be verified. The member itself may be ignored.
                    tracing::debug!(revision = record.revision.get(), member, "unknown member");
                    self.partly_known += 1;
                    self.digest = self.digest.map(|_| record.digest);
                } else if !filtered {
                    self.check_chain(&record)?;
                }
                self.last = Some(record.revision);
                Ok(Some(Item::Record(record)))
            }
            Line::Unknown(unknown) => {
                check_order(unknown.revision, last, filtered)?;
                if !unknown.optional && unknown.concerns(&self.options.required) {
                    return Err(Error::Newer { why: unknown.to_string() });
                }
                // The digest of an unknown event cannot be verified: continue the
                // chain from the record's own digest.
                self.digest = self.digest.map(|_| unknown.digest);
                self.last = Some(unknown.revision);
                Ok(Some(Item::Unknown(unknown)))
            }
        }
    }

    fn check_chain(&mut self, record: &Record) -> Result<(), Error> {
        if self.digest.is_some_and(|previous| !record.follows(&previous)) {
            let got = record.revision;
            return Err(Error::protocol(format!("record {got} does not continue the chain")));
        }
        self.digest = Some(record.digest);
        Ok(())
    }
}

/// Refuses a revision that no log reaches: nothing would come after it, and it would be saved.
fn check_bound(line: &Line) -> Result<(), Error> {
    let revision = match line {
        Line::Bookmark(revision) => *revision,
        Line::Record(record, _) => record.revision,
        Line::Unknown(unknown) => unknown.revision,
    };
    if revision.get() > REVISION_MAX {
        return Err(Error::protocol(format!("revision {revision} is beyond any log")));
    }
    Ok(())
}

fn check_order(got: Revision, last: Revision, filtered: bool) -> Result<(), Error> {
    match got {
        _ if got <= last => Err(Error::protocol(format!("record {got} came after {last}"))),
        _ if !filtered && got != last.next() => {
            Err(Error::protocol(format!("record {got} came after {last}: a gap")))
        }
        _ => Ok(()),
    }
}

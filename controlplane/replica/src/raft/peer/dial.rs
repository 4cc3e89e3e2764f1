//! Opening connections to other replicas.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use romana_daemon::error::chain;
use romana_statemachine::Printable;
use romana_storage::platform::net::{OwnedReadHalf, OwnedWriteHalf, TcpStream};
use tokio::time::timeout;

use crate::metrics::{PeerRefusal, PeerRefusals};
use crate::raft::peer::bounds;
use crate::raft::peer::frame::{FrameReader, FrameWriter};
use crate::raft::peer::message::{Handshake, HandshakeReply, Purpose};
use crate::raft::store::codec::{pack, unpack};

/// An equal refusal by the same peer is logged again after this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
/// Most different complaints logged in that time: unauthenticated peers choose their text.
const COMPLAINTS_MAX: usize = 20;

/// An open connection after the handshake.
pub(in crate::raft) struct Conn {
    pub(in crate::raft) reader: FrameReader<OwnedReadHalf>,
    pub(in crate::raft) writer: FrameWriter<OwnedWriteHalf>,
}

impl Conn {
    pub(in crate::raft) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        Ok(Self { reader: FrameReader::new(reader), writer: FrameWriter::new(writer) })
    }
}

/// API URLs of the other replicas, as they advertise them.
#[derive(Clone, Debug, Default)]
pub(in crate::raft) struct Directory(Arc<Mutex<BTreeMap<u64, String>>>);

impl Directory {
    pub(in crate::raft) fn set(&self, id: u64, api: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, api);
    }

    pub(in crate::raft) fn get(&self, id: u64) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }
}

/// Rate-limited logging: logs an unchanged complaint again only after a while; counts every one.
#[derive(Debug, Default)]
pub(in crate::raft) struct Complaints {
    said: Mutex<RecentComplaints>,
    refused: PeerRefusals,
}

#[derive(Debug, Default)]
struct RecentComplaints {
    last: BTreeMap<String, (String, Instant)>,
    /// Complaints since `since`.
    recent: usize,
    since: Option<Instant>,
}

impl Complaints {
    /// With the counters of refused messages.
    pub(in crate::raft) fn counting(refused: PeerRefusals) -> Self {
        Self { said: Mutex::default(), refused }
    }

    /// Logs and counts a refused message from `who`.
    pub(in crate::raft) fn refuse(
        &self,
        reason: PeerRefusal,
        who: &str,
        why: &dyn std::fmt::Display,
    ) {
        self.refused.count(reason);
        let why = Printable(why).to_string();
        if self.news(who, &why) {
            tracing::warn!(from = who, ?reason, why, "rejected a message from a peer");
        }
    }

    /// Calls [`Self::refuse`] if the error says that the peer sent garbage or an implausible message.
    pub(in crate::raft) fn refuse_error(&self, who: &str, error: &io::Error) {
        if error.kind() == io::ErrorKind::InvalidData {
            let implausible = bounds::is_implausible(error);
            let reason = if implausible { PeerRefusal::Implausible } else { PeerRefusal::Garbage };
            self.refuse(reason, who, &chain(error));
        }
    }

    /// Whether `what` about `who` should be logged now.
    pub(in crate::raft) fn news(&self, who: &str, what: &str) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.since.is_none_or(|since| since.elapsed() >= COMPLAIN_EVERY) {
            (said.since, said.recent) = (Some(Instant::now()), 0);
        }
        // Unauthenticated peers choose their names: remember no more of them than a cluster has.
        if said.last.len() > 256 {
            said.last.clear();
        }
        let last = said.last.get(who);
        let old = last.is_some_and(|(last, at)| last == what && at.elapsed() < COMPLAIN_EVERY);
        let news = !old && said.recent < COMPLAINTS_MAX;
        if news {
            said.recent += 1;
            said.last.insert(who.into(), (what.into(), Instant::now()));
        }
        news
    }
}

/// A peer is reported as unreachable only after this time, because the members of a cluster start one after the
/// other.
const AWAY_AFTER: Duration = Duration::from_secs(1);

/// Unreachable replicas. Each is tried many times a second: one line is logged at the beginning, one at the end.
#[derive(Debug, Default)]
pub(in crate::raft) struct Absences(Mutex<BTreeMap<u64, Absence>>);

#[derive(Clone, Copy, Debug)]
struct Absence {
    since: Instant,
    attempts: u64,
    said: bool,
}

/// A change in the reachability of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Away,
    Back { after: Duration, attempts: u64 },
}

impl Absences {
    fn tried(&self, replica: u64, reached: bool, now: Instant) -> Option<News> {
        let mut absences = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if reached {
            let Absence { since, attempts, said } = absences.remove(&replica)?;
            return said.then(|| News::Back { after: now.duration_since(since), attempts });
        }
        let absence = Absence { since: now, attempts: 0, said: false };
        let absence = absences.entry(replica).or_insert(absence);
        absence.attempts += 1;
        let news = !absence.said && now.duration_since(absence.since) >= AWAY_AFTER;
        absence.said |= news;
        news.then_some(News::Away)
    }
}

/// Connects to peers as this replica.
#[derive(Clone)]
pub(in crate::raft) struct Dialer(Arc<Inner>);

struct Inner {
    cluster: String,
    id: u64,
    api: String,
    directory: Directory,
    complaints: Complaints,
    absences: Absences,
}

impl Dialer {
    pub(in crate::raft) fn new(
        cluster: String,
        id: u64,
        api: String,
        directory: Directory,
    ) -> Self {
        Self::counting(cluster, id, api, directory, PeerRefusals::default())
    }

    /// With the counters of refused messages.
    pub(in crate::raft) fn counting(
        cluster: String,
        id: u64,
        api: String,
        directory: Directory,
        refused: PeerRefusals,
    ) -> Self {
        let (complaints, absences) = (Complaints::counting(refused), Absences::default());
        Self(Arc::new(Inner { cluster, id, api, directory, complaints, absences }))
    }

    /// Logs and counts the error if a peer's answer was garbage or an implausible message.
    pub(in crate::raft) fn refuse_error(&self, peer: &str, error: &io::Error) {
        self.0.complaints.refuse_error(peer, error);
    }

    /// Logs a problem with a peer, rate-limited.
    pub(in crate::raft) fn complain(&self, peer: &str, why: &str) {
        if self.0.complaints.news(peer, why) {
            tracing::error!(peer, why, "cannot replicate entries to a peer");
        }
    }

    /// Connects to replica `to` at `peer` and performs the handshake.
    pub(in crate::raft) async fn dial(
        &self,
        to: u64,
        peer: &str,
        purpose: Purpose,
        within: Duration,
    ) -> io::Result<Conn> {
        let dialed = timeout(within, self.introduce(to, peer, purpose)).await;
        let dialed = dialed.unwrap_or_else(|_| {
            let why = format!("no connection to replica {to} at {peer} within {within:?}");
            Err(io::Error::new(io::ErrorKind::TimedOut, why))
        });
        self.say(to, peer, &dialed);
        dialed
    }

    /// Logs when a replica becomes unreachable, and when it is reachable again.
    fn say(&self, replica: u64, peer: &str, dialed: &io::Result<Conn>) {
        // A peer that refuses is reachable, and an older one may not know the purpose; refusals are logged elsewhere.
        let there = |error: &io::Error| {
            error.kind() == io::ErrorKind::PermissionDenied || is_unknown(error)
        };
        let reached = dialed.as_ref().map_or_else(there, |_| true);
        match (self.0.absences.tried(replica, reached, Instant::now()), dialed) {
            (Some(News::Away), Err(error)) => {
                tracing::warn!(replica, peer, %error, "replica is unreachable: retrying");
            }
            (Some(News::Back { after, attempts }), _) => {
                let after = format_args!("{}s", after.as_secs());
                tracing::info!(replica, peer, %after, attempts, "replica is reachable again");
            }
            _ => {}
        }
    }

    async fn introduce(&self, to: u64, peer: &str, purpose: Purpose) -> io::Result<Conn> {
        let mut conn = Conn::new(TcpStream::connect(peer).await?)?;
        let Inner { cluster, id, api, .. } = &*self.0;
        let hello = Handshake::new(cluster.clone(), *id, to, api.clone(), purpose);
        conn.writer.send(&pack(&hello)).await?;
        match unpack("welcome", &conn.reader.expect().await?)? {
            HandshakeReply::Accept { api } => {
                conn.reader.trust();
                self.0.directory.set(to, api);
                Ok(conn)
            }
            HandshakeReply::Refuse { why } => {
                if self.0.complaints.news(peer, &why) {
                    tracing::warn!(peer, replica = to, %why, "a peer rejected the connection");
                }
                let why = format!("replica {to} at {peer} refused: {why}");
                Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
            }
        }
    }
}

/// Whether the peer accepted the connection and closed it without an answer, as an older release does that does
/// not know the purpose.
pub(in crate::raft) fn is_unknown(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_is_away_is_said_to_be_once() {
        let (absences, start) = (Absences::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        for ms in (0..1000).step_by(50) {
            assert_eq!(absences.tried(2, false, at(ms)), None);
        }
        assert_eq!(absences.tried(3, false, at(990)), None);
        assert_eq!(absences.tried(3, true, at(995)), None, "it was away for a moment only");
        assert_eq!(absences.tried(2, false, at(1000)), Some(News::Away));
        assert!((1050..9000).step_by(50).all(|ms| absences.tried(2, false, at(ms)).is_none()));
        let back = News::Back { after: Duration::from_secs(9), attempts: 180 };
        assert_eq!(absences.tried(2, true, at(9000)), Some(back));
        assert_eq!(absences.tried(2, true, at(9050)), None);
    }

    #[test]
    fn strangers_do_not_fill_the_log() {
        let complaints = Complaints::default();
        assert!(complaints.news("a", "x"));
        assert!(!complaints.news("a", "x"));
        assert!(complaints.news("a", "y"));
        let more = (0..1000).filter(|n| complaints.news("a", &n.to_string())).count();
        assert_eq!(more, COMPLAINTS_MAX - 2);
    }
}

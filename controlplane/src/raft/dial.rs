//! Opening connections to other replicas.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::codec::{pack, unpack};
use super::frame::{FrameReader, FrameWriter};
use super::message::{Hello, Purpose, Welcome};
use crate::platform::net::{OwnedReadHalf, OwnedWriteHalf, TcpStream};

/// A refusal by the same peer is logged again after this long.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
/// Different complaints in that time, at most: strangers choose what they say.
const COMPLAINTS_MAX: usize = 20;

/// An open connection, introduced.
pub(super) struct Conn {
    pub(super) reader: FrameReader<OwnedReadHalf>,
    pub(super) writer: FrameWriter<OwnedWriteHalf>,
}

impl Conn {
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        Ok(Self { reader: FrameReader::new(reader), writer: FrameWriter::new(writer) })
    }
}

/// Where the APIs of the other replicas are, as they said themselves.
#[derive(Clone, Debug, Default)]
pub(super) struct Directory(Arc<Mutex<BTreeMap<u64, String>>>);

impl Directory {
    pub(super) fn set(&self, id: u64, api: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, api);
    }

    pub(super) fn get(&self, id: u64) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }
}

/// Says a thing again only after a while, unless it changes.
#[derive(Debug, Default)]
pub(super) struct Complaints(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    last: BTreeMap<String, (String, Instant)>,
    /// Complaints since then.
    recent: usize,
    since: Option<Instant>,
}

impl Complaints {
    /// Whether `what` about `who` is news.
    pub(super) fn news(&self, who: &str, what: &str) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.since.is_none_or(|since| since.elapsed() >= COMPLAIN_EVERY) {
            (said.since, said.recent) = (Some(Instant::now()), 0);
        }
        // Strangers choose their names: do not remember more of them than a cluster has.
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

/// Connects to peers in this replica's name.
#[derive(Clone)]
pub(super) struct Dialer(Arc<Inner>);

struct Inner {
    cluster: String,
    id: u64,
    api: String,
    directory: Directory,
    complaints: Complaints,
}

impl Dialer {
    pub(super) fn new(cluster: String, id: u64, api: String, directory: Directory) -> Self {
        let complaints = Complaints::default();
        Self(Arc::new(Inner { cluster, id, api, directory, complaints }))
    }

    /// Connects to replica `to` at `peer` and introduces this one.
    pub(super) async fn dial(
        &self,
        to: u64,
        peer: &str,
        purpose: Purpose,
        within: Duration,
    ) -> io::Result<Conn> {
        let dialed = timeout(within, self.introduce(to, peer, purpose)).await;
        dialed.unwrap_or_else(|_| {
            let why = format!("no connection to replica {to} at {peer} within {within:?}");
            Err(io::Error::new(io::ErrorKind::TimedOut, why))
        })
    }

    async fn introduce(&self, to: u64, peer: &str, purpose: Purpose) -> io::Result<Conn> {
        let mut conn = Conn::new(TcpStream::connect(peer).await?)?;
        let Inner { cluster, id, api, .. } = &*self.0;
        let hello = Hello::new(cluster.clone(), *id, to, api.clone(), purpose);
        conn.writer.send(&pack(&hello)).await?;
        match unpack("welcome", &conn.reader.expect().await?)? {
            Welcome::Accept { api } => {
                conn.reader.trust();
                self.0.directory.set(to, api);
                Ok(conn)
            }
            Welcome::Refuse { why } => {
                if self.0.complaints.news(peer, &why) {
                    tracing::warn!(peer, replica = to, %why, "connection refused by the peer");
                }
                let why = format!("replica {to} at {peer} refused: {why}");
                Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
            }
        }
    }
}

/// Whether the peer took the connection and closed it without a word: so does an older release that does
/// not know the purpose.
pub(super) fn is_unknown(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

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

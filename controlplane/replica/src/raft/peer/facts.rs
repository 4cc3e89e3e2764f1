//! What another replica's program is, asked on a connection of its own: a replica of the first
//! release does not know the question and closes the connection, which is an answer as well.
//!
//! New questions for the [`crate::raft::peer::link::PeerClient`] wait until the cluster's version says that all members
//! know them; this one is how the cluster finds that out.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use futures_util::future::join_all;
use romana_statemachine::{Member, State, VERSION_MAX};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::raft::peer::dial::{Conn, Dialer, is_unknown};
use crate::raft::peer::message::Purpose;
use crate::raft::store::codec::{pack, unpack};

/// Longest wait for the others before a first start.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);

/// What a replica says about its program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Version of the program, for people.
    pub program: String,
    /// The highest version of behaviour that it knows.
    pub version_max: u16,
    /// Ids that are claimed in its state, and by which data directory.
    pub(in crate::raft) claims: Vec<(u64, String)>,
}

impl Facts {
    /// Those of this program, with a state.
    pub(in crate::raft) fn own(state: &State) -> Self {
        let claim = |member: &Member| Some((member.id, member.nonce.clone()?));
        Self {
            program: env!("CARGO_PKG_VERSION").into(),
            version_max: VERSION_MAX,
            claims: state.members().filter_map(claim).collect(),
        }
    }

    /// Those of a program that knows a version.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn of(version_max: u16) -> Self {
        Self { version_max, ..Self::first_release() }
    }

    /// Those of the first release.
    fn first_release() -> Self {
        Self { program: "0.1.0".into(), version_max: 1, claims: Vec::new() }
    }
}

/// Answers on a connection that was opened for this.
pub(in crate::raft) async fn answer(mut conn: Conn, own: Facts) -> io::Result<()> {
    conn.writer.send(&pack(&own)).await
}

/// Asks a replica.
pub(in crate::raft) async fn ask(
    dialer: &Dialer,
    id: u64,
    peer: &str,
    within: Duration,
) -> io::Result<Facts> {
    let mut conn = match dialer.dial(id, peer, Purpose::Facts, within).await {
        Ok(conn) => conn,
        Err(error) if is_unknown(&error) => return Ok(Facts::first_release()),
        Err(error) => return Err(error),
    };
    let stalled = || io::Error::new(io::ErrorKind::TimedOut, "the replica does not answer");
    let frame = timeout(within, conn.reader.expect()).await.map_err(|_| stalled())??;
    Ok(unpack("facts", &frame)?)
}

/// Whether one of the others knows a data directory that has this id: for a replica whose own directory
/// is empty. Who does not answer knows nothing.
pub(in crate::raft) async fn is_taken(
    dialer: &Dialer,
    id: u64,
    others: &BTreeMap<u64, String>,
) -> bool {
    let asked = others.iter().filter(|(other, _)| **other != id);
    let asked = asked.map(async |(other, peer)| ask(dialer, *other, peer, ASK_TIMEOUT).await.ok());
    let facts = join_all(asked).await.into_iter().flatten();
    facts.flat_map(|facts| facts.claims).any(|(claimed, _)| claimed == id)
}

//! Facts about another replica's program, requested on a dedicated connection: a replica of the first release does
//! not know the request and closes the connection, which is an answer as well.
//!
//! New requests for the [`crate::raft::peer::link::PeerClient`] are not used until the cluster version says that all
//! members know them; these facts are how the cluster finds that out.

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

/// Longest wait for the other replicas before a first start.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);

/// Facts about a replica's program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Program version, for display.
    pub program: String,
    /// The highest behaviour version that it supports.
    pub version_max: u16,
    /// Claimed ids in its state, with the nonce of the data directory.
    pub(in crate::raft) claims: Vec<(u64, String)>,
}

impl Facts {
    /// Facts about this program, with the claims of a state.
    pub(in crate::raft) fn own(state: &State) -> Self {
        let claim = |member: &Member| Some((member.id, member.nonce.clone()?));
        Self {
            program: env!("CARGO_PKG_VERSION").into(),
            version_max: VERSION_MAX,
            claims: state.members().filter_map(claim).collect(),
        }
    }

    /// Facts about a program that supports a version.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn of(version_max: u16) -> Self {
        Self { version_max, ..Self::first_release() }
    }

    /// Facts about the first release.
    fn first_release() -> Self {
        Self { program: "0.1.0".into(), version_max: 1, claims: Vec::new() }
    }
}

/// Serves the request on a connection opened for it.
pub(in crate::raft) async fn answer(mut conn: Conn, own: Facts) -> io::Result<()> {
    conn.writer.send(&pack(&own)).await
}

/// Requests the facts of a replica.
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

/// Whether another replica knows a data directory that has claimed this id. Used by a replica whose own directory
/// is empty. A replica that does not answer counts as not knowing one.
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

//! What another replica's program is, asked on a connection of its own: a replica of the first
//! release does not know the question and closes the connection, which is an answer as well.
//!
//! New questions for the [`super::link::Link`] wait until the cluster's version says that all members
//! know them; this one is how the cluster finds that out.

use std::io;
use std::time::Duration;

use romana_statemachine::VERSION_MAX;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::codec::{pack, unpack};
use super::dial::{Conn, Dialer};
use super::message::Purpose;

/// What a replica says about its program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Version of the program, for people.
    pub program: String,
    /// The highest version of behaviour that it knows.
    pub version_max: u16,
}

impl Facts {
    /// Those of this program.
    #[must_use]
    pub fn own() -> Self {
        Self { program: env!("CARGO_PKG_VERSION").into(), version_max: VERSION_MAX }
    }

    /// Those of the first release.
    fn first_release() -> Self {
        Self { program: "0.1.0".into(), version_max: 1 }
    }
}

/// Answers on a connection that was opened for this.
pub(super) async fn answer(mut conn: Conn) -> io::Result<()> {
    conn.writer.send(&pack(&Facts::own())).await
}

/// Asks a replica.
pub(super) async fn ask(
    dialer: &Dialer,
    id: u64,
    peer: &str,
    within: Duration,
) -> io::Result<Facts> {
    let mut conn = match dialer.dial(id, peer, Purpose::Facts, within).await {
        Ok(conn) => conn,
        Err(error) if closed(&error) => return Ok(Facts::first_release()),
        Err(error) => return Err(error),
    };
    let stalled = || io::Error::new(io::ErrorKind::TimedOut, "the replica does not answer");
    let frame = timeout(within, conn.reader.expect()).await.map_err(|_| stalled())??;
    Ok(unpack("facts", &frame)?)
}

/// Whether the peer took the connection and closed it.
fn closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

//! A malicious peer: sends terms that no cluster reaches, inconsistent entries, frames of
//! arbitrary length, and arbitrary bytes.
//!
//! The message formats are defined here independently: the program under test does not provide them.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use romana_statemachine::entry::wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Timeout of each step.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connection types.
const APPEND: u32 = 0;
const CALL: u32 = 1;
const WATCHED_SNAPSHOT: u32 = 4;
/// Request types on a call connection.
const VOTE: u32 = 1;
const PRE_VOTE: u32 = 2;
const TRANSFER: u32 = 3;
const PROVE: u32 = 10;

/// A term and its candidate; whether a majority has granted it.
type Vote = ((u64, Option<u64>), bool);
/// A term and an index.
type LogId = (u64, u64);

/// A forged message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Forgery {
    /// A vote request for the highest possible term.
    Vote,
    /// The same as after a leadership transfer, when leases do not protect.
    VoteHandedOver,
    /// A pre-vote request.
    PreVote,
    /// An empty append from a leader of the last term.
    Append,
    /// The last possible entry from a leader.
    Entry,
    /// A leadership transfer in the last term.
    Transfer,
    /// A snapshot with the highest possible position.
    Snapshot,
    /// A proof of a history that is never reached.
    Prove,
    /// Arbitrary bytes in place of a handshake.
    Garbage,
    /// A frame longer than the limit.
    Giant,
    /// An incomplete frame.
    Half,
}

impl Forgery {
    /// All forgeries.
    pub const ALL: [Self; 11] = [
        Self::Vote,
        Self::VoteHandedOver,
        Self::PreVote,
        Self::Append,
        Self::Entry,
        Self::Transfer,
        Self::Snapshot,
        Self::Prove,
        Self::Garbage,
        Self::Giant,
        Self::Half,
    ];
}

/// The victim, and the identity to claim.
#[derive(Clone, Debug)]
pub struct Target {
    /// The victim's peer listener.
    pub peer: SocketAddr,
    pub id: u64,
    /// The id that is claimed.
    pub from: u64,
    pub cluster: String,
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let crc = crc32(payload);
    [&length.to_le_bytes()[..], &crc.to_le_bytes(), payload].concat()
}

/// CRC-32 as in Ethernet, without a table, as inputs are short.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

impl Target {
    fn hello(&self, purpose: u32) -> Vec<u8> {
        let hello = (*b"ROMP", 1u16, &self.cluster, self.from, self.id, "http://forged", purpose);
        frame(&wire(&hello))
    }

    /// The handshake, and the bytes that follow it.
    fn bytes(&self, forgery: Forgery) -> (Option<Vec<u8>>, Vec<u8>) {
        let vote = |term, committed| -> Vote { ((term, Some(self.from)), committed) };
        let last: Option<LogId> = Some((u64::MAX, u64::MAX));
        let near: Option<LogId> = Some((1, 1));
        let none: Option<LogId> = None;
        let ask = |kind: u32, rest: Vec<u8>| {
            let question = [wire(&(1u64, kind)), rest].concat();
            (Some(self.hello(CALL)), frame(&question))
        };
        let append = |head: Vec<u8>, entry: &[u8]| {
            let sized = |part: &[u8]| {
                let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
                [&length.to_le_bytes()[..], part].concat()
            };
            let entry = if entry.is_empty() { Vec::new() } else { sized(entry) };
            (Some(self.hello(APPEND)), frame(&[sized(&head), entry].concat()))
        };
        match forgery {
            Forgery::Vote => ask(VOTE, wire(&(vote(u64::MAX, false), last, false))),
            Forgery::VoteHandedOver => ask(VOTE, wire(&(vote(u64::MAX, false), last, true))),
            Forgery::PreVote => ask(PRE_VOTE, wire(&(vote(u64::MAX, false), last, false))),
            Forgery::Append => append(wire(&(vote(u64::MAX, true), near, none)), &[]),
            Forgery::Entry => {
                let before: Option<LogId> = Some((1, u64::MAX - 1));
                let entry = [&[0u8][..], &9u64.to_le_bytes(), &u64::MAX.to_le_bytes()].concat();
                append(wire(&(vote(9, true), before, none)), &entry)
            }
            Forgery::Transfer => ask(TRANSFER, wire(&(vote(u64::MAX, true), self.id, near))),
            Forgery::Snapshot => {
                // An empty membership with its log id.
                let empty: (Vec<Vec<u64>>, Vec<(u64, String)>) = (Vec::new(), Vec::new());
                // The last field is a name that snapshots once had.
                let meta = (last, (last, empty), "");
                let begin = (0u32, vote(u64::MAX, true), meta, u64::MAX, u64::MAX);
                (Some(self.hello(WATCHED_SNAPSHOT)), frame(&wire(&begin)))
            }
            Forgery::Prove => ask(PROVE, wire(&u64::MAX)),
            Forgery::Garbage => (None, b"\x1b]0;forged\x07 GET / HTTP/1.1\r\n\r\n".repeat(100)),
            Forgery::Giant => (Some(self.hello(CALL)), vec![0xff; 1 << 16]),
            Forgery::Half => {
                let half = [&(8u32 << 20).to_le_bytes()[..], &[0; 4], &[7; 1 << 20]].concat();
                (Some(self.hello(CALL)), half)
            }
        }
    }

    /// Sends it. `Ok`: whether the peer answered; `false` if it closed the connection.
    ///
    /// # Errors
    /// The peer cannot be reached, or refuses the handshake.
    pub async fn send(&self, forgery: Forgery) -> Result<bool> {
        let connected = timeout(PATIENCE, TcpStream::connect(self.peer)).await;
        let mut stream = connected.context("no connection in time")??;
        let (hello, rest) = self.bytes(forgery);
        if let Some(hello) = hello {
            stream.write_all(&hello).await?;
            let welcome = read_frame(&mut stream).await?.context("no welcome")?;
            ensure!(welcome.first() == Some(&0), "not welcome: {welcome:?}");
        }
        // The peer may close the connection during the write: that is a valid reaction.
        if stream.write_all(&rest).await.is_err() || forgery == Forgery::Half {
            return Ok(false);
        }
        Ok(matches!(read_frame(&mut stream).await, Ok(Some(_))))
    }
}

/// The payload of the next frame; `None` at the end.
async fn read_frame(stream: &mut TcpStream) -> Result<Option<Vec<u8>>> {
    let read = async {
        let mut header = [0; 8];
        if stream.read_exact(&mut header).await.is_err() {
            return Ok(None);
        }
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let mut payload = vec![0; usize::try_from(length)?.min(16 << 20)];
        stream.read_exact(&mut payload).await?;
        Ok(Some(payload))
    };
    timeout(PATIENCE, read).await.context("neither an answer nor an end")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(frame(b""), [0; 8]);
    }
}

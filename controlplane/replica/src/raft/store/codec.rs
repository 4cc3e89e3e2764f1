//! Encoding of log entries and append requests: the same on disk and between replicas.
//!
//! An entry is a fixed header and a body; everything is little-endian. Commands are copied without parsing: a
//! megabyte of them is never parsed between the leader and the disk.
//!
//! ```text
//!   entry    kind u8 · term u64 · index u64 · body
//!              0 blank       no body
//!              1 commands    wire form of a statemachine entry
//!              2 membership  postcard
//!   append   head length u32 · head (postcard: vote, previous, committed) · { length u32 · entry }*
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::EntryPayload;
use openraft::raft::AppendEntriesRequest;
use serde::{Deserialize, Serialize};

use crate::raft::store::types::{LogEntry, LogId, Payload, TypeConfig, Vote};

const BLANK: u8 = 0;
const COMMANDS: u8 = 1;
const MEMBERSHIP: u8 = 2;
const HEADER_BYTES: usize = 17;

/// The bytes are corrupt, or encoded by another version.
#[derive(Debug, thiserror::Error)]
pub(in crate::raft) enum CodecError {
    #[error("{what} is cut short")]
    LowSpace { what: &'static str },
    #[error("log entry of unknown kind {0}")]
    Kind(u8),
    #[error("a {what} does not parse")]
    Parse { what: &'static str, source: postcard::Error },
}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// Encodes one of our own messages with postcard, which cannot fail for them.
pub(in crate::raft) fn pack<T: Serialize>(value: &T) -> Vec<u8> {
    romana_statemachine::entry::wire(value)
}

/// Decodes what [`pack`] wrote.
pub(in crate::raft) fn unpack<T: for<'a> Deserialize<'a>>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, CodecError> {
    romana_statemachine::entry::unwire(bytes).map_err(|source| CodecError::Parse { what, source })
}

/// Number of bytes that [`put_entry`] will write, without membership.
pub(in crate::raft) fn entry_size(entry: &LogEntry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(payload) => HEADER_BYTES + payload.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => HEADER_BYTES,
    }
}

/// Writes an entry.
pub(in crate::raft) fn put_entry(entry: &LogEntry, out: &mut BytesMut) {
    let kind = match &entry.payload {
        EntryPayload::Blank => BLANK,
        EntryPayload::Normal(_) => COMMANDS,
        EntryPayload::Membership(_) => MEMBERSHIP,
    };
    out.reserve(entry_size(entry));
    out.put_u8(kind);
    out.put_u64_le(entry.log_id.leader_id.term);
    out.put_u64_le(entry.log_id.index);
    match &entry.payload {
        EntryPayload::Blank => {}
        EntryPayload::Normal(payload) => out.extend_from_slice(&payload.0),
        EntryPayload::Membership(membership) => out.extend_from_slice(&pack(membership)),
    }
}

/// An encoded entry.
pub(in crate::raft) fn entry_bytes(entry: &LogEntry) -> Bytes {
    let mut out = BytesMut::with_capacity(entry_size(entry));
    put_entry(entry, &mut out);
    out.freeze()
}

/// Decodes an entry. Its commands share `bytes`.
pub(in crate::raft) fn read_entry(mut bytes: Bytes) -> Result<LogEntry, CodecError> {
    if bytes.len() < HEADER_BYTES {
        return Err(CodecError::LowSpace { what: "log entry" });
    }
    let kind = bytes.get_u8();
    let term = bytes.get_u64_le();
    let index = bytes.get_u64_le();
    let payload = match kind {
        BLANK => EntryPayload::Blank,
        COMMANDS => EntryPayload::Normal(Payload(bytes)),
        MEMBERSHIP => EntryPayload::Membership(unpack("membership", &bytes)?),
        other => return Err(CodecError::Kind(other)),
    };
    Ok(LogEntry { log_id: LogId::new_term_index(term, index), payload })
}

/// Encodes an append request.
pub(in crate::raft) fn put_append(request: &AppendEntriesRequest<TypeConfig>, out: &mut BytesMut) {
    let head = pack(&(&request.vote, &request.prev_log_id, &request.leader_commit));
    put_sized(out, |out| out.extend_from_slice(&head));
    for entry in &request.entries {
        put_sized(out, |out| put_entry(entry, out));
    }
}

/// Decodes what [`put_append`] wrote. The entries share `bytes`.
pub(in crate::raft) fn read_append(
    mut bytes: Bytes,
) -> Result<AppendEntriesRequest<TypeConfig>, CodecError> {
    let head = take_sized(&mut bytes)?;
    let (vote, prev_log_id, leader_commit): (Vote, Option<LogId>, Option<LogId>) =
        unpack("head of an append request", &head)?;
    let mut entries = Vec::new();
    while bytes.has_remaining() {
        entries.push(read_entry(take_sized(&mut bytes)?)?);
    }
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

/// Writes a value behind its length, which is filled in afterwards.
fn put_sized(out: &mut BytesMut, put: impl FnOnce(&mut BytesMut)) {
    let at = out.len();
    out.put_u32_le(0);
    put(out);
    let length = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
    if let Some(mut place) = out.get_mut(at..at + 4) {
        place.put_u32_le(length);
    }
}

fn take_sized(bytes: &mut Bytes) -> Result<Bytes, CodecError> {
    let short = || CodecError::LowSpace { what: "append request" };
    if bytes.len() < 4 {
        return Err(short());
    }
    let length = usize::try_from(bytes.get_u32_le()).map_err(|_| short())?;
    if bytes.len() < length {
        return Err(short());
    }
    Ok(bytes.split_to(length))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::raft::store::types::Member;

    fn entries() -> Vec<LogEntry> {
        let nodes: BTreeMap<u64, Member> = [(1, Member { peer: "a:1".into() })].into();
        let membership = openraft::Membership::new(vec![BTreeSet::from([1])], nodes).unwrap();
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Normal(Payload(Bytes::from_static(b"commands"))),
            EntryPayload::Membership(membership),
        ];
        let ids = (5..).map(|index| LogId::new_term_index(3, index));
        ids.zip(payloads).map(|(log_id, payload)| LogEntry { log_id, payload }).collect()
    }

    #[test]
    fn append_requests_survive_the_wire() {
        let request = AppendEntriesRequest::<TypeConfig> {
            vote: Vote::new_committed(3, 1),
            prev_log_id: Some(LogId::new_term_index(2, 4)),
            entries: entries(),
            leader_commit: None,
        };
        let mut out = BytesMut::new();
        put_append(&request, &mut out);
        let back = read_append(out.freeze()).unwrap();
        assert_eq!(format!("{back:?}"), format!("{request:?}"));
        assert_eq!(back.entries, request.entries);
    }

    #[test]
    fn cut_bytes_are_errors() {
        for entry in entries() {
            let whole = entry_bytes(&entry);
            assert_eq!(read_entry(whole.clone()).unwrap(), entry);
            for end in 0..HEADER_BYTES {
                assert!(read_entry(whole.slice(..end)).is_err());
            }
        }
        assert!(read_entry(Bytes::from_static(&[9; 40])).is_err());
        assert!(read_append(Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 1])).is_err());
    }
}

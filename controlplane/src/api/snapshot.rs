//! `/v1/snapshot`: the state at one revision, from which a client can start following. Written piece by piece as the
//! client reads it: the state is a cheap copy, and nothing is serialized ahead.

use std::net::IpAddr;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use romana_api::block::Block;
use romana_api::snapshot::{
    ClusterHead, HostsHead, Snapshot, SnapshotHead, TopologyHead, routers, sources,
};
use romana_replica::feed::Topics;
use romana_statemachine::name::HostName;
use romana_statemachine::{Digest, State, Topic};
use serde::Serialize;

use super::call::Call;
use super::operation::{CONSISTENCY, Operation, Param, Verb, handler, of};
use super::{blackouts, events, reply, tenants};
use crate::budget::Permits;
use crate::error::Failure;

pub(super) const OPERATIONS: &[Operation] = &[Operation::new(
    Verb::Get,
    "/v1/snapshot",
    "events",
    "State and revision to start following from: GET /v1/events?from=<revision>. Members are those \
     of the topics asked for.",
    &[(200, of::<Snapshot>)],
    handler!(get),
)
.query(&[
    Param::optional("topics", "Only these topics, separated by commas (default: all)"),
    Param::optional("host", "Leave out addresses of other hosts"),
    CONSISTENCY,
])];

/// Items per piece.
const PIECE_ITEMS: usize = 500;

/// Progress within a section.
#[derive(Default)]
struct Place {
    items: usize,
    last_ip: Option<IpAddr>,
}

/// Writes the next items of a section, each preceded by a comma except the section's first;
/// returns the number of items.
type Section =
    fn(&State, Option<&HostName>, &mut Place, &mut BytesMut) -> Result<usize, serde_json::Error>;

/// The list sections: topic, JSON member, writer.
const SECTIONS: [(Topic, &str, Section); 10] = [
    (Topic::Topology, "blackouts", |state, _, place, out| write(blackouts::all(state), place, out)),
    (Topic::Hosts, "hosts", |state, _, place, out| write(state.hosts(), place, out)),
    (Topic::Blocks, "blocks", write_blocks),
    (Topic::Addresses, "addresses", write_addresses),
    (Topic::Tenants, "tenants", |state, _, place, out| write(tenants::all(state), place, out)),
    (Topic::Policies, "policies", |state, _, place, out| write(state.policies(), place, out)),
    (Topic::Endpoints, "endpoints", |state, _, place, out| write(state.endpoints(), place, out)),
    (Topic::Vips, "vips", |state, _, place, out| write(state.vips(), place, out)),
    (Topic::Routers, "routers", |state, _, place, out| write(routers(state), place, out)),
    (Topic::Sources, "sources", |state, _, place, out| write(sources(state), place, out)),
];

fn write<T: Serialize>(
    items: impl Iterator<Item = T>,
    place: &mut Place,
    out: &mut BytesMut,
) -> Result<usize, serde_json::Error> {
    let mut written = 0;
    for item in items.skip(place.items).take(PIECE_ITEMS) {
        if place.items + written > 0 {
            out.put_u8(b',');
        }
        serde_json::to_writer(out.writer(), &item)?;
        written += 1;
    }
    place.items += written;
    Ok(written)
}

/// Writes blocks. There may be many: continue by key, not by count.
fn write_blocks(
    state: &State,
    _: Option<&HostName>,
    place: &mut Place,
    out: &mut BytesMut,
) -> Result<usize, serde_json::Error> {
    let before = place.items;
    // Blocks do not overlap: the next one starts after the last address of the previous one.
    let blocks = state.ipam().blocks_after(place.last_ip).take(PIECE_ITEMS);
    for block in blocks {
        if place.items > 0 {
            out.put_u8(b',');
        }
        serde_json::to_writer(out.writer(), &Block::from(block))?;
        place.last_ip = Some(block.cidr.broadcast());
        place.items += 1;
    }
    Ok(place.items - before)
}

/// Writes addresses, also continuing by key.
fn write_addresses(
    state: &State,
    host: Option<&HostName>,
    place: &mut Place,
    out: &mut BytesMut,
) -> Result<usize, serde_json::Error> {
    if let Some(host) = host {
        return write(state.ipam().host_addresses(host), place, out);
    }
    let mut written = 0;
    for address in state.ipam().addresses_after(place.last_ip).take(PIECE_ITEMS) {
        if place.items + written > 0 {
            out.put_u8(b',');
        }
        serde_json::to_writer(out.writer(), &address)?;
        place.last_ip = Some(address.ip);
        written += 1;
    }
    place.items += written;
    Ok(written)
}

/// A snapshot in progress.
struct Writer {
    state: State,
    /// Write only addresses of this host.
    host: Option<HostName>,
    sections: std::vec::IntoIter<(&'static str, Section)>,
    open: Option<(Section, Place)>,
    done: bool,
    /// The share of the budget of a past state.
    _permits: Permits,
}

impl Writer {
    fn next(&mut self) -> Result<Option<Bytes>, serde_json::Error> {
        if self.done {
            return Ok(None);
        }
        let mut out = BytesMut::with_capacity(64 << 10);
        while out.len() < 32 << 10 {
            let Some((section, place)) = &mut self.open else {
                let Some((member, section)) = self.sections.next() else {
                    out.put_u8(b'}');
                    self.done = true;
                    break;
                };
                out.put_slice(format!(",\"{member}\":[").as_bytes());
                self.open = Some((section, Place::default()));
                continue;
            };
            if section(&self.state, self.host.as_ref(), place, &mut out)? < PIECE_ITEMS {
                out.put_u8(b']');
                self.open = None;
            }
        }
        Ok(Some(out.freeze()))
    }
}

/// The part before the lists, without the closing brace.
fn head(state: &State, topics: Topics, state_digest: Option<Digest>) -> Result<Bytes, Failure> {
    let head = SnapshotHead {
        revision: state.revision(),
        digest: state.digest(),
        state_digest,
        at: state.at(),
        topology: topics.has(Topic::Topology).then(|| TopologyHead::new(state)),
        hosts: topics.has(Topic::Hosts).then(|| HostsHead::new(state)),
        cluster: topics.has(Topic::Cluster).then(|| ClusterHead::new(state)),
    };
    let mut bytes = reply::bytes(&head)?;
    bytes.truncate(bytes.len() - 1);
    Ok(bytes)
}

async fn get(call: Call) -> reply::Result {
    let topics = events::topics(&call)?;
    let host = call.query("host").map(HostName::from);
    respond_to(host, call.state().await?, topics, None, Permits::none())
}

/// A state as a document, written as the client reads it.
pub(super) fn respond(
    state: State,
    topics: Topics,
    state_digest: Option<Digest>,
    held: Permits,
) -> reply::Result {
    respond_to(None, state, topics, state_digest, held)
}

/// The same, optionally limited to the addresses of one host.
fn respond_to(
    host: Option<HostName>,
    state: State,
    topics: Topics,
    state_digest: Option<Digest>,
    held: Permits,
) -> reply::Result {
    let revision = state.revision();
    let head = head(&state, topics, state_digest)?;
    let sections: Vec<_> = SECTIONS
        .into_iter()
        .filter(|(topic, ..)| topics.has(*topic))
        .map(|(_, member, section)| (member, section))
        .collect();
    let writer = Writer {
        state,
        host,
        sections: sections.into_iter(),
        open: None,
        done: false,
        _permits: held,
    };
    let pieces = stream::unfold((Some(head), writer), |(head, mut writer)| async move {
        match head {
            Some(head) => Some((Ok(head), (None, writer))),
            None => writer.next().transpose().map(|piece| (piece, (None, writer))),
        }
    });
    Ok(reply::raw(StatusCode::OK, revision, "application/json", Body::from_stream(pieces)))
}

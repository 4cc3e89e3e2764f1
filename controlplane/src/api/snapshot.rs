//! `/v1/snapshot`: the state at one revision, to start following from. Written piece by piece as the
//! client takes it: the state is a cheap copy, and nothing is serialised ahead.

use std::net::IpAddr;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use romana_replica::feed::Topics;
use romana_statemachine::name::HostName;
use romana_statemachine::{Digest, State, Topic};
use serde::Serialize;
use serde_json::json;

use super::call::Call;
use super::route::{CONSISTENCY, Param, Route, Verb, handler};
use super::{blackouts, blocks, events, reply, tenants, topology};
use crate::budget::Held;

pub(super) const ROUTES: &[Route] = &[Route::new(
    Verb::Get,
    "/v1/snapshot",
    "events",
    "State and revision to start following from: GET /v1/events?from=<revision>. Members are those \
     of the topics asked for.",
    &[(200, "Snapshot")],
    handler!(get),
)
.query(&[
    Param::optional("topics", "Only these topics, separated by commas (default: all)"),
    Param::optional("host", "Leave out addresses of other hosts"),
    CONSISTENCY,
])];

/// Items written at once.
const PIECE_ITEMS: usize = 500;

/// How far a section has been written.
#[derive(Default)]
struct Place {
    items: usize,
    last_ip: Option<IpAddr>,
}

/// Writes the next items of a section, each with a comma before it except the section's first;
/// returns how many.
type Section =
    fn(&State, Option<&HostName>, &mut Place, &mut BytesMut) -> Result<usize, serde_json::Error>;

/// The list sections: topic, member, content.
const SECTIONS: [(Topic, &str, Section); 9] = [
    (Topic::Topology, "blackouts", |state, _, place, out| write(blackouts::all(state), place, out)),
    (Topic::Hosts, "hosts", |state, _, place, out| write(state.hosts(), place, out)),
    (Topic::Blocks, "blocks", write_blocks),
    (Topic::Addresses, "addresses", write_addresses),
    (Topic::Tenants, "tenants", |state, _, place, out| write(tenants::all(state), place, out)),
    (Topic::Policies, "policies", |state, _, place, out| write(state.policies(), place, out)),
    (Topic::Endpoints, "endpoints", |state, _, place, out| write(state.endpoints(), place, out)),
    (Topic::Vips, "vips", |state, _, place, out| write(state.vips(), place, out)),
    (Topic::Routers, "routers", |state, _, place, out| {
        let routers = state.routers();
        let shown = |(key, host): (&romana_statemachine::RouterKey, _)| json!({"prefix": key.prefix, "table": key.table, "host": host});
        write(routers.map(shown), place, out)
    }),
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

/// Blocks can be many: continue by key, not by counting.
fn write_blocks(
    state: &State,
    _: Option<&HostName>,
    place: &mut Place,
    out: &mut BytesMut,
) -> Result<usize, serde_json::Error> {
    let before = place.items;
    // Blocks do not overlap: the next one begins after the last address of the one before.
    let blocks = state.ipam().blocks_after(place.last_ip).take(PIECE_ITEMS);
    for block in blocks {
        if place.items > 0 {
            out.put_u8(b',');
        }
        serde_json::to_writer(out.writer(), &blocks::Shown::from(block))?;
        place.last_ip = Some(block.cidr.broadcast());
        place.items += 1;
    }
    Ok(place.items - before)
}

/// The same for addresses.
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

/// A snapshot that is being written.
struct Writer {
    state: State,
    /// Whose addresses alone are written.
    host: Option<HostName>,
    sections: std::vec::IntoIter<(&'static str, Section)>,
    open: Option<(Section, Place)>,
    done: bool,
    /// What its state takes of the budget, if it is one of the past.
    _held: Held,
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

/// What comes before the lists, without the closing brace.
fn head(
    state: &State,
    topics: Topics,
    state_digest: Option<Digest>,
) -> Result<Bytes, crate::error::Failure> {
    let mut head = serde_json::Map::new();
    head.insert("revision".into(), state.revision().into());
    head.insert("digest".into(), state.digest().to_string().into());
    if let Some(digest) = state_digest {
        head.insert("state_digest".into(), digest.to_string().into());
    }
    head.insert("at".into(), state.at().0.into());
    if topics.has(Topic::Topology) {
        head.insert("topology".into(), topology::view(state)?.into());
        let mut settings = json!(state.settings());
        if let (Some(all), serde_json::Value::Object(agents)) =
            (settings.as_object_mut(), json!(state.agent_settings()))
        {
            all.extend(agents);
        }
        head.insert("settings".into(), settings);
        head.insert("version".into(), state.version().into());
    }
    if topics.has(Topic::Hosts) {
        let conflicts = state.conflicts().map(|(host, list)| (host.to_string(), json!(list)));
        head.insert("conflicts".into(), serde_json::Value::Object(conflicts.collect()));
    }
    if topics.has(Topic::Cluster) {
        let held = state.held().map(
            |held| json!({"since": held.since, "waiting": held.waiting.iter().collect::<Vec<_>>()}),
        );
        head.insert("retention".into(), json!(state.retention()));
        head.insert("signed".into(), json!(state.signed()));
        head.insert("held".into(), json!(held));
        head.insert("members".into(), state.members().map(|member| json!(member)).collect());
    }
    let mut text = serde_json::Value::Object(head).to_string();
    text.pop();
    Ok(Bytes::from(text))
}

async fn get(call: Call) -> reply::Result {
    let topics = events::topics(&call)?;
    let host = call.query("host").map(HostName::from);
    respond_to(host, call.state().await?, topics, None, Held::none())
}

/// A state as a document, written as the client takes it.
pub(super) fn respond(
    state: State,
    topics: Topics,
    state_digest: Option<Digest>,
    held: Held,
) -> reply::Result {
    respond_to(None, state, topics, state_digest, held)
}

/// The same, without the addresses of all hosts but one.
fn respond_to(
    host: Option<HostName>,
    state: State,
    topics: Topics,
    state_digest: Option<Digest>,
    held: Held,
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
        _held: held,
    };
    let pieces = stream::unfold((Some(head), writer), |(head, mut writer)| async move {
        match head {
            Some(head) => Some((Ok(head), (None, writer))),
            None => writer.next().transpose().map(|piece| (piece, (None, writer))),
        }
    });
    Ok(reply::raw(StatusCode::OK, revision, "application/json", Body::from_stream(pieces)))
}

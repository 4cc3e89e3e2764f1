//! `/v1/events`: the feed over HTTP, as Server-Sent Events or NDJSON.

use axum::body::Body;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, StatusCode};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use romana_api::feed::RecordLine;
use romana_api::header;
use romana_replica::feed::{FeedError, Filter, Follower, Form, Topics};
use romana_statemachine::name::HostName;
use romana_statemachine::{Record, Revision, Topic, VERSION_MAX};
use romana_storage::history::HistoryError;

use super::FOLLOWERS_MAX;
use super::call::Call;
use super::head::{bad_query, only};
use super::operation::{Accepts, Operation, Param, Verb, handler, of};
use super::reply;
use crate::error::{Code, Failure};

/// Version assumed for a host's follower that does not state one.
const UNSAID: u16 = 3;

pub(super) const OPERATIONS: &[Operation] = &[Operation::new(
    Verb::Get,
    "/v1/events",
    "events",
    "Follows what is decided: events after a revision, in order and without gaps, then as they \
     happen. `text/event-stream` (default): `id` is the revision, `event` the event's name, `data` \
     the record. `application/x-ndjson`: one record per line. A bookmark (`event: bookmark`; \
     `{\"bookmark\": {\"revision\": N}}`) follows the catch-up and comes at least every 5 s: all \
     events of interest up to its revision have been sent. 410 when the next event is no longer \
     kept: take a snapshot.",
    &[(200, of::<RecordLine<Record>>)],
    handler!(follow),
)
.query(&[
    Param::optional(
        "from",
        "Events after this revision (0: all; default: those that happen from now on). \
         A `Last-Event-ID` header goes before it",
    ),
    Param::optional("topics", "Only these topics, separated by commas (default: all)"),
    Param::optional("host", "Leave out addresses of other hosts"),
])
.accepts(Accepts::Feed)];

fn start(call: &Call) -> Result<Revision, Failure> {
    if let Some(value) = only(&call.headers, "Last-Event-ID")? {
        let revision = value.to_str().ok().and_then(|text| text.trim().parse().ok());
        return revision.ok_or_else(|| {
            Failure::new(Code::MalformedHeader, "Last-Event-ID is not a revision")
                .with("header", "Last-Event-ID")
        });
    }
    let from = call.query_as::<Revision>("from")?;
    Ok(from.unwrap_or_else(|| call.api.replica().feed().last()))
}

/// The newest version whose events are sent. Agents before version 4 do not state their version, and would stop
/// permanently at the first event that they do not know.
fn version(call: &Call, of_host: bool) -> Result<u16, Failure> {
    let Some(value) = only(&call.headers, header::VERSION)? else {
        return Ok(if of_host { UNSAID } else { u16::MAX });
    };
    let version = value.to_str().ok().and_then(|text| text.trim().parse::<u16>().ok());
    let malformed = || {
        let name = header::VERSION;
        let why = format!("{name} is not a version: a number such as {VERSION_MAX}");
        Failure::new(Code::MalformedHeader, why).with("header", name)
    };
    // Later events are sent in an envelope, so the follower can see that it does not know them.
    version.map(|_| u16::MAX).ok_or_else(malformed)
}

async fn follow(call: Call) -> reply::Result {
    let after = start(&call)?;
    let topics = topics(&call)?;
    let host = call.query("host").map(HostName::from);
    if let Some(host) = &host {
        host.check().map_err(|why| bad_query("host", host.as_str(), &why.to_string()))?;
    }
    let form = match Accepts::Feed.choose(&call.headers)? {
        "application/x-ndjson" => Form::Ndjson,
        _ => Form::Sse,
    };
    let version = version(&call, host.is_some())?;
    let feed = call.api.replica().feed().clone();
    if feed.followers() >= FOLLOWERS_MAX {
        let message = format!("this replica has {FOLLOWERS_MAX} followers already");
        return Err(Failure::new(Code::Busy, message));
    }
    if after > feed.last() {
        // This replica may lag. If the whole cluster is behind the follower, it is a different cluster.
        call.linearize().await?;
        let last = feed.last();
        if after > last {
            let message = format!("revision {after} is after the last one, {last}");
            return Err(Failure::new(Code::RevisionAhead, message).with("revision", last.get()));
        }
    }
    let follower = feed.follow(after, Filter { topics, host, version }, form).map_err(failure)?;
    let kind = match form {
        Form::Sse => "text/event-stream",
        Form::Ndjson => "application/x-ndjson",
    };
    let body = Body::from_stream(stream(follower, form));
    let mut response = reply::raw(StatusCode::OK, feed.last(), kind, body);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn failure(error: FeedError) -> Failure {
    let message = error.to_string();
    match error {
        FeedError::Compacted { oldest, .. } => {
            Failure::new(Code::RevisionCompacted, message).with("oldest", oldest.get())
        }
        FeedError::History(error @ HistoryError::Damaged { .. }) => {
            Failure::new(Code::HistoryDamaged, format!("{message}: {error}"))
        }
        _ => Failure::new(Code::Internal, message),
    }
}

/// A follower as a stream. If it fails, the error is the last item.
fn stream(follower: Follower, form: Form) -> impl Stream<Item = Result<Bytes, FeedError>> {
    stream::unfold(Some(follower), move |follower| async move {
        let mut follower = follower?;
        match follower.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(follower))),
            Ok(None) => None,
            Err(error) => {
                let error = failure(error).into_body();
                let bytes = match form {
                    Form::Sse => format!("event: error\ndata: {error}\n\n"),
                    Form::Ndjson => format!("{error}\n"),
                };
                Some((Ok(Bytes::from(bytes)), None))
            }
        }
    })
}

/// The topics of `?topics=`; all topics if it is missing.
pub(super) fn topics(call: &Call) -> Result<Topics, Failure> {
    let Some(list) = call.query("topics") else { return Ok(Topics::all()) };
    let mut topics = Topics::default();
    for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let topic = Topic::from_name(name).ok_or_else(|| {
            let known = Topic::ALL.map(Topic::as_str).join(", ");
            bad_query("topics", name, &format!("the topics are {known}"))
        })?;
        topics = topics.with(topic);
    }
    if topics.is_empty() {
        return Err(bad_query("topics", list, "it names no topic"));
    }
    Ok(topics)
}

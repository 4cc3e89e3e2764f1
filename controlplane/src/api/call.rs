//! One request on its way through: what every handler needs of it, checked once.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Query;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as HttpBody;
use romana_statemachine::name::Actor;
use romana_statemachine::{Answer, Command, Outcome, Proposal, Revision, State};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::route::{Param, Route};
use super::{Api, reply};
use crate::error::{Code, Failure};
use crate::metrics::ProposalFailure;
use crate::raft::ProposeError;

/// Longest deadline that a client may ask for.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Items of a list, by default and at most.
pub(crate) const LIST_ITEMS_MAX: usize = 10_000;

/// What is read of a body that is refused, before the answer: bytes …
const DRAIN_BYTES_MAX: usize = 32 << 20;
/// … and time.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// What is read of a body where none is wanted, bytes.
const NOTHING_BYTES_MAX: usize = 64;

/// What `curl -d` calls any body, also one of JSON. Read as JSON everywhere; a form is refused as such.
const CURL_TYPE: &str = "application/x-www-form-urlencoded";

/// A request whose head and body have been read and checked against its route.
pub(crate) struct Call {
    pub(crate) api: Api,
    pub(crate) path: Vec<(Arc<str>, String)>,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) deadline: Instant,
}

impl Call {
    /// Checks a request's head and reads its body. If that fails, what is left of the body is read
    /// and dropped, within bounds: a client that is still sending would not see the answer.
    pub(crate) async fn read<B>(
        api: Api,
        route: &Route,
        path: Vec<(Arc<str>, String)>,
        parts: Parts,
        mut body: B,
    ) -> Result<Self, Failure>
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let read = Self::read_whole(api, route, path, parts, &mut body).await;
        if (read.is_err() || route.ignores_body) && !body.is_end_stream() {
            _ = tokio::time::timeout(DRAIN_TIMEOUT, drain(&mut body)).await;
        }
        read
    }

    async fn read_whole<B>(
        api: Api,
        route: &Route,
        path: Vec<(Arc<str>, String)>,
        parts: Parts,
        body: &mut B,
    ) -> Result<Self, Failure>
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let deadline = Instant::now() + timeout(&parts.headers, api.request_timeout())?;
        route.accepts.check(&parts.headers)?;
        let query = match parts.uri.query() {
            None | Some("") => Vec::new(),
            Some(_) => query(&parts, route.query)?,
        };
        let has_body = !body.is_end_stream() && !route.ignores_body;
        if has_body && route.body_max > 0 {
            check_content_type(&parts.headers, route.content_types)?;
        }
        let body = match (has_body, route.body_max) {
            (false, _) => Bytes::new(),
            (true, 0) => nothing(&collect(body, NOTHING_BYTES_MAX, deadline).await?)?,
            (true, max) => collect(body, max, deadline).await?,
        };
        Ok(Self { api, path, query, headers: parts.headers, body, deadline })
    }

    /// A path parameter; empty if the route has none of that name.
    pub(crate) fn path(&self, name: &str) -> &str {
        let found = self.path.iter().find(|(key, _)| **key == *name);
        found.map_or("", |(_, value)| value.as_str())
    }

    /// A query parameter.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A query parameter as a value.
    pub(crate) fn query_as<T: std::str::FromStr>(
        &self,
        name: &'static str,
    ) -> Result<Option<T>, Failure>
    where
        T::Err: std::fmt::Display,
    {
        let Some(text) = self.query(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|why| bad_query(name, text, &format!("{why}")))
    }

    /// The body as a value.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        parse(&self.body)
    }

    /// The body as a value; an empty body is the default.
    pub(crate) fn json_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, Failure> {
        if self.body.is_empty() { Ok(T::default()) } else { self.json() }
    }

    /// Who asks.
    pub(crate) fn actor(&self) -> Result<Actor, Failure> {
        let Some(value) = self.headers.get("x-romana-actor") else { return Ok(self.api.actor()) };
        let refuse = |why: String| {
            Failure::new(Code::MalformedHeader, format!("X-Romana-Actor is not valid: {why}"))
                .with("header", "X-Romana-Actor")
        };
        let text = value.to_str().map_err(|_| refuse("it is not ASCII".into()))?;
        let actor = Actor::from(text);
        actor.check().map_err(|why| refuse(why.to_string()))?;
        Ok(actor)
    }

    /// Proposes commands; one outcome each.
    pub(crate) async fn propose_all(
        &self,
        commands: Vec<Command>,
    ) -> Result<Vec<Outcome>, Failure> {
        let actor = self.actor()?;
        let count = commands.len();
        let proposals =
            commands.into_iter().map(|command| Proposal { actor: actor.clone(), command });
        let proposed = self.api.replica().propose(proposals.collect(), self.deadline).await;
        let outcomes = proposed.map_err(|error| self.not_proposed(error, count))?;
        if outcomes.len() != count {
            let why = format!("{} outcomes for {count} commands", outcomes.len());
            return Err(Failure::new(Code::OutcomeUnknown, why));
        }
        for outcome in &outcomes {
            match &outcome.result {
                Ok(_) => self.api.metrics().committed(),
                Err(refusal) => self.api.metrics().refused(refusal.code()),
            }
        }
        Ok(outcomes)
    }

    /// Proposes one command.
    pub(crate) async fn propose(&self, command: Command) -> Result<(Revision, Answer), Failure> {
        let mut outcomes = self.propose_all(vec![command]).await?;
        let Some(outcome) = outcomes.pop() else {
            return Err(Failure::new(Code::OutcomeUnknown, "there is no outcome"));
        };
        match outcome.result {
            Ok(answer) => Ok((outcome.revision, answer)),
            Err(refusal) => Err(Failure::from(refusal)),
        }
    }

    /// Proposes one command that is answered by whether it changed anything.
    pub(crate) async fn change(&self, command: Command) -> Result<Changed, Failure> {
        let (revision, answer) = self.propose(command).await?;
        let changed = match answer {
            Answer::Done { changed } => changed,
            Answer::Address { fresh, .. } => fresh,
        };
        Ok(Changed { changed, revision })
    }

    fn not_proposed(&self, error: ProposeError, commands: usize) -> Failure {
        let message = error.to_string();
        let (code, failure) = match error {
            ProposeError::Unavailable { .. } => (Code::Unavailable, ProposalFailure::Unavailable),
            ProposeError::Busy => (Code::Busy, ProposalFailure::Busy),
            ProposeError::Unknown { .. } => (Code::OutcomeUnknown, ProposalFailure::Unknown),
            ProposeError::TooLarge { .. } => (Code::BodyTooLarge, ProposalFailure::TooLarge),
        };
        self.api.metrics().failed(failure, commands);
        Failure::new(code, message)
    }

    /// The state to answer from: linearizable unless `?consistency=local`.
    pub(crate) async fn state(&self) -> Result<State, Failure> {
        self.await_consistency().await?;
        Ok(self.api.replica().state())
    }

    /// What a short look at the state gives, under its lock: cheaper than a copy where it is enough.
    pub(crate) async fn look<T>(&self, look: impl FnOnce(&State) -> T) -> Result<T, Failure> {
        self.await_consistency().await?;
        Ok(self.api.replica().with_state(look))
    }

    /// Waits until the state is as new as `?consistency=` asks for. Local reads may be of the past, but do not go
    /// back.
    async fn await_consistency(&self) -> Result<(), Failure> {
        match self.query("consistency") {
            None | Some("linearizable") => self.linearize().await,
            Some("local") => {
                let recovered = self.api.replica().recovered(self.deadline).await;
                recovered.map_err(|error| Failure::new(Code::Unavailable, error.to_string()))
            }
            Some(other) => {
                Err(bad_query("consistency", other, "it is neither linearizable nor local"))
            }
        }
    }

    /// Waits until the local state includes everything acknowledged before.
    pub(crate) async fn linearize(&self) -> Result<(), Failure> {
        let read = self.api.replica().linearize(self.deadline).await;
        read.map_err(|error| Failure::new(Code::Unavailable, error.to_string()))
    }

    /// After a change: what `view` shows of the state that includes it, as the answer. If the state
    /// cannot be had in time, the change alone is the answer: it did happen.
    pub(crate) async fn show<T: serde::Serialize>(
        &self,
        status: StatusCode,
        change: Changed,
        view: impl FnOnce(&State) -> Option<T>,
    ) -> reply::Result {
        if self.linearize().await.is_ok() {
            let seen = self.api.replica().with_state(view);
            if let Some(seen) = seen {
                return reply::json(status, change.revision, &seen);
            }
        }
        reply::json(status, change.revision, &change)
    }

    /// `?limit=` within its bounds.
    pub(crate) fn limit(&self) -> Result<usize, Failure> {
        let limit = self.query_as::<usize>("limit")?.unwrap_or(LIST_ITEMS_MAX);
        if limit == 0 || limit > LIST_ITEMS_MAX {
            let why = format!("it is not between 1 and {LIST_ITEMS_MAX}");
            return Err(bad_query("limit", &limit.to_string(), &why));
        }
        Ok(limit)
    }
}

/// What a command did.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Changed {
    /// Whether anything changed.
    pub(crate) changed: bool,
    /// Revision after it.
    pub(crate) revision: Revision,
}

impl Changed {
    /// 201 if something was created, 200 if it stood.
    pub(crate) fn created(self) -> StatusCode {
        if self.changed { StatusCode::CREATED } else { StatusCode::OK }
    }
}

/// A query parameter with a bad value.
pub(crate) fn bad_query(name: &str, value: &str, why: &str) -> Failure {
    let shown: String = value.chars().take(128).collect();
    Failure::new(Code::MalformedQuery, format!("{name}={shown} is not valid: {why}"))
        .with("parameter", name)
}

/// Reads JSON; a mistake is reported with the path of the field.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    // Only now is the path worth its price.
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let error = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Err(error) => error,
        Ok(value) => match deserializer.end() {
            Ok(()) => return Ok(value),
            Err(error) => return Err(malformed(".", &error)),
        },
    };
    let field = error.path().to_string();
    Err(malformed(&field, error.inner()))
}

fn malformed(field: &str, error: &serde_json::Error) -> Failure {
    let at =
        if field == "." { Cow::Borrowed("the body") } else { Cow::Owned(format!("field {field}")) };
    Failure::new(Code::MalformedBody, format!("{at} is not valid: {error}"))
        .with("field", field)
        .with("line", error.line())
        .with("column", error.column())
}

fn timeout(headers: &HeaderMap, default: Duration) -> Result<Duration, Failure> {
    let Some(value) = headers.get("x-romana-timeout-ms") else { return Ok(default) };
    let ms = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
    let ms = ms.filter(|ms| *ms > 0).ok_or_else(|| {
        let why = "X-Romana-Timeout-Ms is not a positive number of milliseconds";
        Failure::new(Code::MalformedHeader, why).with("header", "X-Romana-Timeout-Ms")
    })?;
    Ok(Duration::from_millis(ms).min(TIMEOUT_MAX))
}

fn query(parts: &Parts, known: &[Param]) -> Result<Vec<(String, String)>, Failure> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
        .map_err(|why| Failure::new(Code::MalformedQuery, why.body_text()))?;
    for (at, (name, _)) in pairs.iter().enumerate() {
        if !known.iter().any(|param| param.name == name) {
            let names: Vec<&str> = known.iter().map(|param| param.name).collect();
            let shown: String = name.chars().take(128).collect();
            let message = format!("the parameter {shown:?} is not known here");
            return Err(Failure::new(Code::MalformedQuery, message)
                .with("parameter", shown)
                .with("known", names));
        }
        if pairs[..at].iter().any(|(other, _)| other == name) {
            let message = format!("the parameter {name} is there twice");
            return Err(
                Failure::new(Code::MalformedQuery, message).with("parameter", name.as_str())
            );
        }
    }
    Ok(pairs)
}

fn check_content_type(headers: &HeaderMap, accepted: &[&str]) -> Result<(), Failure> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let given = value.to_str().unwrap_or("");
    let essence = given.split(';').next().unwrap_or("").trim();
    let known = accepted.iter().chain([&CURL_TYPE]);
    if known.into_iter().any(|known| known.eq_ignore_ascii_case(essence)) {
        return Ok(());
    }
    let message = format!("the body is {essence:?}, not JSON");
    Err(Failure::new(Code::UnsupportedMediaType, message).with("types", accepted.to_vec()))
}

/// Where no body is wanted, clients that always send one may send an empty object.
fn nothing(body: &Bytes) -> Result<Bytes, Failure> {
    match body.trim_ascii() {
        b"" | b"{}" => Ok(Bytes::new()),
        _ => Err(too_large(0)),
    }
}

fn too_large(max: usize) -> Failure {
    Failure::new(Code::BodyTooLarge, format!("the body is larger than {max} bytes"))
        .with("max_bytes", max)
}

/// Reads and drops what is left of a body.
async fn drain<B: HttpBody<Data = Bytes> + Unpin>(body: &mut B) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > DRAIN_BYTES_MAX {
            return;
        }
    }
}

/// Reads a body, at most `max` bytes, until the deadline.
async fn collect<B>(body: &mut B, max: usize, deadline: Instant) -> Result<Bytes, Failure>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    if body.size_hint().lower() > max as u64 {
        return Err(too_large(max));
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        let frame = tokio::time::timeout_at(deadline, body.frame()).await;
        let frame = frame.map_err(|_| {
            Failure::new(Code::RequestTimeout, "the body did not arrive before the deadline")
        })?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| {
            Failure::new(Code::MalformedBody, "the body ended early or is not well framed")
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + rest.len() + data.len() > max {
            return Err(too_large(max));
        }
        // Nearly all bodies are one frame, which is not copied.
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            rest.extend_from_slice(&data);
        }
        if body.is_end_stream() {
            break;
        }
    }
    if rest.is_empty() {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(first.len() + rest.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&rest);
    Ok(whole.freeze())
}

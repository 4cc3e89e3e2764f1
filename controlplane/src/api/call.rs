//! One request: everything that handlers need from it, checked once.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Query;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as HttpBody;
use romana_api::{Changed, header};
use romana_replica::ProposeError;
use romana_statemachine::name::Actor;
use romana_statemachine::{Answer, Command, Outcome, Proposal, Revision, State};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::operation::{Operation, Param, Verb};
use super::strict::Strict;
use super::{Api, origin, reply};
use crate::budget::{self, Budgets, Cancel, Held, Pool};
use crate::error::{Code, Failure};
use crate::metrics::ProposalFailure;

/// Longest deadline that a client may request.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Default and maximum number of items in a list.
pub(crate) const LIST_ITEMS_MAX: usize = 10_000;

/// Limits for draining a refused body before the answer: bytes …
const DRAIN_BYTES_MAX: usize = 32 << 20;
/// … and time.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Time for a body to arrive: this, plus a second per so many bytes …
const BODY_GRACE: Duration = Duration::from_secs(5);
const BODY_BYTES_PER_SEC: u32 = 1 << 20;
/// … and at most this long without receiving a byte.
const BODY_STALL: Duration = Duration::from_secs(5);

/// Parsing a larger body takes longer than other requests should wait.
const LARGE_BYTES: usize = 256 << 10;

/// Bytes read of a body where none is expected.
const NOTHING_BYTES_MAX: usize = 64;

/// The type that `curl -d` sends for any body, including JSON. Parsed as JSON everywhere; a real form fails to parse.
const CURL_TYPE: &str = "application/x-www-form-urlencoded";

/// A request whose head and body have been read and checked against its route.
pub(crate) struct Call {
    pub(crate) api: Api,
    pub(crate) path: Vec<(Arc<str>, String)>,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) deadline: Instant,
    /// The body's share of the budget.
    _held: Held,
}

impl Call {
    /// Checks a request's head and reads its body. On failure the rest of the body is drained, within limits,
    /// because a client that is still sending would not see the answer.
    pub(crate) async fn read<B>(
        api: Api,
        route: &Operation,
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
        route: &Operation,
        path: Vec<(Arc<str>, String)>,
        parts: Parts,
        body: &mut B,
    ) -> Result<Self, Failure>
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let deadline = Instant::now() + timeout(&parts.headers, api.request_timeout())?;
        only(&parts.headers, "Host")?;
        if route.verb != Verb::Get {
            check_encoding(&parts.headers)?;
            origin::check(&parts.headers, &parts.uri)?;
            refuse_form(&parts.headers, route.content_types)?;
        }
        route.accepts.check(&parts.headers)?;
        let query = match parts.uri.query() {
            None | Some("") => Vec::new(),
            Some(_) => query(&parts, route.query)?,
        };
        let has_body = !body.is_end_stream() && !route.ignores_body;
        if has_body && route.body_max > 0 {
            check_content_type(&parts.headers, route.content_types)?;
        }
        let budgets = api.budgets();
        let (body, held) = match (has_body, route.body_max) {
            (false, _) => (Bytes::new(), Held::none()),
            (true, 0) => {
                let (body, held) = collect(body, NOTHING_BYTES_MAX, deadline, budgets).await?;
                (nothing(&body)?, held)
            }
            (true, max) => collect(body, max, deadline, budgets).await?,
        };
        Ok(Self { api, path, query, headers: parts.headers, body, deadline, _held: held })
    }

    /// A path parameter; empty if the route has none with that name.
    pub(crate) fn path(&self, name: &str) -> &str {
        let found = self.path.iter().find(|(key, _)| **key == *name);
        found.map_or("", |(_, value)| value.as_str())
    }

    /// A query parameter.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A query parameter, parsed.
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

    /// The body, parsed.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        parse(&self.body)
    }

    /// The body, parsed; an empty body gives the default.
    pub(crate) fn json_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, Failure> {
        if self.body.is_empty() { Ok(T::default()) } else { self.json() }
    }

    /// The actor of this request.
    pub(crate) fn actor(&self) -> Result<Actor, Failure> {
        let value = only(&self.headers, header::ACTOR)?;
        let Some(value) = value else { return Ok(self.api.actor()) };
        let refuse = |why: String| {
            Failure::new(Code::MalformedHeader, format!("{} is not valid: {why}", header::ACTOR))
                .with("header", header::ACTOR)
        };
        let text = value.to_str().map_err(|_| refuse("it is not ASCII".into()))?;
        let actor = Actor::from(text);
        actor.check().map_err(|why| refuse(why.to_string()))?;
        Ok(actor)
    }

    /// Runs long work on a blocking thread: limited by the pool, and cancelled when the client
    /// disconnects.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        pool: &Pool,
        work: impl FnOnce(&Cancel) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let held = pool.take(1, self.deadline).await?;
        budget::work(held, work).await
    }

    /// Proposes commands and returns one outcome each.
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

    /// Refuses a command that would be accepted but have no effect.
    pub(crate) fn check_served(&self, command: &Command) -> Result<(), Failure> {
        self.api.replica().with_state(|state| check_served(command, state))
    }

    /// Proposes one command.
    pub(crate) async fn propose(&self, command: Command) -> Result<(Revision, Answer), Failure> {
        self.check_served(&command)?;
        let mut outcomes = self.propose_all(vec![command]).await?;
        let Some(outcome) = outcomes.pop() else {
            return Err(Failure::new(Code::OutcomeUnknown, "there is no outcome"));
        };
        match outcome.result {
            Ok(answer) => Ok((outcome.revision, answer)),
            Err(refusal) => Err(Failure::from(refusal)),
        }
    }

    /// Proposes one command whose answer is whether it changed anything.
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

    /// The state for a read: linearizable unless `?consistency=local`.
    pub(crate) async fn state(&self) -> Result<State, Failure> {
        self.await_consistency().await?;
        Ok(self.api.replica().state())
    }

    /// Runs a short read of the state under its lock: cheaper than a copy.
    pub(crate) async fn look<T>(&self, look: impl FnOnce(&State) -> T) -> Result<T, Failure> {
        self.await_consistency().await?;
        Ok(self.api.replica().with_state(look))
    }

    /// Waits until the state is as recent as `?consistency=` requires. Local reads may be stale, but never go
    /// back.
    async fn await_consistency(&self) -> Result<(), Failure> {
        match self.query("consistency") {
            None | Some("linearizable") => self.linearize().await,
            Some("local") => {
                let recovered = self.api.replica().reads().recovered(self.deadline).await;
                recovered.map_err(|error| Failure::new(Code::Unavailable, error.to_string()))
            }
            Some(other) => {
                Err(bad_query("consistency", other, "it is neither linearizable nor local"))
            }
        }
    }

    /// Waits until the local state includes everything that was acknowledged before.
    pub(crate) async fn linearize(&self) -> Result<(), Failure> {
        let read = self.api.replica().reads().linearize(self.deadline).await;
        read.map_err(|error| Failure::new(Code::Unavailable, error.to_string()))
    }

    /// Answers a change with what `view` returns for a state that includes it. If that state is not
    /// available in time, answers with the change alone, because it did happen.
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

    /// `?limit=`, checked against its bounds.
    pub(crate) fn limit(&self) -> Result<usize, Failure> {
        let limit = self.query_as::<usize>("limit")?.unwrap_or(LIST_ITEMS_MAX);
        if limit == 0 || limit > LIST_ITEMS_MAX {
            let why = format!("it is not between 1 and {LIST_ITEMS_MAX}");
            return Err(bad_query("limit", &limit.to_string(), &why));
        }
        Ok(limit)
    }
}

/// Refuses commands that would be accepted but have no effect. Repeating what is already set is allowed.
fn check_served(command: &Command, state: &State) -> Result<(), Failure> {
    let lease = state.settings().vip_lease_ms;
    let what = match command {
        Command::RequestVip(spec) => format!("VIP {} was not requested", spec.name),
        Command::ChangeSettings(change) if change.vip_lease_ms.is_some_and(|ms| ms != lease) => {
            String::from("vip_lease_ms was not changed")
        }
        _ => return Ok(()),
    };
    let message = format!("{what}: no host of this release answers for virtual IPs");
    Err(Failure::new(Code::VipsNotServed, message))
}

/// Status of a change: 201 if something was created, 200 if it existed.
pub(crate) fn created(change: Changed) -> StatusCode {
    if change.changed { StatusCode::CREATED } else { StatusCode::OK }
}

/// Failure for a query parameter with an invalid value.
pub(crate) fn bad_query(name: &str, value: &str, why: &str) -> Failure {
    let shown: String = value.chars().take(128).collect();
    Failure::new(Code::MalformedQuery, format!("{name}={shown} is not valid: {why}"))
        .with("parameter", name)
}

/// Parses JSON; an error names the path of the field.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    if body.len() > LARGE_BYTES { budget::apart(|| read(body)) } else { read(body) }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    if let Ok(value) = T::deserialize(Strict(&mut deserializer))
        && deserializer.end().is_ok()
    {
        return Ok(value);
    }
    // Parse again to find the path: too expensive for the normal case.
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let error = match serde_path_to_error::deserialize::<_, T>(Strict(&mut deserializer)) {
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

/// The value of a header that may occur only once: with two values it would be ambiguous which one counts.
pub(crate) fn only<'a>(
    headers: &'a HeaderMap,
    name: &'static str,
) -> Result<Option<&'a HeaderValue>, Failure> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    if values.next().is_some() {
        let why = format!("{name} is there more than once");
        return Err(Failure::new(Code::MalformedHeader, why).with("header", name));
    }
    Ok(value)
}

fn timeout(headers: &HeaderMap, default: Duration) -> Result<Duration, Failure> {
    let Some(value) = only(headers, header::TIMEOUT_MS)? else { return Ok(default) };
    let ms = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
    let ms = ms.filter(|ms| *ms > 0).ok_or_else(|| {
        let why = format!("{} is not a positive number of milliseconds", header::TIMEOUT_MS);
        Failure::new(Code::MalformedHeader, why).with("header", header::TIMEOUT_MS)
    })?;
    Ok(Duration::from_millis(ms).min(TIMEOUT_MAX))
}

fn query(parts: &Parts, known: &[Param]) -> Result<Vec<(String, String)>, Failure> {
    let text = parts.uri.query().unwrap_or_default();
    if !is_encoded(text) {
        let shown: String = text.chars().take(128).collect();
        let why = format!("?{shown} is not UTF-8 when its % escapes are read");
        return Err(Failure::new(Code::MalformedQuery, why).with("query", shown));
    }
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

/// Whether every `%` in a query starts a valid escape, and the decoded bytes are UTF-8. Form decoders
/// would replace invalid parts.
fn is_encoded(query: &str) -> bool {
    let mut bytes = Vec::with_capacity(query.len());
    let mut rest = query.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else { return false };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or(0));
        rest = after.get(2..).unwrap_or_default();
    }
    std::str::from_utf8(&bytes).is_ok()
}

/// Refuses the content types that an HTML form can send, on every route that changes something, with or without a
/// body; except the type that curl sends for any body (for browsers, `origin` is checked).
fn refuse_form(headers: &HeaderMap, accepted: &[&str]) -> Result<(), Failure> {
    let given = only(headers, "Content-Type")?.and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = given.split(';').next().unwrap_or("").trim();
    if ["text/plain", "multipart/form-data"].iter().any(|form| form.eq_ignore_ascii_case(essence)) {
        let message = format!("the body is {essence:?}, which any page's form can send, not JSON");
        let failure = Failure::new(Code::UnsupportedMediaType, message);
        return Err(failure.with("types", accepted.to_vec()));
    }
    Ok(())
}

/// Refuses compressed bodies: they would be read as if they were not compressed.
fn check_encoding(headers: &HeaderMap) -> Result<(), Failure> {
    let Some(value) = only(headers, "Content-Encoding")? else { return Ok(()) };
    let given = value.to_str().unwrap_or("").trim();
    if given.eq_ignore_ascii_case("identity") {
        return Ok(());
    }
    let message = format!("the body is encoded as {given:?}: send it as it is");
    Err(Failure::new(Code::UnsupportedMediaType, message).with("header", "Content-Encoding"))
}

fn check_content_type(headers: &HeaderMap, accepted: &[&str]) -> Result<(), Failure> {
    let Some(value) = only(headers, "Content-Type")? else { return Ok(()) };
    let given = value.to_str().unwrap_or("");
    let essence = given.split(';').next().unwrap_or("").trim();
    let known = accepted.iter().chain([&CURL_TYPE]);
    if known.into_iter().any(|known| known.eq_ignore_ascii_case(essence)) {
        return Ok(());
    }
    let message = format!("the body is {essence:?}, not JSON");
    Err(Failure::new(Code::UnsupportedMediaType, message).with("types", accepted.to_vec()))
}

/// Where no body is expected, an empty object is allowed for clients that always send one.
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

/// Drains the rest of a body.
async fn drain<B: HttpBody<Data = Bytes> + Unpin>(body: &mut B) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > DRAIN_BYTES_MAX {
            return;
        }
    }
}

/// Deadline for the arrival of a body of this size that started at `start`.
fn body_deadline(start: Instant, bytes: u64) -> Instant {
    let seconds = u32::try_from(bytes / u64::from(BODY_BYTES_PER_SEC)).unwrap_or(u32::MAX);
    start + BODY_GRACE + Duration::from_secs(1) * seconds
}

/// Reads a body of at most `max` bytes until the deadline, or earlier if it arrives too slowly; returns it with
/// its share of the budget.
async fn collect<B>(
    body: &mut B,
    max: usize,
    deadline: Instant,
    budgets: &Budgets,
) -> Result<(Bytes, Held), Failure>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    if body.size_hint().lower() > max as u64 {
        return Err(too_large(max));
    }
    let start = Instant::now();
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    let mut held = Held::none();
    loop {
        let length = first.len() + whole.len();
        let size = body.size_hint().lower().saturating_add(length as u64);
        let until = deadline.min(body_deadline(start, size)).min(Instant::now() + BODY_STALL);
        let frame = tokio::time::timeout_at(until, body.frame()).await;
        let frame = frame.map_err(|_| {
            Failure::new(Code::RequestTimeout, "the body did not arrive before the deadline")
        })?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| {
            Failure::new(Code::MalformedBody, "the body ended early or is not well framed")
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if length + data.len() > max {
            return Err(too_large(max));
        }
        held.add(budgets.body((length, length + data.len()), deadline).await?);
        // Nearly all bodies are a single frame: do not copy it.
        if length == 0 {
            first = data;
        } else {
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&data);
        }
        if body.is_end_stream() {
            break;
        }
    }
    Ok((if whole.is_empty() { first } else { whole.freeze() }, held))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_of_bytes_and_bytes_are_utf_8() {
        for good in ["", "a=b&c=d", "a=%C3%a9", "a=b+c", "name=50%25", "é=é"] {
            assert!(is_encoded(good), "{good}");
        }
        for bad in ["%ff", "a=%C3", "a=%C3%28", "a=50%", "a=%4", "a=%zz", "a=%+1", "%e2%28%a1"] {
            assert!(!is_encoded(bad), "{bad}");
        }
    }

    #[test]
    fn a_larger_body_has_more_time() {
        let start = Instant::now();
        let small = body_deadline(start, 100);
        assert_eq!(small, start + BODY_GRACE);
        assert_eq!(body_deadline(start, 16 << 20), small + Duration::from_secs(16));
    }
}

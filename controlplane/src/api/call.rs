//! One request: everything that handlers need from it, checked once.

use std::sync::Arc;

use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use hyper::body::Body as HttpBody;
use romana_api::{Changed, header};
use romana_replica::ProposeError;
use romana_statemachine::name::Actor;
use romana_statemachine::{Answer, Command, Outcome, Proposal, Revision, State};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::head::{bad_query, only};
use super::input::{Input, Verb};
use super::{Api, body, head, origin, reply};
use crate::budget::{self, Cancel, Permits, Pool};
use crate::error::{Code, Failure};
use crate::metrics::ProposalFailure;

/// Default and maximum number of items in a list.
pub(crate) const LIST_ITEMS_MAX: usize = 10_000;

/// A request whose head and body have been read and checked against its takes.
pub(crate) struct Call {
    pub(crate) api: Api,
    pub(crate) path: Vec<(Arc<str>, String)>,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) deadline: Instant,
    /// The body's share of the budget.
    _permits: Permits,
}

impl Call {
    /// Checks a request's head and reads its body. On failure the rest of the body is drained, within limits,
    /// because a client that is still sending would not see the answer.
    pub(crate) async fn read<B>(
        api: Api,
        takes: &Input,
        path: Vec<(Arc<str>, String)>,
        parts: Parts,
        mut body: B,
    ) -> Result<Self, Failure>
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let read = Self::read_whole(api, takes, path, parts, &mut body).await;
        if (read.is_err() || takes.ignores_body) && !body.is_end_stream() {
            body::drain(&mut body).await;
        }
        read
    }

    async fn read_whole<B>(
        api: Api,
        takes: &Input,
        path: Vec<(Arc<str>, String)>,
        parts: Parts,
        body: &mut B,
    ) -> Result<Self, Failure>
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let deadline = Instant::now() + head::timeout(&parts.headers, api.request_timeout())?;
        only(&parts.headers, "Host")?;
        if takes.verb != Verb::Get {
            head::check_encoding(&parts.headers)?;
            origin::check(&parts.headers, &parts.uri)?;
            head::refuse_form(&parts.headers, takes.content_types)?;
        }
        takes.accepts.check(&parts.headers)?;
        let query = match parts.uri.query() {
            None | Some("") => Vec::new(),
            Some(_) => head::query(&parts, takes.query)?,
        };
        let has_body = !body.is_end_stream() && !takes.ignores_body;
        if has_body && takes.body_max > 0 {
            head::check_content_type(&parts.headers, takes.content_types)?;
        }
        let budgets = api.budgets();
        let (body, held) = match (has_body, takes.body_max) {
            (false, _) => (Bytes::new(), Permits::none()),
            (true, 0) => {
                let (body, held) =
                    body::collect(body, body::NOTHING_BYTES_MAX, deadline, budgets).await?;
                (body::nothing(&body)?, held)
            }
            (true, max) => body::collect(body, max, deadline, budgets).await?,
        };
        Ok(Self { api, path, query, headers: parts.headers, body, deadline, _permits: held })
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
        body::parse(&self.body)
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

/// Status of a change: 201 if something was created, 200 if it existed.
pub(crate) fn created(change: Changed) -> StatusCode {
    if change.changed { StatusCode::CREATED } else { StatusCode::OK }
}

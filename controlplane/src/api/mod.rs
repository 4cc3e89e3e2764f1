//! The HTTP API: one table of [`Operation`]s, one file per resource.
//!
//! ```text
//!   connection (server) ─► Api::serve ──────────────► POST /v1/addresses, /v1/batch (no router)
//!                              └─► axum router ─► answer: read head and body ─► handler ─► response
//! ```
//!
//! A write is a command for the log; a read uses a copy of the state. Errors come from one table
//! ([`romana_api::code`]); the OpenAPI document is generated from the same table as the router.

mod addresses;
mod audit;
mod backup;
mod batch;
mod blackouts;
mod blocks;
mod body;
mod call;
mod cluster;
mod diff;
mod endpoints;
mod events;
mod head;
mod health;
mod hosts;
mod input;
mod ipam;
mod kubernetes;
mod list;
mod networks;
mod openapi;
mod operation;
mod origin;
mod past;
mod pods;
mod policies;
mod reply;
mod romana2;
mod routes;
mod schemas;
mod settings;
mod snapshot;
mod strict;
mod tenants;
mod topology;
mod verdict;
mod vips;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{RawPathParams, Request};
use axum::http::{HeaderValue, Method, Response};
use axum::routing::{MethodFilter, on};
use bytes::Bytes;
use hyper::body::Body as HttpBody;
use prometheus_client::collector::Collector;
use romana_replica::Replica;
use romana_statemachine::name::Actor;

use crate::budget::Budgets;
use crate::connection::Stamp;
use crate::error::{CLUSTER_HEADER, Code, Failure, REVISION_HEADER};
use crate::metrics::Metrics;
use call::Call;
use operation::{Operation, Verb};
pub(crate) use origin::check as check_origin;

/// Maximum number of concurrent followers of the feed.
const FOLLOWERS_MAX: usize = 16_384;

/// All routes.
fn table() -> impl Iterator<Item = &'static Operation> {
    let nouns: [&'static [Operation]; 26] = [
        addresses::OPERATIONS, // first: the hot path finds its row at once
        batch::OPERATIONS,
        topology::OPERATIONS,
        networks::OPERATIONS,
        hosts::OPERATIONS,
        ipam::OPERATIONS,
        blocks::OPERATIONS,
        blackouts::OPERATIONS,
        cluster::OPERATIONS,
        settings::OPERATIONS,
        tenants::OPERATIONS,
        policies::OPERATIONS,
        verdict::OPERATIONS,
        endpoints::OPERATIONS,
        kubernetes::OPERATIONS,
        pods::OPERATIONS,
        vips::OPERATIONS,
        routes::OPERATIONS,
        events::OPERATIONS,
        snapshot::OPERATIONS,
        backup::OPERATIONS,
        audit::OPERATIONS,
        past::OPERATIONS,
        openapi::OPERATIONS,
        health::OPERATIONS,
        romana2::OPERATIONS,
    ];
    nouns.into_iter().flatten()
}

/// The API of one replica. Clones are handles to the same API.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    replica: Replica,
    metrics: Metrics,
    request_timeout: Duration,
    actor: Actor,
    active: AtomicUsize,
    budgets: Budgets,
    cluster: HeaderValue,
    allocate: (usize, &'static Operation),
    batch: (usize, &'static Operation),
}

/// Counts a request as active until dropped.
struct Active<'a>(&'a AtomicUsize);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Api {
    /// Creates the API of a replica. Requests without a deadline get `request_timeout`; `/metrics` includes those of
    /// the collectors.
    #[must_use]
    pub fn new(
        replica: Replica,
        request_timeout: Duration,
        collectors: Vec<Box<dyn Collector>>,
    ) -> Self {
        let find = |path: &str| {
            let mut rows = table().enumerate();
            rows.find(|(_, row)| row.takes.verb == Verb::Post && row.path == path)
        };
        let (Some(allocate), Some(batch)) = (find("/v1/addresses"), find("/v1/batch")) else {
            unreachable!("the table has both rows")
        };
        let routes = table().map(|row| (row.takes.verb.as_str(), row.path));
        let mut metrics = Metrics::new(routes, replica.disk_times(), replica.peer_refusals());
        collectors.into_iter().for_each(|collector| metrics.collect(collector));
        Self(Arc::new(Inner {
            metrics,
            request_timeout,
            actor: Actor::from("api"),
            active: AtomicUsize::new(0),
            budgets: Budgets::new(),
            cluster: cluster_header(&replica),
            allocate,
            batch,
            replica,
        }))
    }

    pub(crate) fn replica(&self) -> &Replica {
        &self.0.replica
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Budgets shared by all clients.
    pub(crate) fn budgets(&self) -> &Budgets {
        &self.0.budgets
    }

    fn request_timeout(&self) -> Duration {
        self.0.request_timeout
    }

    /// The actor of requests that do not name one.
    fn actor(&self) -> Actor {
        self.0.actor.clone()
    }

    /// Number of active requests; followers of the feed do not count.
    #[must_use]
    pub fn active(&self) -> usize {
        self.0.active.load(Ordering::SeqCst)
    }

    /// Closes the feed: followers get the remaining records and a bookmark, then their streams end.
    pub fn close_feed(&self) {
        self.0.replica.feed().close();
    }

    /// The router for all routes.
    pub fn router(&self) -> Router {
        let mut router = Router::new();
        for (at, row) in table().enumerate() {
            let api = self.clone();
            let filter = match row.takes.verb {
                Verb::Get => MethodFilter::GET,
                Verb::Post => MethodFilter::POST,
                Verb::Put => MethodFilter::PUT,
                Verb::Patch => MethodFilter::PATCH,
                Verb::Delete => MethodFilter::DELETE,
            };
            let handler = move |params: Result<RawPathParams, _>, request: Request| async move {
                let path = match params {
                    Ok(params) => {
                        params.iter().map(|(key, value)| (Arc::from(key), value.into())).collect()
                    }
                    Err(_) => {
                        let failure = Failure::new(Code::MalformedPath, "the path is not UTF-8");
                        return api.failed(None, Instant::now(), row, failure);
                    }
                };
                api.answer(at, row, path, request).await
            };
            router = router.route(row.path, on(filter, handler));
        }
        let (unknown, wrong) = (self.clone(), self.clone());
        router
            .fallback(move |request: Request| async move {
                let message = format!("there is no route {}", request.uri().path());
                unknown.rejected(Failure::new(Code::PathNotFound, message))
            })
            .method_not_allowed_fallback(move |request: Request| async move {
                let message = format!("{} has no {}", request.uri().path(), request.method());
                wrong.rejected(Failure::new(Code::MethodNotAllowed, message))
            })
    }

    /// The table row of a request that bypasses the router.
    pub(crate) fn hot<B>(&self, request: &Request<B>) -> Option<(usize, &'static Operation)> {
        if *request.method() != Method::POST {
            return None;
        }
        match request.uri().path() {
            "/v1/addresses" => Some(self.0.allocate),
            "/v1/batch" => Some(self.0.batch),
            _ => None,
        }
    }

    /// Answers a request on a route.
    pub(crate) async fn answer<B>(
        &self,
        at: usize,
        route: &'static Operation,
        path: Vec<(Arc<str>, String)>,
        request: Request<B>,
    ) -> Response<Body>
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let started = Instant::now();
        self.0.active.fetch_add(1, Ordering::SeqCst);
        let _active = Active(&self.0.active);
        let (parts, body) = request.into_parts();
        let answer = match Call::read(self.clone(), &route.takes, path, parts, body).await {
            Ok(call) => self.handle(route, call).await,
            Err(failure) => Err(failure),
        };
        match answer {
            Ok(mut response) => {
                self.0.metrics.answered(Some(at), response.status(), started.elapsed());
                response.headers_mut().insert(CLUSTER_HEADER, self.0.cluster.clone());
                response
            }
            Err(failure) => self.failed(Some(at), started, route, failure),
        }
    }

    /// Runs the handler of a call; counts a long answer against the budget until it is written.
    async fn handle(&self, route: &Operation, call: Call) -> Result<Response<Body>, Failure> {
        let walks = &self.0.budgets.walks;
        let _turn = if route.is_walk() { Some(walks.take(1, call.deadline).await?) } else { None };
        let (head, body) = (route.handler)(call).await?.into_parts();
        Ok(Response::from_parts(head, self.0.budgets.count(body)?))
    }

    fn failed(
        &self,
        at: Option<usize>,
        started: Instant,
        route: &Operation,
        failure: Failure,
    ) -> Response<Body> {
        self.0.metrics.answered(at, failure.problem().status, started.elapsed());
        let old = route.takes.accepts == operation::Accepts::Romana2;
        self.stamp(if old { romana2::error(&failure) } else { failure.into_response() })
    }

    /// Answers a request that matches no route.
    fn rejected(&self, failure: Failure) -> Response<Body> {
        self.0.metrics.answered(None, failure.problem().status, Duration::ZERO);
        self.stamp(failure.into_response())
    }

    /// The header lines for answers that the connection itself sends. Counts each such answer.
    pub(crate) fn stamp_lines(&self) -> Stamp {
        let api = self.clone();
        Arc::new(move |failure| {
            api.0.metrics.answered(None, failure.problem().status, Duration::ZERO);
            let revision = api.0.replica.with_state(romana_statemachine::State::revision);
            let cluster = api.0.replica.cluster_id();
            format!("x-romana-revision: {revision}\r\nx-romana-cluster: {cluster}\r\n")
        })
    }

    fn stamp(&self, mut response: Response<Body>) -> Response<Body> {
        let revision = self.0.replica.with_state(romana_statemachine::State::revision);
        response.headers_mut().insert(REVISION_HEADER, HeaderValue::from(revision.get()));
        response.headers_mut().insert(CLUSTER_HEADER, self.0.cluster.clone());
        response
    }
}

/// The cluster id header for every answer. The id consists of hexadecimal digits.
fn cluster_header(replica: &Replica) -> HeaderValue {
    HeaderValue::from_str(&replica.cluster_id()).unwrap_or(HeaderValue::from_static("-"))
}

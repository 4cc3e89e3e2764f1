//! Names outside our zones: asked of upstreams, and kept.
//!
//! ```text
//!   question ──► cache ──► the same question under way? ──► upstreams in turn ──► cache
//!                  └── stale, if no upstream answers (RFC 8767)
//! ```
//! Names in a stub domain are asked of its own upstreams, and of no others: of several such domains the longest counts.
//!
//! Answers are not validated. Those of upstreams that validate pass with their signatures as they are, and are kept
//! apart from those to questions without DO, or with CD (RFC 4035, section 3.2; RFC 6840, section 5).

pub mod cache;
pub mod exchange;
pub mod upstream;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{LowerName, Name, RecordType};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use cache::{Cache, Key, Kind, Lookup};
use exchange::Request;
use upstream::{Upstream, order};

/// Time for one attempt, and for all of them: less than the five seconds after which resolvers ask again.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1_500);
const TOTAL_TIMEOUT: Duration = Duration::from_millis(4_500);
/// Attempts, if there are fewer upstreams.
const ATTEMPTS: usize = 3;
/// Most different questions under way.
const FLYING_MAX: usize = 10_000;
/// Interval of questions to upstreams that are down.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// An answer on its way; `None`: no upstream has answered.
type Flying = Shared<BoxFuture<'static, Option<Arc<Message>>>>;

/// A zone of others, whose names are asked of servers of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StubDomain {
    pub zone: LowerName,
    pub upstreams: Vec<SocketAddr>,
}

/// Who is asked for the names of a zone, by their places among all upstreams.
#[derive(Debug)]
struct Route {
    zone: LowerName,
    upstreams: Vec<usize>,
}

/// Forwards questions.
#[derive(Debug)]
pub struct Forwarder {
    /// All upstreams: one of several zones is here once.
    upstreams: Vec<Upstream>,
    /// The longest zones first; the last one is the root.
    routes: Vec<Route>,
    cache: Mutex<Cache>,
    flying: Mutex<HashMap<Key, Flying>>,
    turn: AtomicUsize,
    random_case: bool,
    metrics: Arc<Metrics>,
}

impl Forwarder {
    /// A forwarder to these upstreams, and to those of stub domains, with a cache for so many answers.
    #[must_use]
    pub fn new(
        upstreams: &[SocketAddr],
        stubs: &[StubDomain],
        cache: usize,
        random_case: bool,
        metrics: Arc<Metrics>,
    ) -> Self {
        let mut all: Vec<Upstream> = Vec::new();
        let mut routes = Vec::new();
        let others = StubDomain { zone: Name::root().into(), upstreams: upstreams.to_vec() };
        for StubDomain { zone, upstreams } in [&others].into_iter().chain(stubs) {
            let mut places = Vec::new();
            for address in upstreams {
                let known = all.iter().position(|one| one.address == *address);
                places.push(known.unwrap_or_else(|| {
                    all.push(Upstream::new(*address));
                    all.len() - 1
                }));
            }
            routes.push(Route { zone: zone.clone(), upstreams: places });
        }
        routes.sort_by_key(|route| Reverse(route.zone.num_labels()));
        Self {
            upstreams: all,
            routes,
            cache: Mutex::new(Cache::new(cache)),
            flying: Mutex::default(),
            turn: AtomicUsize::new(0),
            random_case,
            metrics,
        }
    }

    /// Addresses of the upstreams, and whether they answer.
    pub fn upstreams(&self) -> impl Iterator<Item = (SocketAddr, bool)> {
        self.upstreams.iter().map(|upstream| (upstream.address, upstream.is_up()))
    }

    /// Stub domains none of whose upstreams answers.
    pub fn silent(&self) -> impl Iterator<Item = &LowerName> {
        let stubs = self.routes.iter().filter(|route| !route.zone.is_root());
        let silent = stubs.filter(move |route| self.of(route).all(|upstream| !upstream.is_up()));
        silent.map(|route| &route.zone)
    }

    /// Whether no upstream answers for names outside stub domains, although there are some.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        let others = self.routes.iter().find(|route| route.zone.is_root());
        others.is_some_and(|route| {
            !route.upstreams.is_empty() && self.of(route).all(|upstream| !upstream.is_up())
        })
    }

    /// Whether there is anybody to ask for a name.
    #[must_use]
    pub fn serves(&self, name: &LowerName) -> bool {
        self.route(name).is_some_and(|route| !route.upstreams.is_empty())
    }

    fn route(&self, name: &LowerName) -> Option<&Route> {
        self.routes.iter().find(|route| route.zone.zone_of(name))
    }

    fn of(&self, route: &Route) -> impl Iterator<Item = &Upstream> {
        route.upstreams.iter().filter_map(move |at| self.upstreams.get(*at))
    }

    /// The upstreams for a name.
    fn asked(&self, name: &LowerName) -> Vec<&Upstream> {
        self.route(name).into_iter().flat_map(|route| self.of(route)).collect()
    }

    /// Number of answers in the cache.
    #[must_use]
    pub fn cached(&self) -> usize {
        lock(&self.cache).len()
    }

    /// Looks an answer up in the cache, without asking.
    #[must_use]
    pub fn known(&self, key: &Key) -> Option<Message> {
        match lock(&self.cache).get(key, Instant::now()) {
            Lookup::Fresh(message, kind) => {
                self.metrics.cache_hit(kind == Kind::Success);
                Some(message)
            }
            _ => None,
        }
    }

    /// Resolves a question that is not in the cache; `None`: no upstream answers, and nothing stale is known.
    pub async fn resolve(self: &Arc<Self>, key: Key) -> Option<Message> {
        self.metrics.cache_miss();
        // None is up: what is known is answered at once, rather than after all time-outs.
        if !self.asked(&key.name).into_iter().any(Upstream::is_up)
            && let Some(stale) = self.stale(&key)
        {
            return Some(stale);
        }
        let answer = self.fly(&key)?.await;
        if let Some(answer) = answer.as_deref().filter(|answer| is_useful(answer)) {
            return Some(answer.clone());
        }
        self.stale(&key).or_else(|| answer.map(|answer| (*answer).clone()))
    }

    fn stale(&self, key: &Key) -> Option<Message> {
        let Lookup::Stale(message) = lock(&self.cache).get(key, Instant::now()) else {
            return None;
        };
        self.metrics.served_stale();
        Some(message)
    }

    /// The answer on its way, asked for now if it is not yet. `None`: too many are under way.
    fn fly(self: &Arc<Self>, key: &Key) -> Option<Flying> {
        let mut flying = lock(&self.flying);
        if let Some(same) = flying.get(key) {
            return Some(same.clone());
        }
        // It may have come since the caller looked: answers are kept before they are no longer under way.
        if let Lookup::Fresh(message, _) = lock(&self.cache).get(key, Instant::now()) {
            return Some(std::future::ready(Some(Arc::new(message))).boxed().shared());
        }
        if flying.len() >= FLYING_MAX {
            return None;
        }
        let (this, asked) = (Arc::clone(self), key.clone());
        // A task of its own: it goes on if the client that asked first does not wait.
        let task = tokio::spawn(async move {
            let answer = timeout(TOTAL_TIMEOUT, this.ask(&asked)).await.ok().flatten();
            let answer = answer.map(Arc::new);
            let kept = answer.clone().unwrap_or_else(|| Arc::new(failure()));
            lock(&this.cache).insert(asked.clone(), kept, Instant::now());
            lock(&this.flying).remove(&asked);
            answer
        });
        let answer = async { task.await.ok().flatten() }.boxed().shared();
        flying.insert(key.clone(), answer.clone());
        Some(answer)
    }

    /// Asks the upstreams, one after the other, until one has a useful answer.
    async fn ask(&self, key: &Key) -> Option<Message> {
        let upstreams = self.asked(&key.name);
        let up: Vec<bool> = upstreams.iter().map(|upstream| upstream.is_up()).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut last = None;
        for at in order(&up, turn, ATTEMPTS) {
            let upstream = upstreams[at];
            let request = Request::new(key, self.random_case)?;
            match self.attempt(upstream, &request).await {
                Some(answer) if is_useful(&answer) => return Some(answer),
                Some(answer) => last = Some(answer),
                None => {}
            }
        }
        last
    }

    async fn attempt(&self, upstream: &Upstream, request: &Request) -> Option<Message> {
        let begun = Instant::now();
        let answer = match timeout(ATTEMPT_TIMEOUT, exchange::ask(upstream.address, request)).await
        {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                tracing::debug!(upstream = %upstream.address, %error, "upstream does not answer");
                None
            }
            Err(_) => None,
        };
        let code = answer.as_ref().map(|answer| answer.metadata.response_code);
        self.metrics.forwarded(upstream.address, code, begun.elapsed());
        match &answer {
            Some(_) => {
                if upstream.answered() {
                    tracing::info!(upstream = %upstream.address, "upstream answers again");
                }
            }
            None => {
                if upstream.failed() {
                    tracing::warn!(upstream = %upstream.address, "upstream is down");
                }
            }
        }
        answer
    }

    /// Asks upstreams that are down whether they answer again, until `stop`.
    pub async fn check(self: Arc<Self>, stop: CancellationToken) {
        let root = LowerName::from(Name::root());
        let key = Key { name: root, kind: RecordType::NS, dnssec: false, unchecked: false };
        while !stop.is_cancelled() {
            for upstream in self.upstreams.iter().filter(|upstream| !upstream.is_up()) {
                let Some(request) = Request::new(&key, false) else { continue };
                tokio::select! {
                    () = stop.cancelled() => return,
                    answer = self.attempt(upstream, &request) => {
                        if answer.is_none() {
                            self.metrics.check_failed(upstream.address);
                        }
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(CHECK_EVERY) => {}
            }
        }
    }
}

/// Whether an answer says something about the name, rather than about the server.
fn is_useful(answer: &Message) -> bool {
    matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
}

/// What is kept when no upstream answers, so that not every client waits for all of them.
fn failure() -> Message {
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    message.metadata.response_code = ResponseCode::ServFail;
    message
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

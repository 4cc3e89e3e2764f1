//! The server: from a packet to its answer.
//!
//! ```text
//!   UDP, TCP ──► rate limit ──► wire::read ──► Zone::answer ───────────────────────────► encode
//!                                                 └── not ours, may recurse: Forwarder ──┘
//! ```

pub mod limit;
pub mod tcp;
pub mod udp;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{LowerName, Name};
use ipnet::IpNet;
use romana_client::mirror::Seen;
use tokio::sync::watch;

use crate::forward::Forwarder;
use crate::forward::cache::Key;
use crate::metrics::{Dropped, Metrics, Transport};
use crate::names::Names;
use crate::wire::{self, Question, Request};
use crate::zone::{Answer, Outcome, Pods, Services, Settings, Zone};
use limit::Limiter;

/// Everything that an answer depends on.
#[derive(Debug)]
pub struct Server {
    pub settings: Settings,
    /// Services of Kubernetes; `None`: they are not followed.
    pub services: Option<watch::Receiver<Option<Services>>>,
    /// Romana's feed; `None`: it is not followed.
    pub feed: Option<watch::Receiver<Seen<Names>>>,
    /// Where other names are asked; `None`: nowhere.
    pub forwarder: Option<Arc<Forwarder>>,
    /// Networks whose clients may ask for other names, besides Romana's.
    pub allow: Vec<IpNet>,
    pub limiter: Mutex<Limiter>,
    pub metrics: Arc<Metrics>,
    pub turn: AtomicUsize,
}

/// What becomes of a packet.
#[derive(Debug)]
pub enum Step {
    /// Send this.
    Reply(Vec<u8>),
    /// Send nothing.
    Nothing,
    /// Ask upstreams first ([`Server::finish`]).
    Ask(Box<Pending>),
}

/// A question that waits for upstreams.
#[derive(Debug)]
pub struct Pending {
    question: Question,
    key: Key,
    /// The part of the answer that is known: aliases of ours.
    begun: Option<Answer>,
    at: Instant,
    /// The most bytes that the answer may have.
    max: u16,
}

impl Server {
    /// Answers a packet, as far as that needs no waiting.
    #[must_use]
    pub fn begin(&self, packet: &[u8], client: SocketAddr, transport: Transport) -> Step {
        let at = Instant::now();
        if !self.allows(client.ip(), at) {
            self.metrics.dropped(Dropped::RateLimit);
            return Step::Nothing;
        }
        let question = match wire::read(packet) {
            Request::Question(question) => *question,
            Request::Reply(bytes) => return Step::Reply(bytes),
            Request::Nothing => {
                self.metrics.dropped(Dropped::Invalid);
                return Step::Nothing;
            }
        };
        let max = match transport {
            Transport::Udp => question.udp_bytes(),
            Transport::Tcp => u16::MAX,
        };
        let recursion = self.forwarder.is_some() && self.may_recurse(client.ip());
        let outcome = self.look_up(&question);
        let ours = !matches!(outcome, Ok(Outcome::NotOurs));
        self.metrics.asked(ours, transport, client, question.kind());
        let message = match outcome {
            Err(code) => question.refusal(code, recursion),
            Ok(Outcome::Ours(answer)) => match answer.alias.clone() {
                Some(alias) if recursion && self.asks(&question, &alias) => {
                    let key = key(&question, LowerName::from(alias));
                    let pending = Pending { question, key, begun: Some(answer), at, max };
                    return self.known_or_ask(pending);
                }
                _ => question.authoritative(answer, recursion),
            },
            Ok(Outcome::NotOurs) if recursion && self.asks(&question, question.name()) => {
                let key = key(&question, LowerName::from(question.name()));
                return self.known_or_ask(Pending { question, key, begun: None, at, max });
            }
            Ok(Outcome::NotOurs) => question.refusal(ResponseCode::Refused, recursion),
        };
        self.reply(message, ours, at, max)
    }

    /// Whether upstreams are asked for a name: the client wants that, and there are some.
    fn asks(&self, question: &Question, name: &Name) -> bool {
        let forwarder = self.forwarder.as_ref().filter(|_| question.metadata.recursion_desired);
        forwarder.is_some_and(|forwarder| forwarder.serves(&LowerName::from(name)))
    }

    /// Answers what [`Server::begin`] left open.
    pub async fn finish(&self, pending: Pending) -> Step {
        let Some(forwarder) = &self.forwarder else { return Step::Nothing };
        let found = forwarder.resolve(pending.key.clone()).await;
        self.end(pending, found)
    }

    /// Answers that nothing can be asked now.
    #[must_use]
    pub fn give_up(&self, pending: Pending) -> Step {
        self.metrics.dropped(Dropped::Overload);
        self.end(pending, None)
    }

    fn known_or_ask(&self, pending: Pending) -> Step {
        let known = self.forwarder.as_ref().and_then(|forwarder| forwarder.known(&pending.key));
        match known {
            Some(message) => self.end(pending, Some(message)),
            None => Step::Ask(Box::new(pending)),
        }
    }

    fn end(&self, pending: Pending, found: Option<Message>) -> Step {
        let Pending { question, begun, at, max, .. } = pending;
        let ours = begun.is_some();
        let message = match (begun, found) {
            (_, None) => question.refusal(ResponseCode::ServFail, true),
            (None, Some(found)) => question.forwarded(&found),
            (Some(answer), Some(found)) => {
                let mut message = question.authoritative(answer, true);
                let more = question.forwarded(&found);
                message.metadata.response_code = more.metadata.response_code;
                message.answers.extend(more.answers);
                message.authorities = more.authorities;
                message
            }
        };
        self.reply(message, ours, at, max)
    }

    fn reply(&self, message: Message, ours: bool, at: Instant, max: u16) -> Step {
        self.metrics.answered(ours, message.metadata.response_code, at.elapsed());
        wire::encode(message, max).map_or(Step::Nothing, Step::Reply)
    }

    /// What our zones say; an error if they are not known yet: NXDOMAIN would be a lie.
    fn look_up(&self, question: &Question) -> Result<Outcome, ResponseCode> {
        let services = self.services.as_ref().map(watch::Receiver::borrow);
        let unknown_services = services.as_ref().is_some_and(|services| services.is_none());
        let feed = self.feed.as_ref().map(watch::Receiver::borrow);
        let unknown_names = feed.as_ref().is_some_and(|feed| feed.view.is_none());
        let (no_services, no_names) = (Services::default(), Names::default());
        let zone = Zone {
            settings: &self.settings,
            services: services.as_ref().and_then(|all| all.as_ref()).unwrap_or(&no_services),
            names: feed.as_ref().and_then(|feed| feed.view.as_deref()).unwrap_or(&no_names),
            turn: self.turn.fetch_add(1, Ordering::Relaxed),
        };
        let outcome = zone.answer(question.name(), question.kind());
        match &outcome {
            Outcome::Ours(_) if unknown_services => Err(ResponseCode::ServFail),
            Outcome::Ours(answer)
                if unknown_names && !answer.exists && self.is_of_romana(question.name()) =>
            {
                Err(ResponseCode::ServFail)
            }
            _ => Ok(outcome),
        }
    }

    /// Whether a name is one that only Romana's feed knows.
    fn is_of_romana(&self, name: &Name) -> bool {
        let first = name.iter().rev().nth(self.settings.zone.iter().count());
        let is =
            |what: &str| first.is_some_and(|label| label.eq_ignore_ascii_case(what.as_bytes()));
        is("vip") || is("endpoint") || (is("pod") && self.settings.pods == Pods::Verified)
    }

    /// Whether the main source has said something, now or in an earlier run. A cluster that cannot reach the control plane
    /// still needs the names of its Services.
    #[must_use]
    pub fn knows_its_zones(&self) -> bool {
        match (&self.services, &self.feed) {
            (Some(services), _) => services.borrow().is_some(),
            (None, Some(feed)) => feed.borrow().view.is_some(),
            (None, None) => true,
        }
    }

    fn may_recurse(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        let within = |networks: &[IpNet]| networks.iter().any(|one| one.contains(&client));
        let view = || self.feed.as_ref().and_then(|feed| feed.borrow().view.clone());
        within(&self.allow) || view().is_some_and(|names| within(names.networks()))
    }

    fn allows(&self, client: IpAddr, now: Instant) -> bool {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner).allows(client, now)
    }
}

fn key(question: &Question, name: LowerName) -> Key {
    Key {
        name,
        kind: question.kind(),
        dnssec: question.wants_dnssec(),
        unchecked: question.metadata.checking_disabled,
    }
}

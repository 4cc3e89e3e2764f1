//! Metrics: under the names of CoreDNS where the meaning is the same, so that its dashboards and alerts fit.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Buckets of durations, seconds: those of CoreDNS.
const BUCKETS: [f64; 16] = [
    0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024,
    2.048, 4.096, 8.192,
];
/// Types of records that have a label of their own; others share one, as clients can ask for 65536.
const TYPES: [RecordType; 12] = [
    RecordType::A,
    RecordType::AAAA,
    RecordType::CNAME,
    RecordType::HTTPS,
    RecordType::MX,
    RecordType::NS,
    RecordType::PTR,
    RecordType::SOA,
    RecordType::SRV,
    RecordType::SVCB,
    RecordType::TXT,
    RecordType::ANY,
];

/// Transport of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    const fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// Why a request was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Its client asks too much.
    RateLimit,
    /// Too many are waiting for upstreams.
    Overload,
    /// The packet is no request.
    Invalid,
    /// Too many connections.
    Connections,
}

impl Dropped {
    const fn label(self) -> &'static str {
        match self {
            Self::RateLimit => "rate_limit",
            Self::Overload => "overload",
            Self::Invalid => "invalid",
            Self::Connections => "connections",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    zone: &'static str,
    proto: &'static str,
    family: &'static str,
    r#type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    zone: &'static str,
    rcode: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfZone {
    zone: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfType {
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct To {
    to: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct From {
    to: String,
    rcode: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Because {
    reason: &'static str,
}

/// Counters of the server, from its start.
#[derive(Debug)]
pub struct Metrics {
    requests: Family<Asked, Counter>,
    responses: Family<Answered, Counter>,
    durations: Family<OfZone, Histogram>,
    hits: Family<OfType, Counter>,
    misses: Counter,
    stale: Counter,
    forwards: Family<To, Counter>,
    forward_answers: Family<From, Counter>,
    forward_durations: Family<To, Histogram>,
    failed_checks: Family<To, Counter>,
    dropped: Family<Because, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        Self {
            requests: Family::default(),
            responses: Family::default(),
            durations: Family::new_with_constructor(histogram),
            hits: Family::default(),
            misses: Counter::default(),
            stale: Counter::default(),
            forwards: Family::default(),
            forward_answers: Family::default(),
            forward_durations: Family::new_with_constructor(histogram),
            failed_checks: Family::default(),
            dropped: Family::default(),
        }
    }
}

/// The label of the zone: ours, or everything else.
const fn zone(ours: bool) -> &'static str {
    if ours { "cluster" } else { "." }
}

impl Metrics {
    /// A question was answered.
    pub fn answered(&self, ours: bool, code: ResponseCode, took: Duration) {
        let zone = zone(ours);
        self.responses.get_or_create(&Answered { zone, rcode: rcode(code) }).inc();
        self.durations.get_or_create(&OfZone { zone }).observe(took.as_secs_f64());
    }

    /// A question arrived.
    pub fn asked(&self, ours: bool, transport: Transport, client: SocketAddr, kind: RecordType) {
        let r#type = if TYPES.contains(&kind) { kind.to_string() } else { String::from("other") };
        let family = if client.ip().to_canonical().is_ipv4() { "1" } else { "2" };
        let asked = Asked { zone: zone(ours), proto: transport.label(), family, r#type };
        self.requests.get_or_create(&asked).inc();
    }

    /// A request was dropped.
    pub fn dropped(&self, reason: Dropped) {
        self.dropped.get_or_create(&Because { reason: reason.label() }).inc();
    }

    /// The cache had an answer.
    pub fn cache_hit(&self, success: bool) {
        let r#type = if success { "success" } else { "denial" };
        self.hits.get_or_create(&OfType { r#type }).inc();
    }

    /// The cache had none.
    pub fn cache_miss(&self) {
        self.misses.inc();
    }

    /// An answer was served after its end.
    pub fn served_stale(&self) {
        self.stale.inc();
    }

    /// An upstream was asked; `None`: it has not answered.
    pub fn forwarded(&self, to: SocketAddr, code: Option<ResponseCode>, took: Duration) {
        let to = To { to: to.to_string() };
        self.forwards.get_or_create(&to).inc();
        if let Some(code) = code {
            let from = From { to: to.to.clone(), rcode: rcode(code) };
            self.forward_answers.get_or_create(&from).inc();
            self.forward_durations.get_or_create(&to).observe(took.as_secs_f64());
        }
    }

    /// An upstream that is down has not answered a check.
    pub fn check_failed(&self, to: SocketAddr) {
        self.failed_checks.get_or_create(&To { to: to.to_string() }).inc();
    }

    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Questions, by zone, transport, address family and type";
        registry.register("coredns_dns_requests", help, self.requests.clone());
        let help = "Answers, by zone and code";
        registry.register("coredns_dns_responses", help, self.responses.clone());
        let help = "Time from a question to its answer";
        registry.register("coredns_dns_request_duration_seconds", help, self.durations.clone());
        registry.register("coredns_cache_hits", "Answers from the cache", self.hits.clone());
        let help = "Questions that the cache had no answer to";
        registry.register("coredns_cache_misses", help, self.misses.clone());
        let help = "Answers served after their end, because no upstream answered";
        registry.register("coredns_cache_served_stale", help, self.stale.clone());
        let help = "Questions to an upstream";
        registry.register("coredns_forward_requests", help, self.forwards.clone());
        let help = "Answers of an upstream, by code";
        registry.register("coredns_forward_responses", help, self.forward_answers.clone());
        let help = "Time until an upstream answered";
        let durations = self.forward_durations.clone();
        registry.register("coredns_forward_request_duration_seconds", help, durations);
        let help = "Checks that an upstream that is down has not answered";
        let failed = self.failed_checks.clone();
        registry.register("coredns_forward_healthcheck_failures", help, failed);
        let help = "Requests without an answer, by reason";
        registry.register("romana_dns_dropped", help, self.dropped.clone());
    }
}

/// A code as CoreDNS writes it.
fn rcode(code: ResponseCode) -> String {
    match code {
        ResponseCode::NoError => "NOERROR".into(),
        ResponseCode::NXDomain => "NXDOMAIN".into(),
        ResponseCode::ServFail => "SERVFAIL".into(),
        ResponseCode::FormErr => "FORMERR".into(),
        ResponseCode::NotImp => "NOTIMP".into(),
        ResponseCode::Refused => "REFUSED".into(),
        other => u16::from(other).to_string(),
    }
}

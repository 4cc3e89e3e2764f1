//! `/healthz`, `/readyz`, `/status` and `/metrics`.

use std::sync::Arc;

use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use romana_daemon::probe::{Probe, gauge};
use romana_daemon::problems::Problems;
use serde::Serialize;

use crate::serve::Server;
use crate::source;

/// The server's probe.
#[derive(Debug)]
pub struct DnsProbe {
    pub server: Arc<Server>,
    pub status: Arc<source::Status>,
    pub problems: Problems,
}

/// The document at `/status`.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    program: &'static str,
    version: &'static str,
    /// Whether questions about our zones are answered, however old the data are.
    ready: bool,
    zone: String,
    /// `None`: not followed.
    kubernetes: Option<Kubernetes>,
    feed: Option<Feed>,
    upstreams: Vec<Upstream>,
    problems: Vec<String>,
}

/// What is known of Kubernetes.
#[derive(Clone, Debug, Serialize)]
pub struct Kubernetes {
    /// Whether the API server is followed now.
    follows: bool,
    services: usize,
    /// Milliseconds since it last said something; `None`: not since the start.
    silence_ms: Option<u64>,
    lists: u64,
    failures: u64,
}

/// What is known from Romana's feed.
#[derive(Clone, Debug, Serialize)]
pub struct Feed {
    revision: u64,
    vips: usize,
    addresses: usize,
    /// Milliseconds since a replica was last heard; `None`: not since the start.
    silence_ms: Option<u64>,
    unknown_events: u64,
}

/// An upstream.
#[derive(Clone, Debug, Serialize)]
pub struct Upstream {
    address: String,
    up: bool,
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl DnsProbe {
    fn kubernetes(&self) -> Option<Kubernetes> {
        let services = self.server.services.as_ref()?.borrow();
        let progress = self.status.now();
        Some(Kubernetes {
            follows: progress.follows,
            services: services.as_ref().map_or(0, |services| services.count()),
            silence_ms: progress.silence().map(millis),
            lists: progress.lists,
            failures: progress.failures,
        })
    }

    fn feed(&self) -> (Option<Feed>, Option<String>) {
        let Some(feed) = &self.server.feed else { return (None, None) };
        let seen = feed.borrow();
        let view = seen.view.as_deref();
        let feed = Feed {
            revision: view.map_or(0, |names| romana_client::mirror::View::revision(names).get()),
            vips: view.map_or(0, |names| names.vip_count()),
            addresses: view.map_or(0, |names| names.address_count()),
            silence_ms: seen.heard.map(|heard| millis(heard.elapsed())),
            unknown_events: seen.unknown,
        };
        let problem = seen.stranded.clone().or_else(|| seen.trouble.clone());
        (Some(feed), problem.map(|why| format!("Romana's feed is not followed: {why}")))
    }
}

impl Probe for DnsProbe {
    type Status = Status;

    fn prefix(&self) -> &'static str {
        // Metrics have whole names: most of them are CoreDNS'.
        ""
    }

    fn status(&self) -> Status {
        let (feed, trouble) = self.feed();
        let upstreams = self.server.forwarder.iter().flat_map(|forwarder| forwarder.upstreams());
        let upstreams: Vec<Upstream> =
            upstreams.map(|(address, up)| Upstream { address: address.to_string(), up }).collect();
        let mut problems = self.problems.all();
        problems.extend(trouble);
        if self.server.forwarder.as_ref().is_some_and(|forwarder| forwarder.is_silent()) {
            let what = "no upstream answers: only our own names and stub domains are resolved";
            problems.push(what.into());
        }
        let silent = self.server.forwarder.iter().flat_map(|forwarder| forwarder.silent());
        problems.extend(silent.map(|zone| format!("no upstream of stub domain {zone} answers")));
        Status {
            program: "romana-dns",
            version: env!("CARGO_PKG_VERSION"),
            ready: self.server.knows_its_zones(),
            zone: self.server.settings.zone.to_string(),
            kubernetes: self.kubernetes(),
            feed,
            upstreams,
            problems,
        }
    }

    fn is_ready(&self, status: &Status) -> bool {
        status.ready
    }

    fn text(&self, status: &Status) -> String {
        let Status { program, version, ready, problems, .. } = status;
        let ready = if *ready { "ready" } else { "not ready: its zones are not known yet" };
        let lines = problems.iter().map(|problem| format!("problem     {problem}\n"));
        format!("{program} {version}: {ready}\n") + &lines.collect::<String>()
    }

    async fn metrics(&self, status: &Status, registry: &mut Registry) {
        self.server.metrics.register(registry);
        if let Some(forwarder) = &self.server.forwarder {
            gauge(registry, "coredns_cache_entries", "Answers kept", forwarder.cached() as u64);
        }
        let mut number = |name: &str, help: &str, value: u64| {
            gauge(registry, &format!("romana_dns_{name}"), help, value);
        };
        let help = "Whether questions about our zones are answered";
        number("ready", help, u64::from(status.ready));
        number("problems", "Problems that are reported", status.problems.len() as u64);
        let down = status.upstreams.iter().filter(|upstream| !upstream.up).count();
        number("upstreams_down", "Upstreams that do not answer", down as u64);
        if let Some(kubernetes) = &status.kubernetes {
            let help = "Whether the Kubernetes API server is followed (1) or has been lost (0)";
            number("kubernetes_follows", help, u64::from(kubernetes.follows));
            number("services", "Services of Kubernetes", kubernetes.services as u64);
        }
        if let Some(feed) = &status.feed {
            number("feed_revision", "The revision that VIPs and endpoints are of", feed.revision);
            number("vips", "VIPs of Romana", feed.vips as u64);
        }
        let mut silence = |of: &str, ms: Option<u64>| {
            if let Some(ms) = ms {
                let name = format!("romana_dns_{of}_seconds");
                let help = "Time since the source was last heard";
                registry.register(name, help, ConstGauge::new(ms as f64 / 1e3));
            }
        };
        silence("kubernetes_silence", status.kubernetes.as_ref().and_then(|one| one.silence_ms));
        silence("feed_silence", status.feed.as_ref().and_then(|feed| feed.silence_ms));
        if let Some(kubernetes) = &status.kubernetes {
            let help = "Sessions with the API server that failed";
            let failures = ConstCounter::new(kubernetes.failures);
            registry.register("romana_dns_kubernetes_failures", help, failures);
        }
    }
}

//! How far the listener has come, as metrics.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

use super::object::Kind;

/// Buckets of the time from a change's arrival to its commit, seconds.
const LAG_BUCKETS: [f64; 11] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// What a listener has seen: written by it, read at each scrape.
#[derive(Debug)]
pub struct Status {
    inner: Mutex<Inner>,
    lag: Histogram,
}

#[derive(Debug, Default)]
struct Inner {
    /// While the listener runs on this replica.
    running: Option<Running>,
    lists: u64,
    failures: u64,
    events: u64,
}

#[derive(Debug)]
struct Running {
    /// Whether watches are open.
    follows: bool,
    /// The last answer or event of the API server, at first the start.
    contact: Instant,
    slices: bool,
    objects: Vec<(Kind, usize)>,
    problems: usize,
    /// Objects that are not withdrawn before an operator, or another list, confirms it.
    held: usize,
}

impl Default for Status {
    fn default() -> Self {
        Self { inner: Mutex::default(), lag: Histogram::new(LAG_BUCKETS) }
    }
}

impl Status {
    /// Marks the listener as running until the guard is dropped.
    #[must_use]
    pub fn begin(&self) -> RunningGuard<'_> {
        let (objects, contact) = (Vec::new(), Instant::now());
        let running =
            Running { follows: false, contact, slices: true, objects, problems: 0, held: 0 };
        self.inner().running = Some(running);
        RunningGuard(self)
    }

    /// Time since the last answer or event of the API server, while the listener runs.
    #[must_use]
    pub fn silence(&self) -> Option<Duration> {
        self.inner().running.as_ref().map(|running| running.contact.elapsed())
    }

    /// Records the number of objects of each kind.
    pub fn objects(&self, objects: impl IntoIterator<Item = (Kind, usize)>) {
        let objects = objects.into_iter().collect();
        self.running(|running| running.objects = objects);
    }

    /// Records the number of problems with objects.
    pub fn problems(&self, problems: usize) {
        self.running(|running| running.problems = problems);
    }

    /// Records the number of objects that are held back.
    pub fn held(&self, held: usize) {
        self.running(|running| running.held = held);
    }

    /// Records the time from a change's arrival to its commit.
    pub fn lag(&self, lag: Duration) {
        self.lag.observe(lag.as_secs_f64());
    }

    /// Records an Event that was written.
    pub fn event(&self) {
        self.inner().events += 1;
    }

    pub(super) fn contact(&self) {
        self.running(|running| running.contact = Instant::now());
    }

    pub(super) fn connected(&self, slices: bool) {
        self.running(|running| (running.contact, running.slices) = (Instant::now(), slices));
    }

    pub(super) fn followed(&self) {
        self.inner().lists += 1;
        self.running(|running| running.follows = true);
    }

    pub(super) fn failed(&self) {
        self.inner().failures += 1;
        self.running(|running| running.follows = false);
    }

    fn running(&self, change: impl FnOnce(&mut Running)) {
        if let Some(running) = &mut self.inner().running {
            change(running);
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Status::begin`].
#[derive(Debug)]
pub struct RunningGuard<'a>(&'a Status);

impl Drop for RunningGuard<'_> {
    fn drop(&mut self) {
        self.0.inner().running = None;
    }
}

impl Collector for Status {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let inner = self.inner();
        for (name, help, count) in [
            ("kubernetes_lists", "Complete lists of the API server's objects", inner.lists),
            ("kubernetes_failures", "Sessions with the API server that failed", inner.failures),
            ("kubernetes_events", "Kubernetes Events written", inner.events),
        ] {
            let counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(count).encode(counter)?;
        }
        let help = "Time from a change's arrival to its commit";
        let lag = encoder.encode_descriptor(
            "kubernetes_lag",
            help,
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        self.lag.encode(lag)?;
        match &inner.running {
            Some(running) => running.encode(&mut encoder),
            None => Ok(()),
        }
    }
}

impl Running {
    fn encode(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: f64| {
            let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(gauge)
        };
        let flag = |is: bool| f64::from(u8::from(is));
        let help = "Whether this replica follows the Kubernetes API server (1) or has lost it (0)";
        gauge("kubernetes_follows", help, flag(self.follows))?;
        let help = "Time since the last answer or event of the API server";
        gauge("kubernetes_silence_seconds", help, self.contact.elapsed().as_secs_f64())?;
        let help = "Whether the API server has EndpointSlices (1) or Endpoints only (0)";
        gauge("kubernetes_endpoint_slices", help, flag(self.slices))?;
        let help = "Objects of Kubernetes that are not honoured, or not completely";
        gauge("kubernetes_problems", help, self.problems as f64)?;
        let help = "Objects that Kubernetes does not list and that are not withdrawn before that is confirmed";
        gauge("kubernetes_held", help, self.held as f64)?;
        let help = "Objects that are followed, by resource";
        let mut objects =
            encoder.encode_descriptor("kubernetes_objects", help, None, MetricType::Gauge)?;
        for (kind, count) in &self.objects {
            let labels = [("resource", kind.plural())];
            ConstGauge::new(*count as f64).encode(objects.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

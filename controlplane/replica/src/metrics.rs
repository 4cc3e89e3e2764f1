//! What a replica counts and measures; whoever serves metrics registers it.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

/// Upper bounds of the buckets for whole requests, and what else takes as long, seconds.
pub const DURATION_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Upper bounds of the buckets for what the disk takes, seconds.
const DISK_BUCKETS: [f64; 14] =
    [0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.25, 0.5, 1.0, 5.0];

/// What the replica's disk takes. Clones share it.
#[derive(Clone, Debug)]
pub struct DiskTimes {
    /// Making a group of the log durable.
    pub wal_sync: Histogram,
    /// Writing a snapshot.
    pub snapshot: Histogram,
}

impl Default for DiskTimes {
    fn default() -> Self {
        Self { wal_sync: Histogram::new(DISK_BUCKETS), snapshot: Histogram::new(DURATION_BUCKETS) }
    }
}

/// Why something that came from another replica, or from whoever says so, was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[non_exhaustive]
pub enum PeerRefusal {
    /// Bytes that are no message.
    Garbage,
    /// A number that no replica of this cluster can have reached, or entries that do not follow each other.
    Implausible,
    /// It belongs to another cluster, or is no member.
    Stranger,
}

/// Why something was refused, as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerLabels {
    reason: PeerRefusal,
}

/// What was refused of what other replicas sent. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct PeerRefusals(Family<PeerLabels, Counter>);

impl PeerRefusals {
    /// One more.
    pub fn count(&self, reason: PeerRefusal) {
        self.0.get_or_create(&PeerLabels { reason }).inc();
    }

    /// The counters, for a registry.
    #[must_use]
    pub fn family(&self) -> Family<PeerLabels, Counter> {
        self.0.clone()
    }

    /// How many there were.
    #[must_use]
    pub fn counted(&self, reason: PeerRefusal) -> u64 {
        self.0.get_or_create(&PeerLabels { reason }).get()
    }
}

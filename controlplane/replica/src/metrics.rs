//! Metrics of a replica; the server registers them.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

/// Upper bounds of the histogram buckets for requests and operations of similar duration, in seconds.
pub const DURATION_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Upper bounds of the histogram buckets for disk operations, in seconds.
const DISK_BUCKETS: [f64; 14] =
    [0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.25, 0.5, 1.0, 5.0];

/// Disk latencies of a replica. Clones share them.
#[derive(Clone, Debug)]
pub struct DiskTimes {
    /// Duration of a group's fsync in the log.
    pub wal_sync: Histogram,
    /// Duration of writing a snapshot.
    pub snapshot: Histogram,
}

impl Default for DiskTimes {
    fn default() -> Self {
        Self { wal_sync: Histogram::new(DISK_BUCKETS), snapshot: Histogram::new(DURATION_BUCKETS) }
    }
}

/// Why a message from a peer, or from an unauthenticated sender, was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[non_exhaustive]
pub enum PeerRefusal {
    /// Bytes that do not parse as a message.
    Garbage,
    /// A number that no replica of this cluster can have reached, or entries that are not consecutive.
    Implausible,
    /// The sender belongs to another cluster, or is not a member.
    Stranger,
}

/// The reason as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerLabels {
    reason: PeerRefusal,
}

/// Counters of refused peer messages. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct PeerRefusals(Family<PeerLabels, Counter>);

impl PeerRefusals {
    /// Counts one refusal.
    pub fn count(&self, reason: PeerRefusal) {
        self.0.get_or_create(&PeerLabels { reason }).inc();
    }

    /// The counters, for registration.
    #[must_use]
    pub fn family(&self) -> Family<PeerLabels, Counter> {
        self.0.clone()
    }

    /// The number of refusals for a reason.
    #[must_use]
    pub fn counted(&self, reason: PeerRefusal) -> u64 {
        self.0.get_or_create(&PeerLabels { reason }).get()
    }
}

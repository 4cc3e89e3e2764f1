//! The agent's HTTP endpoints: `/healthz`, `/readyz`, `/status` and `/metrics`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::{ConstCounter, Counter as PromCounter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use romana_daemon::probe::{Probe, gauge};

use crate::policy::PolicyStatus;
use crate::policy::counters::{Counter, counters};
use crate::policy::packet_filter::PacketFilter;
use crate::status::{Status, StatusSources};
use crate::vips::status::VipsStatus;

/// The agent's probe.
pub struct AgentProbe {
    /// State of the parts.
    pub sources: StatusSources,
    /// Source of the policy counters.
    pub filter: PacketFilter,
}

impl Probe for AgentProbe {
    type Status = Status;

    fn prefix(&self) -> &'static str {
        "romana_agent"
    }

    fn status(&self) -> Status {
        self.sources.now()
    }

    /// Ready: the kernel agrees with the view, however old that is, and containers can be attached.
    fn is_ready(&self, status: &Status) -> bool {
        status.is_ready()
    }

    fn text(&self, status: &Status) -> String {
        status.text()
    }

    async fn metrics(&self, status: &Status, registry: &mut Registry) {
        register_status(registry, status);
        register_vips(registry, &status.vips);
        self.sources.problems.register(registry);
        let Some(policy) = &status.policy else { return };
        gauge_policy(registry, policy);
        match self.filter.counters().await {
            Ok(text) => register_counters(registry, counters(&text)),
            Err(error) => tracing::warn!(%error, "reading policy counters failed"),
        }
    }
}

fn register_status(registry: &mut Registry, status: &Status) {
    let mut number = |name: &str, help: &str, value: Option<u64>| {
        if let Some(value) = value {
            gauge(registry, name, help, value);
        }
    };
    number("revision", "Up to where the log was followed", status.revision.map(u64::from));
    number(
        "applied_revision",
        "The revision that the kernel agrees with",
        status.applied.map(u64::from),
    );
    number("routes", "Routes that are wanted", Some(status.routes as u64));
    number("skipped_blocks", "Blocks without a route", Some(status.skipped.len() as u64));
    number("problems", "Problems that need an operator", Some(status.problems.len() as u64));
    number(
        "ready",
        "Whether the kernel agrees with the log and containers can be attached",
        Some(u64::from(status.is_ready())),
    );
    if let Some(stale) = status.stale_ms {
        let (help, seconds) = ("Since a replica was last heard", stale as f64 / 1e3);
        registry.register_with_unit("staleness", help, Unit::Seconds, ConstGauge::new(seconds));
    }
    let writes = ConstCounter::new(status.writes);
    registry.register("netlink_writes", "Changes of routes asked of the kernel", writes);
    let unknown = ConstCounter::new(status.unknown_events);
    let help = "Events of a newer control plane that were left out";
    registry.register("unknown_events", help, unknown);
}

fn register_vips(registry: &mut Registry, vips: &VipsStatus) {
    gauge(registry, "vips", "Virtual IPs that this host answers for", vips.held.len() as u64);
    if let Some(least) = vips.held.iter().map(|held| held.left_ms).min() {
        let left = ConstGauge::new(least as f64 / 1e3);
        let help = "For how long the virtual IPs of this host are granted, the shortest";
        registry.register_with_unit("vip_grant_left", help, Unit::Seconds, left);
    }
    let mut count = |name: &str, help: &str, value: u64| {
        registry.register(name, help, ConstCounter::new(value));
    };
    count("vips_taken", "Virtual IPs that this host began to answer for", vips.taken);
    count("vips_released", "Virtual IPs that this host was told to give up", vips.released);
    let help = "Virtual IPs that this host gave up because no replica renewed their grants";
    count("vips_expired", help, vips.expired);
}

fn gauge_policy(registry: &mut Registry, policy: &PolicyStatus) {
    let number = |value: usize| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register("policies", "Policies that concern this host", number(policy.policies));
    registry.register("policy_rules", "Rules of the packet filter", number(policy.rules));
    registry.register("policy_sets", "Sets of the packet filter", number(policy.sets));
    if let Some(applied) = policy.applied {
        let applied = ConstGauge::new(i64::try_from(applied.get()).unwrap_or(i64::MAX));
        let help = "The revision whose policies are in the kernel";
        registry.register("policy_applied_revision", help, applied);
    }
    let drifts = ConstCounter::new(policy.drifts);
    let help =
        "Times that another program had changed rules or sets of ours, and they were restored";
    registry.register("policy_drifts", help, drifts);
    let seconds = ConstGauge::new(policy.took_us as f64 / 1e6);
    let help = "How long the last change took, from compiling to the kernel";
    registry.register_with_unit("policy_change", help, Unit::Seconds, seconds);
}

/// Labels of a policy's counter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPolicy {
    policy: String,
    direction: &'static str,
    verdict: &'static str,
}

fn register_counters(registry: &mut Registry, counters: Vec<Counter>) {
    let (packets, bytes) = (Family::<OfPolicy, PromCounter>::default(), Family::default());
    for Counter { policy, direction, allowed, packets: p, bytes: b } in counters {
        let verdict = if allowed { "allowed" } else { "denied" };
        let labels = OfPolicy { policy, direction, verdict };
        packets.get_or_create(&labels).inc_by(p);
        Family::<OfPolicy, PromCounter>::get_or_create(&bytes, &labels).inc_by(b);
    }
    let help = "Packets that policies were asked about; those of established connections are not";
    registry.register("policy_packets", help, packets);
    registry.register("policy_bytes", "Their bytes", bytes);
}

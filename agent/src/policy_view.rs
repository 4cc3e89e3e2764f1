//! Policies, endpoints, tenants and VIPs in a host's view.
//!
//! The maps are persistent: the view is copied on every event while readers hold the previous one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use imbl::OrdMap;
use romana_statemachine::command::Endpoint;
use romana_statemachine::name::{PolicyName, SegmentId, TenantId, VipName};
use romana_statemachine::policy::Policy;
use romana_statemachine::{Event, Labels, Record, Revision, Vip, VipHolder};
use serde::{Deserialize, Serialize};

/// Policies, endpoints, tenants and VIPs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyView {
    pub policies: OrdMap<PolicyName, Policy>,
    /// The revision at which each policy was set, as far as known; else that of the snapshot.
    #[serde(default)]
    pub revisions: OrdMap<PolicyName, Revision>,
    /// All endpoints, as a policy's peers may be on any host.
    pub endpoints: OrdMap<IpAddr, Endpoint>,
    pub tenants: OrdMap<TenantId, Tenant>,
    pub vips: OrdMap<VipName, Vip>,
}

/// A tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    pub labels: Labels,
    pub segments: BTreeMap<SegmentId, Labels>,
}

impl PolicyView {
    /// The revision at which a policy was set, as far as known.
    #[must_use]
    pub fn revision_of(&self, policy: &PolicyName) -> Revision {
        self.revisions.get(policy).copied().unwrap_or_default()
    }

    /// Takes over the policies' revisions from an earlier view, as a snapshot does not contain them.
    pub(crate) fn date(&mut self, before: Option<&Self>, revision: Revision) {
        for (name, policy) in &self.policies {
            let known = before.filter(|before| before.policies.get(name) == Some(policy));
            let since = known.map_or(revision, |before| before.revision_of(name));
            self.revisions.insert(name.clone(), since);
        }
    }

    /// Reads them from a snapshot.
    pub(crate) fn new(
        policies: Vec<Policy>,
        endpoints: Vec<Endpoint>,
        tenants: Vec<romana_api::tenant::Tenant>,
        vips: Vec<Vip>,
    ) -> Self {
        let tenant = |shown: romana_api::tenant::Tenant| {
            let segments = shown.segments.into_iter().map(|segment| (segment.id, segment.labels));
            (shown.id, Tenant { labels: shown.labels, segments: segments.collect() })
        };
        Self {
            policies: policies.into_iter().map(|policy| (policy.name.clone(), policy)).collect(),
            revisions: OrdMap::new(),
            endpoints: endpoints.into_iter().map(|endpoint| (endpoint.ip, endpoint)).collect(),
            tenants: tenants.into_iter().map(tenant).collect(),
            vips: vips.into_iter().map(|vip| (vip.name.clone(), vip)).collect(),
        }
    }

    /// Applies the next record.
    pub(crate) fn apply(&mut self, record: &Record) {
        match record.event.clone() {
            Event::PolicySet(policy) => {
                self.revisions.insert(policy.name.clone(), record.revision);
                self.policies.insert(policy.name.clone(), policy);
            }
            Event::PolicyRemoved(gone) => {
                self.revisions.remove(&gone.name);
                self.policies.remove(&gone.name);
            }
            Event::EndpointSet(endpoint) => _ = self.endpoints.insert(endpoint.ip, endpoint),
            Event::EndpointRemoved(gone) => _ = self.endpoints.remove(&gone.ip),
            Event::TenantCreated(created) => {
                self.tenants.entry(created.id).or_default().labels = created.labels;
            }
            Event::TenantDeleted(gone) => _ = self.tenants.remove(&gone.id),
            Event::SegmentCreated(segment) => {
                let tenant = self.tenants.entry(segment.tenant).or_default();
                tenant.segments.insert(segment.id, segment.labels);
            }
            Event::SegmentDeleted(gone) => {
                if let Some(tenant) = self.tenants.get_mut(&gone.tenant) {
                    tenant.segments.remove(&gone.id);
                }
            }
            Event::VipRequested(spec) => {
                let old = self.vips.get(&spec.name).cloned();
                let (holder, placement) =
                    old.map(|old| (old.holder, old.placement)).unwrap_or_default();
                let (name, ip, candidates) = (spec.name, spec.ip, spec.candidates);
                let vip = Vip { name: name.clone(), ip, candidates, holder, placement };
                self.vips.insert(name, vip);
            }
            Event::VipAssigned(assigned) => {
                let until = record.at.plus(assigned.lease_ms);
                if let Some(vip) = self.vips.get_mut(&assigned.name) {
                    vip.holder = Some(VipHolder { host: assigned.host, until });
                }
            }
            Event::VipUnassigned(gone) => {
                if let Some(vip) = self.vips.get_mut(&gone.name) {
                    vip.holder = None;
                }
            }
            Event::VipPlaced(placed) => {
                if let Some(vip) = self.vips.get_mut(&placed.name) {
                    vip.placed_by(&placed, record.revision, record.at);
                }
            }
            Event::VipRemoved(gone) => _ = self.vips.remove(&gone.name),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use romana_statemachine::{Command, Entry, Index, Millis, Position, Proposal, State, Term};

    use super::*;

    /// Applying records gives the same result as reading a snapshot of the state.
    #[test]
    fn records_and_snapshots_agree() {
        let lines = [
            r#"{"SetTopology": {"networks": [{"name": "n", "cidr": "10.0.0.0/24", "block_mask": 29}], "topologies": [{"networks": ["n"], "map": [{}]}]}}"#,
            r#"{"AddHost": {"name": "h1", "ip": "192.168.0.1"}}"#,
            r#"{"AddHost": {"name": "h2", "ip": "192.168.0.2"}}"#,
            r#"{"CreateTenant": {"id": "t", "labels": {"k": "v"}}}"#,
            r#"{"CreateTenant": {"id": "gone", "labels": {}}}"#,
            r#"{"CreateSegment": {"tenant": "t", "id": "s", "labels": {"a": "b"}}}"#,
            r#"{"CreateSegment": {"tenant": "t", "id": "gone"}}"#,
            r#"{"CreateTenant": {"id": "t", "labels": {"k": "w"}}}"#,
            r#"{"DeleteSegment": {"tenant": "t", "id": "gone"}}"#,
            r#"{"DeleteTenant": {"id": "gone"}}"#,
            r#"{"SetEndpoint": {"ip": "10.0.0.1", "tenant": "t", "segment": "s", "host": "h1", "labels": {"x": "y"}}}"#,
            r#"{"SetEndpoint": {"ip": "10.0.0.2", "tenant": "t", "segment": "s", "host": "h1"}}"#,
            r#"{"RemoveEndpoint": {"ip": "10.0.0.2"}}"#,
            r#"{"SetPolicy": {"name": "p", "applied_to": [{"Tenant": "t"}], "isolates_ingress": true, "isolates_egress": false, "ingress": []}}"#,
            r#"{"SetPolicy": {"name": "gone", "applied_to": [{"Tenant": "t"}], "isolates_ingress": true, "isolates_egress": false, "ingress": []}}"#,
            r#"{"RemovePolicy": {"name": "gone"}}"#,
            r#"{"RequestVip": {"name": "v", "ip": "192.168.0.99"}}"#,
            r#"{"AssignVip": {"name": "v", "host": "h1", "term": 1}}"#,
            r#"{"RequestVip": {"name": "v", "ip": "192.168.0.99", "candidates": ["h1"]}}"#,
            r#"{"RequestVip": {"name": "w", "ip": "192.168.0.98"}}"#,
            r#"{"AssignVip": {"name": "w", "host": "h2", "term": 1}}"#,
            r#"{"UnassignVip": {"name": "w", "term": 1}}"#,
            r#"{"RequestVip": {"name": "gone", "ip": "192.168.0.97"}}"#,
            r#"{"RemoveVip": {"name": "gone"}}"#,
            r#"{"RaiseVersion": {"version": 2}}"#,
            r#"{"RaiseVersion": {"version": 3}}"#,
            r#"{"RaiseVersion": {"version": 4}}"#,
            r#"{"PlaceVip": {"name": "v", "from": null, "to": "h1", "reason": "first", "term": 1}}"#,
            r#"{"PlaceVip": {"name": "w", "from": null, "to": "h2", "reason": "first", "term": 1}}"#,
            r#"{"ChangeSettings": {"address_reuse_delay_ms": null, "vip_lease_ms": 2000}}"#,
            r#"{"PlaceVip": {"name": "v", "from": "h1", "to": "h1", "reason": "grant_changed", "term": 1}}"#,
            r#"{"PlaceVip": {"name": "w", "from": "h2", "to": null, "reason": "holder_not_candidate", "term": 1}}"#,
        ];
        let (mut state, mut rules) = (State::new(), PolicyView::default());
        for (n, line) in (0..).zip(lines) {
            let command: Command = serde_json::from_str(line).unwrap();
            let proposals = vec![Proposal { actor: "op".into(), command }];
            let entry = Entry { at: Millis(1000 * n), proposals };
            let (outcomes, records) =
                state.apply(Position { term: Term(1), index: Index(n) }, &entry);
            assert!(outcomes[0].result.is_ok(), "{line}: {outcomes:?}");
            records.iter().for_each(|record| rules.apply(record));
        }
        let tenant = |(id, tenant)| romana_api::tenant::Tenant::new(id, tenant);
        let shown = PolicyView::new(
            state.policies().cloned().collect(),
            state.endpoints().cloned().collect(),
            state.tenants().map(tenant).collect(),
            state.vips().cloned().collect(),
        );
        let mut shown = shown;
        shown.date(Some(&rules), Revision(99));
        assert_eq!(rules, shown);
        shown.date(None, Revision(99));
        assert_eq!(shown.revision_of(&"p".into()), 99);
        assert_eq!((rules.policies.len(), rules.endpoints.len(), rules.vips.len()), (1, 1, 2));
        // Round trip, as the view is saved to disk.
        let text = serde_json::to_string(&rules).unwrap();
        assert_eq!(serde_json::from_str::<PolicyView>(&text).unwrap(), rules);
    }
}

//! Queries on a history: which records concern a subject, and who had an address when.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::command::ObjectKey;
use crate::entry::{Millis, Record, Revision};
use crate::event::{
    AddressAdopted, AddressAllocated, AddressClaimed, AddressReleased, Event, HostAdded,
    HostUpdated, ReleaseReason, Topic, VipAssigned, VipPlaced, VipUnassigned,
};
use crate::name::{Actor, AddressName, HostName, SegmentId, TenantId};

/// Something that a record concerns: the key of an index of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject<'a> {
    Ip(IpAddr),
    /// A name of an address, a policy or a VIP.
    Name(&'a str),
    Host(&'a str),
    Tenant(&'a str),
}

impl Event {
    /// Calls `tell` with each subject of the event. A topology concerns everything, and has no subject.
    pub fn subjects<'a>(&'a self, mut tell: impl FnMut(Subject<'a>)) {
        use Subject::{Host, Ip, Name, Tenant};
        match self {
            Self::HostAdded(HostAdded { name, ip, addresses, .. })
            | Self::HostUpdated(HostUpdated { name, ip, addresses, .. }) => {
                tell(Host(name.as_str()));
                tell(Ip(*ip));
                addresses.iter().for_each(|ip| tell(Ip(*ip)));
            }
            Self::HostDown(host) | Self::HostUp(host) | Self::HostDraining(host) => {
                tell(Host(host.name.as_str()));
            }
            Self::HostRemoved(host) => tell(Host(host.name.as_str())),
            Self::HostReported(reported) => tell(Host(reported.host.as_str())),
            Self::ConflictsReported(reported) => tell(Host(reported.host.as_str())),
            Self::BlockAssigned(block) => {
                tell(Host(block.host.as_str()));
                tell(Tenant(block.tenant.as_str()));
            }
            Self::BlockReleased(block) => tell(Host(block.host.as_str())),
            Self::AddressAllocated(AddressAllocated { name, ip, host, tenant, .. })
            | Self::AddressReleased(AddressReleased { name, ip, host, tenant, .. })
            | Self::AddressAdopted(AddressAdopted { name, ip, host, tenant, .. })
            | Self::AddressClaimed(AddressClaimed { name, ip, host, tenant, .. }) => {
                tell(Ip(*ip));
                tell(Name(name.as_str()));
                tell(Host(host.as_str()));
                tell(Tenant(tenant.as_str()));
                if let Self::AddressClaimed(claimed) = self {
                    tell(Name(claimed.reserve.as_str()));
                }
            }
            other => other.subjects_of_others(tell),
        }
    }

    /// The subjects of events that are not about hosts, blocks or addresses.
    fn subjects_of_others<'a>(&'a self, mut tell: impl FnMut(Subject<'a>)) {
        use Subject::{Host, Ip, Name, Tenant};
        match self {
            Self::TenantCreated(tenant) => tell(Tenant(tenant.id.as_str())),
            Self::TenantDeleted(tenant) => tell(Tenant(tenant.id.as_str())),
            Self::SegmentCreated(segment) => tell(Tenant(segment.tenant.as_str())),
            Self::SegmentDeleted(segment) => tell(Tenant(segment.tenant.as_str())),
            Self::PolicySet(policy) => tell(Name(policy.name.as_str())),
            Self::PolicyRemoved(policy) => tell(Name(policy.name.as_str())),
            Self::EndpointSet(endpoint) => {
                tell(Ip(endpoint.ip));
                tell(Host(endpoint.host.as_str()));
                tell(Tenant(endpoint.tenant.as_str()));
            }
            Self::EndpointRemoved(endpoint) => {
                tell(Ip(endpoint.ip));
                tell(Host(endpoint.host.as_str()));
            }
            Self::VipRequested(vip) => {
                tell(Name(vip.name.as_str()));
                tell(Ip(vip.ip));
            }
            Self::VipAssigned(VipAssigned { name, ip, host, .. })
            | Self::VipUnassigned(VipUnassigned { name, ip, host }) => {
                tell(Name(name.as_str()));
                tell(Ip(*ip));
                tell(Host(host.as_str()));
            }
            Self::VipPlaced(VipPlaced { name, ip, from, to, .. }) => {
                tell(Name(name.as_str()));
                tell(Ip(*ip));
                let moved = from != to;
                let hosts = from.iter().filter(|_| moved).chain(to);
                hosts.for_each(|host| tell(Host(host.as_str())));
            }
            Self::VipRemoved(vip) => tell(Name(vip.name.as_str())),
            Self::RouterAssigned(router) => tell(Host(router.host.as_str())),
            Self::RouterUnassigned(router) => tell(Host(router.host.as_str())),
            Self::SourceSet(set) => match &set.object {
                ObjectKey::Host(name) => tell(Host(name.as_str())),
                ObjectKey::Tenant(id) => tell(Tenant(id.as_str())),
                ObjectKey::Endpoint(ip) => tell(Ip(*ip)),
                ObjectKey::Policy(name) => tell(Name(name.as_str())),
                ObjectKey::Vip(name) => tell(Name(name.as_str())),
                ObjectKey::Kubernetes => {}
            },
            // Events about the cluster itself, topology and settings.
            _ => {}
        }
    }

    /// The range that the event changes as a whole: it concerns every address in it.
    #[must_use]
    pub fn range(&self) -> Option<IpNet> {
        match self {
            Self::BlackoutAdded(blackout) => Some(blackout.cidr),
            Self::BlackoutRemoved(blackout) => Some(blackout.cidr),
            Self::BlockAssigned(block) => Some(block.cidr),
            Self::BlockReleased(block) => Some(block.cidr),
            _ => None,
        }
    }
}

/// A kind of event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Topic(Topic),
    /// Events of one name, such as `AddressAllocated`.
    Name(String),
}

impl Kind {
    /// The kind of that name: a topic's or an event's. Does not check that such an event exists.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        Topic::from_name(name).map_or_else(|| Self::Name(name.into()), Self::Topic)
    }

    fn is(&self, event: &Event) -> bool {
        match self {
            Self::Topic(topic) => event.topic() == *topic,
            Self::Name(name) => event.name() == name,
        }
    }
}

/// Selects records: those that match every criterion that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Events of this kind.
    pub kind: Option<Kind>,
    /// Events that concern this address.
    pub ip: Option<IpAddr>,
    /// Events that concern the address, policy or VIP of this name.
    pub name: Option<String>,
    /// Events that concern this host.
    pub host: Option<HostName>,
    /// Events that concern this tenant.
    pub tenant: Option<TenantId>,
    /// Events of commands that this actor submitted.
    pub actor: Option<Actor>,
}

impl Filter {
    /// Whether a record matches.
    #[must_use]
    pub fn wants(&self, record: &Record) -> bool {
        let event = &record.event;
        if self.kind.as_ref().is_some_and(|kind| !kind.is(event))
            || self.actor.as_ref().is_some_and(|actor| *actor != record.actor)
        {
            return false;
        }
        let (mut ip, mut name) = (self.ip.is_none(), self.name.is_none());
        let (mut host, mut tenant) = (self.host.is_none(), self.tenant.is_none());
        event.subjects(|subject| match subject {
            Subject::Ip(other) => ip |= self.ip == Some(other),
            Subject::Name(other) => name |= self.name.as_deref() == Some(other),
            Subject::Host(other) => host |= self.host.as_ref().is_some_and(|h| h.as_str() == other),
            Subject::Tenant(other) => {
                tenant |= self.tenant.as_ref().is_some_and(|t| t.as_str() == other);
            }
        });
        ip |= self.ip.zip(event.range()).is_some_and(|(ip, range)| range.contains(&ip));
        ip && name && host && tenant
    }
}

/// When something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Moment {
    pub revision: Revision,
    pub at: Millis,
}

/// One tenure of an address: from its allocation to its release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Tenure {
    pub ip: IpAddr,
    pub name: AddressName,
    pub host: HostName,
    pub tenant: TenantId,
    pub segment: SegmentId,
    /// Who requested it; `None`: no longer in the history.
    pub actor: Option<Actor>,
    /// When it began; `None`: no longer in the history.
    pub from: Option<Moment>,
    /// When it ended; `None`: it has not ended.
    pub to: Option<Moment>,
    /// Why it ended; `None`: it has not ended.
    pub reason: Option<ReleaseReason>,
    /// Set if the address was in use before the log recorded it: how it was discovered. `None`: an ordinary
    /// allocation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<Late>,
}

/// How the log learned of an address that was already in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Late {
    /// Taken from the reserve while its host was cut off; since when, by the host's clock.
    Claimed(Millis),
    /// Found in use without an allocation; revision that the host's report is based on.
    Adopted(Revision),
}

impl Tenure {
    /// The tenure that a record begins, if any.
    #[must_use]
    pub fn begun(record: &Record) -> Option<Self> {
        let (name, ip, host, tenant, segment, late) = match record.event.clone() {
            Event::AddressAllocated(AddressAllocated {
                name, ip, host, tenant, segment, ..
            }) => (name, ip, host, tenant, segment, None),
            Event::AddressAdopted(AddressAdopted {
                name,
                ip,
                host,
                tenant,
                segment,
                reported,
                ..
            }) => (name, ip, host, tenant, segment, Some(Late::Adopted(reported))),
            Event::AddressClaimed(AddressClaimed {
                name,
                ip,
                host,
                tenant,
                segment,
                since,
                ..
            }) => (name, ip, host, tenant, segment, Some(Late::Claimed(since))),
            _ => return None,
        };
        let (actor, from) = (Some(record.actor.clone()), Some(Moment::of(record)));
        Some(Self { ip, name, host, tenant, segment, actor, from, to: None, reason: None, late })
    }

    /// The tenure that a record ends, if any; its beginning is not set.
    #[must_use]
    pub fn ended(record: &Record) -> Option<Self> {
        let (name, ip, host, tenant, segment, reason) = match record.event.clone() {
            Event::AddressReleased(AddressReleased {
                name,
                ip,
                host,
                tenant,
                segment,
                reason,
                ..
            }) => (name, ip, host, tenant, segment, reason),
            Event::AddressClaimed(AddressClaimed {
                reserve, ip, host, tenant, segment, ..
            }) => (reserve, ip, host, tenant, segment, ReleaseReason::Claimed),
            _ => return None,
        };
        let (to, reason, late) = (Some(Moment::of(record)), Some(reason), None);
        Some(Self { ip, name, host, tenant, segment, actor: None, from: None, to, reason, late })
    }

    /// Whether the tenure covers a revision: from its first event up to, not including, its last.
    #[must_use]
    pub fn held_at(&self, revision: Revision) -> bool {
        self.from.is_none_or(|from| from.revision <= revision)
            && self.to.is_none_or(|to| to.revision > revision)
    }
}

impl Moment {
    /// The revision and time of a record.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        Self { revision: record.revision, at: record.at }
    }
}

/// The tenures of an address, oldest first, from the records of a history (unrelated records are skipped). If the
/// history is incomplete, the first tenure may lack its beginning.
#[must_use]
pub fn tenures<'a>(ip: IpAddr, records: impl IntoIterator<Item = &'a Record>) -> Vec<Tenure> {
    let mut tenures: Vec<Tenure> = Vec::new();
    for record in records {
        // One record may end a tenure and begin the next.
        if let Some(ended) = Tenure::ended(record).filter(|tenure| tenure.ip == ip) {
            match tenures.last_mut().filter(|last| last.to.is_none()) {
                Some(last) => (last.to, last.reason) = (ended.to, ended.reason),
                None => tenures.push(ended),
            }
        }
        tenures.extend(Tenure::begun(record).filter(|tenure| tenure.ip == ip));
    }
    tenures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::entry::{Entry, Index, Position, Proposal, Term};
    use crate::state::State;

    extern crate std;
    use std::{format, vec};

    /// Two names get the same address, one after the other; another host does something else.
    fn history() -> Vec<Record> {
        let lines = [
            r#"{"SetTopology": {"networks": [{"name": "n", "cidr": "10.0.0.0/24", "block_mask": 30}], "topologies": [{"networks": ["n"], "map": [{}]}]}}"#,
            r#"{"ChangeSettings": {"address_reuse_delay_ms": 0}}"#,
            r#"{"AddHost": {"name": "h1", "ip": "192.168.0.1", "addresses": ["2001:db8::1"]}}"#,
            r#"{"AddHost": {"name": "h2", "ip": "192.168.0.2"}}"#,
            r#"{"AllocateAddress": {"name": "a", "host": "h1", "tenant": "t", "segment": "s"}}"#,
            r#"{"AllocateAddress": {"name": "x", "host": "h2", "tenant": "u", "segment": "s"}}"#,
            r#"{"ReleaseAddress": {"address": "a"}}"#,
            r#"{"AllocateAddress": {"name": "b", "host": "h1", "tenant": "t", "segment": "s"}}"#,
            r#"{"RemoveHost": {"name": "h1", "force": true}}"#,
            r#"{"AllocateAddress": {"name": "c", "host": "h2", "tenant": "t", "segment": "s", "ip": "10.0.0.0"}}"#,
            r#"{"AddBlackout": {"cidr": "10.0.0.128/25"}}"#,
        ];
        let mut state = State::new();
        let mut records = Vec::new();
        for (n, line) in lines.into_iter().enumerate() {
            let command: Command = serde_json::from_str(line).unwrap();
            let actor = Actor::from(format!("op:{}", n % 2));
            let position = Position { term: Term(1), index: Index(n as u64) };
            let entry =
                Entry { at: Millis(1000 * n as u64), proposals: vec![Proposal { actor, command }] };
            records.extend(state.apply(position, &entry).1);
        }
        records
    }

    #[test]
    fn holders_of_an_address_in_order() {
        let records = history();
        let tenures = tenures("10.0.0.0".parse().unwrap(), &records);
        let said: Vec<_> = tenures
            .iter()
            .map(|t| (t.name.as_str(), t.from.unwrap().at.0, t.to.map(|to| to.at.0), t.reason))
            .collect();
        let requested = Some(ReleaseReason::Requested);
        assert_eq!(
            said,
            [
                ("a", 4000, Some(6000), requested),
                ("b", 7000, Some(8000), Some(ReleaseReason::Evicted)),
                ("c", 9000, None, None)
            ]
        );
        let (first, second) = (&tenures[0], &tenures[1]);
        let [began, next] = [first, second].map(|tenure| tenure.from.unwrap().revision);
        assert!(first.held_at(began) && !first.held_at(began.minus(1)));
        assert!(!first.held_at(next) && second.held_at(next));
        // The rest of the history does not say when the first tenure began.
        let late = records.iter().filter(|record| record.revision > began);
        let late = super::tenures(first.ip, late);
        assert_eq!(late[0], Tenure { actor: None, from: None, ..first.clone() });
        assert_eq!(late[1..], tenures[1..]);
    }

    #[test]
    fn filters_fit_what_a_record_concerns() {
        let records = history();
        let count = |filter: Filter| records.iter().filter(|record| filter.wants(record)).count();
        let none = Filter::default;
        assert_eq!(count(none()), records.len());
        let kind = |name| Some(Kind::from_name(name));
        assert_eq!(count(Filter { kind: kind("AddressAllocated"), ..none() }), 4);
        assert_eq!(count(Filter { kind: kind("hosts"), ..none() }), 3);
        assert_eq!(count(Filter { name: Some("a".into()), ..none() }), 2);
        let host = Filter { host: Some("h2".into()), ..none() };
        assert_eq!(count(Filter { kind: kind("addresses"), ..host.clone() }), 2);
        assert_eq!(count(Filter { kind: kind("addresses"), tenant: Some("u".into()), ..host }), 1);
        let ip = |ip: &str| Filter { ip: Some(ip.parse().unwrap()), ..none() };
        assert_eq!(count(Filter { kind: kind("addresses"), ..ip("10.0.0.0") }), 5);
        assert_eq!(count(ip("2001:db8::1")), 1);
        assert_eq!(count(Filter { kind: kind("topology"), ..ip("10.0.0.130") }), 1);
        assert!(count(ip("10.0.0.1")) > 0, "its block was assigned");
        let actor = Filter { actor: Some("op:0".into()), ..none() };
        assert!(records.iter().all(|r| actor.wants(r) == (r.actor.as_str() == "op:0")));
    }
}

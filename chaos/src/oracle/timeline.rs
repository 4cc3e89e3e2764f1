//! The history read as a timeline: who held which address from when to when. Reading it checks
//! the laws that need nothing but the history.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use romana_statemachine::attachment::{AddressAdopted, AddressClaimed};
use romana_statemachine::event::{AddressAllocated, ReleaseReason};
use romana_statemachine::name::{AddressName, HostName};
use romana_statemachine::{Digest, Event, Millis, Record, Revision};

use super::Verdict;

/// One holding of an address by a name.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) name: AddressName,
    pub(super) ip: IpAddr,
    pub(super) host: HostName,
    /// Revision of the allocation.
    pub(super) from: Revision,
    /// Revision of the release and its reason.
    pub(super) to: Option<(Revision, ReleaseReason)>,
}

impl Span {
    fn holds_at(&self, revision: Revision) -> bool {
        self.from <= revision && self.to.is_none_or(|(to, _)| revision < to)
    }
}

/// The timeline.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    /// All spans in order of allocation.
    pub(super) spans: Vec<Span>,
    /// Places in `spans`, by name.
    by_name: HashMap<AddressName, Vec<usize>>,
    /// Hosts added: name, revision.
    pub(super) hosts_added: Vec<(HostName, Revision)>,
    /// Hosts removed: name, whether evicted, revision.
    pub(super) hosts_removed: Vec<(HostName, bool, Revision)>,
    /// Last revision.
    pub(super) last: Revision,
}

impl Timeline {
    /// Reads a history from its first record on.
    pub(super) fn read(records: &[Record], verdict: &mut Verdict) -> Self {
        let mut reader = Reader::default();
        for record in records {
            reader.link(record, verdict);
            reader.event(record, verdict);
        }
        reader.timeline
    }

    /// Spans of a name, oldest first.
    pub(super) fn of_name(&self, name: &AddressName) -> impl DoubleEndedIterator<Item = &Span> {
        self.by_name.get(name).into_iter().flatten().map(|&at| &self.spans[at])
    }

    /// What a name held at a revision.
    pub(super) fn held_at(&self, name: &AddressName, revision: Revision) -> Option<&Span> {
        self.of_name(name).rev().find(|span| span.holds_at(revision))
    }

    /// What a name held without interruption from one revision to another.
    pub(super) fn held_through(
        &self,
        name: &AddressName,
        first: Revision,
        last: Revision,
    ) -> Option<&Span> {
        self.of_name(name).find(|span| span.holds_at(first) && span.holds_at(last))
    }

    /// What is live at a revision.
    pub(super) fn live_at(&self, revision: Revision) -> impl Iterator<Item = &Span> {
        self.spans.iter().filter(move |span| span.holds_at(revision))
    }
}

/// The state of reading.
#[derive(Default)]
struct Reader {
    timeline: Timeline,
    digest: Digest,
    at: Millis,
    index: u64,
    /// Who holds an address now: place in `spans`.
    holders: HashMap<IpAddr, usize>,
    /// Assigned blocks by first address: block, host.
    blocks: BTreeMap<IpAddr, (IpNet, HostName)>,
}

impl Reader {
    fn link(&mut self, record: &Record, verdict: &mut Verdict) {
        let Record { revision, index, at, .. } = record;
        let last = self.timeline.last;
        if *revision != last + 1 {
            verdict.broken("chain", format!("revision {revision} comes after {last}"));
        }
        if !record.follows(&self.digest) {
            verdict.broken("chain", format!("the digest of revision {revision} is wrong"));
        }
        if *at < self.at || *index < self.index {
            verdict.broken("chain", format!("time or index goes back at revision {revision}"));
        }
        (self.timeline.last, self.digest) = (*revision, record.digest);
        (self.at, self.index) = (*at, *index);
    }

    fn event(&mut self, record: &Record, verdict: &mut Verdict) {
        let revision = record.revision;
        match &record.event {
            Event::AddressAllocated(event) => {
                self.allocated(revision, event, verdict);
            }
            Event::AddressAdopted(event) => {
                let AddressAdopted { name, ip, block, host, tenant, segment, .. } = event.clone();
                let given = AddressAllocated { name, ip, block, host, tenant, segment };
                self.allocated(revision, &given, verdict);
            }
            Event::AddressClaimed(event) => {
                let AddressClaimed { name, ip, block, host, tenant, segment, .. } = event.clone();
                self.released(revision, ip, &event.reserve, ReleaseReason::Claimed, verdict);
                let given = AddressAllocated { name, ip, block, host, tenant, segment };
                self.allocated(revision, &given, verdict);
            }
            Event::AddressReleased(event) => {
                self.released(revision, event.ip, &event.name, event.reason, verdict);
            }
            Event::BlockAssigned(event) => {
                if !event.group.contains(&event.cidr) {
                    let what = format!("block {} is outside its group {}", event.cidr, event.group);
                    verdict.broken("blocks", what);
                }
                self.block(event.cidr, event.host.clone(), verdict);
            }
            Event::BlockReleased(event) => {
                if self.blocks.remove(&event.cidr.network()).is_none() {
                    let what = format!("revision {revision} releases {}, not assigned", event.cidr);
                    verdict.broken("blocks", what);
                }
                if let Some(ip) = self.holders.keys().find(|ip| event.cidr.contains(*ip)) {
                    let what = format!("block {} was released with {ip} in use", event.cidr);
                    verdict.broken("blocks", what);
                }
            }
            Event::HostAdded(event) => {
                self.timeline.hosts_added.push((event.name.clone(), revision));
            }
            Event::HostRemoved(event) => {
                let removed = (event.name.clone(), event.evicted, revision);
                self.timeline.hosts_removed.push(removed);
            }
            _ => {}
        }
    }

    fn released(
        &mut self,
        revision: Revision,
        ip: IpAddr,
        name: &AddressName,
        reason: ReleaseReason,
        verdict: &mut Verdict,
    ) {
        let span = self.holders.remove(&ip).map(|at| &mut self.timeline.spans[at]);
        match span {
            Some(span) if span.name == *name => span.to = Some((revision, reason)),
            _ => {
                let what =
                    format!("revision {revision} releases {ip} from {name}, no holder of it");
                verdict.broken("address-once", what);
            }
        }
    }

    fn allocated(&mut self, revision: Revision, event: &AddressAllocated, verdict: &mut Verdict) {
        let (name, ip) = (&event.name, event.ip);
        if let Some(&other) = self.holders.get(&ip) {
            let other = &self.timeline.spans[other].name;
            let what = format!("revision {revision} gives {ip} to {name}, but {other} holds it");
            verdict.broken("address-once", what);
        }
        if let Some(other) = self.timeline.held_at(name, revision) {
            let other = other.ip;
            let what = format!("revision {revision} gives {ip} to {name}, which has {other}");
            verdict.broken("address-once", what);
        }
        let inside = self.blocks.range(..=ip).next_back().map(|(_, block)| block);
        if !inside.is_some_and(|(cidr, host)| {
            *cidr == event.block && cidr.contains(&ip) && *host == event.host
        }) {
            let what = format!("{ip} is not in a block of host {} ({})", event.host, event.block);
            verdict.broken("blocks", what);
        }
        let span =
            Span { name: name.clone(), ip, host: event.host.clone(), from: revision, to: None };
        let at = self.timeline.spans.len();
        self.timeline.spans.push(span);
        self.timeline.by_name.entry(name.clone()).or_default().push(at);
        self.holders.insert(ip, at);
    }

    fn block(&mut self, cidr: IpNet, host: HostName, verdict: &mut Verdict) {
        let overlaps =
            |other: &IpNet| other.contains(&cidr.network()) || cidr.contains(&other.network());
        let before = self.blocks.range(..=cidr.network()).next_back();
        let after = self.blocks.range(cidr.network()..).next();
        for (_, (other, _)) in before.into_iter().chain(after) {
            if overlaps(other) {
                verdict.broken("blocks", format!("blocks {cidr} and {other} overlap"));
                break;
            }
        }
        self.blocks.insert(cidr.network(), (cidr, host));
    }
}

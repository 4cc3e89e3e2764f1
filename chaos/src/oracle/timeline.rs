//! The history as a timeline: who held which address from when to when. The history is taken as it is; the
//! laws decide whether it is valid.

use std::collections::HashMap;
use std::net::IpAddr;

use romana_statemachine::event::ReleaseReason;
use romana_statemachine::name::{AddressName, HostName};
use romana_statemachine::{Event, Record, Revision};

/// The time in which a name held an address.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) name: AddressName,
    pub(super) ip: IpAddr,
    pub(super) host: HostName,
    /// Revision of the allocation.
    pub(super) from: Revision,
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
    /// Indices into `spans`, by name.
    by_name: HashMap<AddressName, Vec<usize>>,
    /// The same by address.
    by_ip: HashMap<IpAddr, Vec<usize>>,
    /// Hosts added: name, revision.
    pub(super) hosts_added: Vec<(HostName, Revision)>,
    /// Hosts removed: name, whether evicted, revision.
    pub(super) hosts_removed: Vec<(HostName, bool, Revision)>,
    pub(super) last: Revision,
}

impl Timeline {
    /// Reads a history from its first record on.
    pub(super) fn read(records: &[Record]) -> Self {
        let mut reader = Reader::default();
        records.iter().for_each(|record| reader.event(record));
        reader.timeline
    }

    /// Spans of a name, oldest first.
    pub(super) fn of_name(&self, name: &AddressName) -> impl DoubleEndedIterator<Item = &Span> {
        self.by_name.get(name).into_iter().flatten().map(|&at| &self.spans[at])
    }

    /// The span of a name at a revision.
    pub(super) fn held_at(&self, name: &AddressName, revision: Revision) -> Option<&Span> {
        self.of_name(name).rev().find(|span| span.holds_at(revision))
    }

    /// The span of an address at a revision.
    pub(super) fn holder_at(&self, ip: IpAddr, revision: Revision) -> Option<&Span> {
        let spans = self.by_ip.get(&ip).into_iter().flatten().map(|&at| &self.spans[at]);
        spans.rev().find(|span| span.holds_at(revision))
    }

    /// The span of a name that covers two revisions.
    pub(super) fn held_through(
        &self,
        name: &AddressName,
        first: Revision,
        last: Revision,
    ) -> Option<&Span> {
        self.of_name(name).find(|span| span.holds_at(first) && span.holds_at(last))
    }

    /// Spans that are live at a revision.
    pub(super) fn live_at(&self, revision: Revision) -> impl Iterator<Item = &Span> {
        self.spans.iter().filter(move |span| span.holds_at(revision))
    }
}

/// State while reading.
#[derive(Default)]
struct Reader {
    timeline: Timeline,
    /// Current holders of addresses: indices into `spans`.
    holders: HashMap<IpAddr, usize>,
}

impl Reader {
    fn event(&mut self, record: &Record) {
        let revision = record.revision;
        self.timeline.last = revision;
        match &record.event {
            Event::AddressAllocated(event) => {
                self.held(revision, &event.name, event.ip, &event.host);
            }
            Event::AddressAdopted(event) => {
                self.held(revision, &event.name, event.ip, &event.host);
            }
            Event::AddressClaimed(event) => {
                self.given_up(revision, event.ip, ReleaseReason::Claimed);
                self.held(revision, &event.name, event.ip, &event.host);
            }
            Event::AddressReleased(event) => self.given_up(revision, event.ip, event.reason),
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

    fn held(&mut self, revision: Revision, name: &AddressName, ip: IpAddr, host: &HostName) {
        let at = self.timeline.spans.len();
        let (name, host) = (name.clone(), host.clone());
        self.timeline.by_name.entry(name.clone()).or_default().push(at);
        self.timeline.by_ip.entry(ip).or_default().push(at);
        self.timeline.spans.push(Span { name, ip, host, from: revision, to: None });
        self.holders.insert(ip, at);
    }

    fn given_up(&mut self, revision: Revision, ip: IpAddr, reason: ReleaseReason) {
        if let Some(at) = self.holders.remove(&ip) {
            self.timeline.spans[at].to = Some((revision, reason));
        }
    }
}

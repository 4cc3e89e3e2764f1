//! The feed over a real history: order, memory, filters, and compaction.

use std::path::Path;

use romana_statemachine::command::{AllocateAddress, HostSpec, Labels, ReleaseAddress};
use romana_statemachine::{
    Actor, Command, Entry, Millis, Position, Proposal, Revision, State, Term,
};
use romana_storage::history::HistoryOptions;

use super::*;

/// A state machine that publishes to a history and a feed.
struct Machine {
    state: State,
    history: History,
    feed: Feed,
}

impl Machine {
    fn new(dir: &Path, capacity_bytes: usize) -> Self {
        let history = History::open(dir, HistoryOptions::default()).unwrap();
        let feed = Feed::new(history.clone(), capacity_bytes);
        let mut machine = Self { state: State::new(), history, feed };
        let topology = r#"{"networks": [{"name": "n", "cidr": "10.0.0.0/8", "block_mask": 20}],
            "topologies": [{"networks": ["n"], "map": [{"groups": []}]}]}"#;
        machine.apply(Command::SetTopology(serde_json::from_str(topology).unwrap()));
        for (name, ip) in [("h1", "192.168.0.1"), ("h2", "192.168.0.2")] {
            let (name, ip) = (HostName::from(name), ip.parse().unwrap());
            let (labels, info) = (Labels::new(), Labels::new());
            let source = romana_statemachine::command::HostSource::Operator;
            let addresses = Vec::new();
            machine.apply(Command::AddHost(HostSpec { name, ip, addresses, labels, info, source }));
        }
        machine
    }

    fn apply(&mut self, command: Command) {
        let proposals = vec![Proposal { actor: Actor::from("test"), command }];
        let position = Position { term: Term(1), index: self.state.index().next() };
        let (outcomes, records) = self.state.apply(position, &Entry { at: Millis(1), proposals });
        assert!(outcomes[0].result.is_ok(), "{outcomes:?}");
        self.history.append(&records).unwrap();
        self.feed.publish(records);
    }

    fn allocate(&mut self, name: &str, host: &str) {
        self.apply(Command::AllocateAddress(AllocateAddress {
            name: name.into(),
            host: host.into(),
            tenant: "t".into(),
            segment: "s".into(),
            network: None,
            ip: None,
        }));
    }

    fn follow(&self, after: Revision, host: Option<&str>) -> Follower {
        let filter =
            Filter { topics: Topics::all(), host: host.map(HostName::from), version: u16::MAX };
        self.feed.follow(after, filter, Form::Ndjson).unwrap()
    }
}

/// Revisions that a follower receives up to its next bookmark, including that.
async fn until_bookmark(follower: &mut Follower) -> Vec<Revision> {
    let mut revisions = Vec::new();
    loop {
        let bytes = follower.next().await.unwrap().unwrap();
        for line in std::str::from_utf8(&bytes).unwrap().lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            match line["revision"].as_u64() {
                Some(revision) => revisions.push(Revision(revision)),
                None => return revisions,
            }
        }
    }
}

#[tokio::test]
async fn a_slow_follower_costs_no_memory_and_misses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = Machine::new(dir.path(), 64 << 10);
    let mut slow = machine.follow(Revision(0), None);
    for n in 0..3_000 {
        machine.allocate(&format!("a{n}"), "h1");
    }
    let (base, last) = {
        let ring = lock(&machine.feed.0.ring);
        (ring.base(), ring.last())
    };
    assert!(last.since(base) < 100, "the ring holds {} records", last.since(base));
    assert_eq!(machine.feed.lag(), last.get());
    let got = until_bookmark(&mut slow).await;
    assert_eq!(got, Revision(1).through(last).collect::<Vec<_>>());
    drop(slow);
    assert_eq!(machine.feed.followers(), 0);
}

#[tokio::test]
async fn a_host_is_not_sent_to_the_history_for_others_events() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = Machine::new(dir.path(), 64 << 10);
    machine.allocate("mine", "h2");
    machine.allocate("first", "h1"); // its block concerns every host, and has room for all
    let start = machine.feed.last();
    let mut follower = machine.follow(start, Some("h2"));
    assert!(until_bookmark(&mut follower).await.is_empty());
    for n in 0..2_000 {
        machine.allocate(&format!("other{n}"), "h1");
    }
    assert!(lock(&machine.feed.0.ring).base() > follower.cursor);
    let look = lock(&machine.feed.0.ring).look(follower.cursor, &follower.filter, 16);
    let ring::Look::Items { items, upto } = look else { panic!("sent to the history") };
    assert_eq!((items.len(), upto), (0, machine.feed.last()));
    machine.allocate("mine2", "h2");
    let bytes = follower.next().await.unwrap().unwrap();
    assert!(std::str::from_utf8(&bytes).unwrap().contains("mine2"));
    // A release concerns every host: connection tracking entries of the address are removed.
    machine.apply(Command::ReleaseAddress(ReleaseAddress { address: "other7".into() }));
    let bytes = follower.next().await.unwrap().unwrap();
    assert!(std::str::from_utf8(&bytes).unwrap().contains("other7"));
}

#[tokio::test]
async fn what_is_no_longer_kept_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::open(dir.path(), HistoryOptions::default()).unwrap();
    history.reset(Revision(100), romana_statemachine::Digest::default()).unwrap();
    let feed = Feed::new(history, 64 << 10);
    let filter = || Filter { topics: Topics::all(), host: None, version: u16::MAX };
    let refused = feed.follow(Revision(50), filter(), Form::Sse);
    assert!(matches!(
        refused,
        Err(FeedError::Compacted { wanted: Revision(51), oldest: Revision(101) })
    ));
    assert!(feed.follow(Revision(100), filter(), Form::Sse).is_ok());
}

#[tokio::test]
async fn each_record_is_written_once() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::new(dir.path(), 64 << 10);
    let last = machine.feed.last();
    let (mut a, mut b) = (machine.follow(last.minus(1), None), machine.follow(last.minus(1), None));
    let (a, b) = (a.next().await.unwrap().unwrap(), b.next().await.unwrap().unwrap());
    assert_eq!(a.as_ptr(), b.as_ptr());
}

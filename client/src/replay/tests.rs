//! Valid exports replay to their end; truncated, reordered or edited ones never do.

use proptest::prelude::*;
use romana_statemachine::command::{RaiseVersion, SignCheckpoint};
use romana_statemachine::{Actor, Command, Entry, Position, Proposal, Revision, Term};
use serde_json::{Value, json};

use super::*;

/// A history with a topology, hosts, addresses that are allocated and released, and a signed checkpoint.
struct World {
    /// By revision, from 0.
    states: Vec<State>,
    records: Vec<Record>,
}

const SIGNED: u64 = 12;

impl World {
    fn new() -> Self {
        let mut world = Self { states: vec![State::new()], records: Vec::new() };
        world.apply(Command::RaiseVersion(RaiseVersion { version: 2 }));
        let topology = json!({
            "networks": [{"name": "n", "cidr": "10.0.0.0/16", "block_mask": 29}],
            "topologies": [{"networks": ["n"], "map": [{"groups": []}]}],
        });
        world.json(json!({"SetTopology": topology}));
        world.json(json!({"AddHost": {"name": "h", "ip": "192.168.0.1"}}));
        for name in ["a", "b", "c", "d", "e", "f"] {
            let ask = json!({"name": name, "host": "h", "tenant": "t", "segment": "s"});
            world.json(json!({"AllocateAddress": ask}));
        }
        for name in ["a", "c"] {
            world.json(json!({"ReleaseAddress": {"address": name}}));
        }
        let at = &world.states[usize::try_from(SIGNED).unwrap()];
        let (digest, state_digest) = (at.digest(), at.state_digest());
        let sign =
            SignCheckpoint { term: Term(1), revision: Revision(SIGNED), digest, state_digest };
        world.apply(Command::SignCheckpoint(sign));
        world.json(json!({"CreateTenant": {"id": "last", "labels": {}}}));
        world
    }

    fn json(&mut self, command: Value) {
        self.apply(serde_json::from_value(command).unwrap());
    }

    fn apply(&mut self, command: Command) {
        let state = self.states.last().unwrap();
        let index = state.index().next();
        let proposal = Proposal { actor: Actor::from("test"), command };
        let entry = Entry { at: Millis(index.get() * 1000), proposals: vec![proposal] };
        let (outcomes, records) = state.clone().apply(Position { term: Term(1), index }, &entry);
        outcomes.into_iter().for_each(|outcome| _ = outcome.result.unwrap());
        for record in records {
            let mut next = self.states.last().unwrap().clone();
            next.follow(&record).unwrap();
            self.states.push(next);
            self.records.push(record);
        }
    }

    fn state(&self, revision: u64) -> &State {
        &self.states[usize::try_from(revision).unwrap()]
    }

    fn last(&self) -> u64 {
        self.records.len() as u64
    }

    /// The lines of an export.
    fn export(&self, first: u64, last: u64) -> Vec<String> {
        let (base, end) = (self.state(first - 1), self.state(last));
        let mut header = json!({
            "romana_history": 1, "cluster_id": "c", "first": first, "previous": base.digest(),
            "last": last, "digest": end.digest(),
        });
        if first > 1 {
            header["state"] = BASE64.encode(base.snapshot()).into();
        }
        let (from, to) = (usize::try_from(first).unwrap() - 1, usize::try_from(last).unwrap());
        let records = self.records[from..to].iter().map(|it| serde_json::to_string(it).unwrap());
        let end = json!({"end": {
            "revision": last, "digest": end.digest(), "state_digest": end.state_digest(),
        }});
        [header.to_string()].into_iter().chain(records).chain([end.to_string()]).collect()
    }
}

fn run(lines: &[String], until: Until) -> Result<Replayed, ReplayError> {
    let text = lines.join("\n") + "\n";
    replay(text.as_bytes(), until, |_, _| {})
}

#[test]
fn an_export_replays_to_the_state_it_came_from() {
    let world = World::new();
    for first in 1..=world.last() {
        for last in [first - 1, first, world.last()] {
            let replayed = run(&world.export(first, last), Until::End).unwrap();
            let want = world.state(last);
            assert_eq!(
                (replayed.state.revision(), replayed.state.digest()),
                (Revision(last), want.digest())
            );
            assert_eq!(replayed.state_digest, want.state_digest());
            assert_eq!(replayed.records, last + 1 - first);
            assert!(replayed.complete);
            let vouched = first == SIGNED + 1 && last > SIGNED;
            assert_eq!(replayed.vouched_by.is_some(), vouched, "{first} {last}");
        }
    }
    assert_eq!(run(&world.export(1, 0), Until::End).unwrap().state.revision(), 0);
}

#[test]
fn it_stops_where_it_is_told_to() {
    let world = World::new();
    for first in [1, 5] {
        let lines = world.export(first, world.last());
        for wanted in first - 1..=world.last() {
            let replayed = run(&lines, Until::Revision(Revision(wanted))).unwrap();
            assert_eq!(replayed.state.revision(), wanted);
            assert_eq!(replayed.state_digest, world.state(wanted).state_digest());
            assert!(!replayed.complete);
        }
        for record in &world.records[usize::try_from(first).unwrap()..] {
            let replayed = run(&lines, Until::Time(record.at)).unwrap();
            let want = world.records.iter().rfind(|other| other.at <= record.at).unwrap();
            assert_eq!(replayed.state.revision(), want.revision);
        }
    }
    let lines = world.export(5, world.last());
    let error = run(&lines, Until::Revision(Revision(3))).unwrap_err().to_string();
    assert!(error.contains("line 1: the file leads from revision 4"), "{error}");
    assert!(run(&lines, Until::Revision(Revision(world.last() + 1))).is_err());
}

#[test]
fn errors_name_the_line_and_what_is_wrong() {
    let world = World::new();
    let lines = world.export(1, world.last());
    let error = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines = lines.clone();
        change(&mut lines);
        run(&lines, Until::End).unwrap_err().to_string()
    };
    let end = lines.len() - 1;
    let cut = error(&|lines| lines.truncate(4));
    assert!(cut.starts_with("line 5: the file was cut: it ends after revision 3"), "{cut}");
    assert_eq!(error(&|lines| lines.swap(3, 4)), "line 4: record 4 cannot follow revision 2");
    let gone = error(&|lines| _ = lines.remove(6));
    assert_eq!(gone, "line 7: record 7 cannot follow revision 5");
    let edited = error(&|lines| lines[4] = lines[4].replace("test", "root"));
    assert_eq!(edited, "line 5: the digest of record 4 does not continue the chain");
    let newer = error(&|lines| lines[3] = lines[3].replacen(r#""name":"#, r#""new":1,"name":"#, 1));
    assert!(
        newer.ends_with("which this program does not know: replay it with a newer one"),
        "{newer}"
    );
    let more = error(&|lines| lines.push(lines[3].clone()));
    assert!(more.ends_with("there is more after the end"), "{more}");
    let state = error(&|lines| {
        let digest = world.states.last().unwrap().state_digest().to_string();
        lines[end] = lines[end].replace(&digest, &Digest::default().to_string());
    });
    assert!(state.contains("and the replay has"), "{state}");
    assert_eq!(error(&Vec::clear).split(':').next(), Some("line 1"));
    let format = error(&|lines| lines[0] = lines[0].replace("history\":1", "history\":2"));
    assert_eq!(format, "line 1: format 2 is not known to this program, only 1");
    let said = error(&|lines| lines[5] = r#"{"error":{"code":"Internal"}}"#.into());
    assert!(said.starts_with("line 6: the server could not go on"), "{said}");

    // A state that the cluster did not sign.
    let mut forged = world.export(SIGNED + 1, world.last());
    let other = world.state(SIGNED).clone();
    let (other, _) = other.restored(romana_statemachine::event::Restored {
        source: "x".into(),
        cluster: "c".into(),
        revision: Revision(1),
        digest: Digest::default(),
        backup: Digest::default(),
    });
    let (is, was) = (BASE64.encode(other.snapshot()), world.state(SIGNED).snapshot());
    forged[0] = forged[0].replace(&BASE64.encode(was), &is);
    assert!(run(&forged, Until::End).unwrap_err().to_string().starts_with("line 1: "));
}

#[test]
fn lines_are_bounded() {
    let endless = std::io::BufReader::new(std::io::repeat(b'x'));
    let mut line = Vec::new();
    assert!(!read_line(&mut { endless }, &mut line, 1000).unwrap());
    assert!(line.len() <= 1000);
}

fn same(a: &Replayed, b: &Replayed) -> bool {
    a.state.digest() == b.state.digest() && a.state_digest == b.state_digest
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// One line removed, repeated, moved or truncated, at any position.
    #[test]
    fn lines_that_are_not_all_there_in_order_do_not_pass(
        first in 1..16_u64, at in 0..40_usize, to in 0..40_usize, kind in 0..4, part in 0..100_usize,
    ) {
        let world = World::new();
        let lines = world.export(first.min(world.last()), world.last());
        let (at, to) = (at % lines.len(), to % lines.len());
        let mut changed = lines.clone();
        match kind {
            0 => _ = changed.remove(at),
            1 => changed.insert(to, lines[at].clone()),
            2 => changed.swap(at, to),
            _ => {
                changed.truncate(at + 1);
                let length = changed[at].len() * part / 100;
                changed[at].truncate(length);
            }
        }
        prop_assert!(changed == lines || run(&changed, Until::End).is_err());
    }

    /// One byte changed at any position: refused, unless the meaning is the same (or
    /// only the cluster's name changed).
    #[test]
    fn edited_bytes_do_not_pass(first in 1..16_u64, at in any::<prop::sample::Index>(), byte: u8) {
        let world = World::new();
        let lines = world.export(first.min(world.last()), world.last());
        let truth = run(&lines, Until::End).unwrap();
        let mut bytes = (lines.join("\n") + "\n").into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(replayed) = replay(&*bytes, Until::End, |_, _| {}) {
            prop_assert!(same(&replayed, &truth), "byte {at}");
        }
    }

    #[test]
    fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), header: bool) {
        let world = World::new();
        let mut text = if header { world.export(1, 3).remove(0).into_bytes() } else { Vec::new() };
        text.push(b'\n');
        text.extend(bytes);
        _ = replay(&*text, Until::End, |_, _| {});
    }
}

//! Every law is tested with a history that keeps it and one that breaks it: an oracle
//! that cannot fail proves nothing.

mod abuse;
mod audit;
mod kubernetes;

use romana_statemachine::command::{AllocateAddress, HostSpec, ReleaseAddress};
use romana_statemachine::name::AddressName;
use romana_statemachine::{
    Actor, Command, Digest, Entry, Event, Millis, Position, Proposal, Record, Revision, State, Term,
};

use super::{Violation, judge};
use crate::evidence::{
    Ask, Backed, Call, Evidence, Followed, HeldAddress, Outcome, Sample, Testimony,
};
use crate::workload::world;

const MS: u64 = 1_000_000;

/// A correct run, generated with the real state machine: calls, history, replicas' reports.
struct Truth {
    state: State,
    records: Vec<Record>,
    calls: Vec<Call>,
    clock: u64,
}

impl Truth {
    fn new() -> Self {
        let mut truth =
            Self { state: State::new(), records: Vec::new(), calls: Vec::new(), clock: 0 };
        for command in world() {
            truth.ask(command);
        }
        truth
    }

    /// Executes a command and records the call; each takes a millisecond.
    fn ask(&mut self, command: Command) -> usize {
        let index = self.state.index().next();
        let proposal = Proposal { actor: Actor::from("test"), command: command.clone() };
        let entry = Entry { at: Millis(index.get() * 1_000), proposals: vec![proposal] };
        let (outcomes, records) = self.state.apply(Position { term: Term(1), index }, &entry);
        self.records.extend(records);
        let outcome = &outcomes[0];
        let (changed, held) = match outcome.result.as_ref().expect("the command is right") {
            romana_statemachine::Answer::Done { changed } => (*changed, None),
            romana_statemachine::Answer::Address { allocation, fresh } => {
                let held = HeldAddress {
                    name: allocation.name.clone(),
                    ip: allocation.ip,
                    host: allocation.host.clone(),
                    revision: allocation.revision,
                };
                (*fresh, Some(held))
            }
        };
        let outcome = Outcome::Acked { revision: outcome.revision, changed: Some(changed), held };
        self.call(Ask::Command(Box::new(command)), outcome)
    }

    fn call(&mut self, ask: Ask, outcome: Outcome) -> usize {
        let (invoked, returned) = (self.clock, self.clock + MS);
        self.clock += 2 * MS;
        self.calls.push(Call { client: 1, invoked, returned, ask, outcome, retried: false });
        self.calls.len() - 1
    }

    fn allocate(&mut self, name: &str) -> usize {
        self.ask(allocate(name))
    }

    fn release(&mut self, name: &str) -> usize {
        self.ask(Command::ReleaseAddress(ReleaseAddress { address: name.into() }))
    }

    fn read(&mut self, name: &str, held: Option<HeldAddress>) -> usize {
        let revision = self.state.revision();
        let outcome = Outcome::Acked { revision, changed: None, held };
        self.call(Ask::Read(name.into()), outcome)
    }

    fn held(&self, call: usize) -> HeldAddress {
        match &self.calls[call].outcome {
            Outcome::Acked { held: Some(held), .. } => held.clone(),
            other => panic!("{other:?} holds nothing"),
        }
    }

    fn evidence(&self) -> Evidence {
        let live: Vec<HeldAddress> = self
            .state
            .ipam()
            .addresses_after(None)
            .map(|it| HeldAddress {
                name: it.name,
                ip: it.ip,
                host: it.host,
                revision: it.revision,
            })
            .collect();
        let revision = self.state.revision();
        let testimonies = (1..=3).map(|replica| Testimony {
            replica,
            records: self.records.clone(),
            live: live.clone(),
            live_at: revision,
            snapshot: serde_json::json!({"revision": revision, "hosts": ["h1"]}),
        });
        let middle = &self.records[self.records.len() / 2];
        Evidence {
            began: None,
            calls: self.calls.clone(),
            samples: vec![Sample { replica: 2, revision: middle.revision, digest: middle.digest }],
            testimonies: testimonies.collect(),
            followed: vec![Followed {
                connections: 1,
                digests: self.records.iter().map(|record| record.digest).collect(),
                faults: Vec::new(),
            }],
            audited: Vec::new(),
            faults: Vec::new(),
            memory: Vec::new(),
            kubernetes: None,
            backups: vec![Backed {
                replica: 3,
                revision,
                digest: self.state.digest(),
                live: live.iter().map(|held| (held.name.clone(), held.ip)).collect(),
                fault: None,
            }],
        }
    }
}

fn allocate(name: &str) -> Command {
    Command::AllocateAddress(AllocateAddress {
        name: name.into(),
        host: "h1".into(),
        tenant: "t1".into(),
        segment: "default".into(),
        network: None,
        ip: None,
    })
}

/// A run with a variety of calls: three allocations, a repetition, a release, reads.
fn good() -> Truth {
    let mut truth = Truth::new();
    let a = truth.allocate("a");
    truth.allocate("b");
    truth.allocate("a");
    let held = truth.held(a);
    truth.read("a", Some(held));
    truth.release("b");
    truth.read("b", None);
    truth.allocate("c");
    truth
}

/// Recomputes the digests of a history after its events were changed.
fn rechain(records: &mut [Record]) {
    let mut digest = Digest::default();
    for (record, revision) in records.iter_mut().zip(1..) {
        record.revision = Revision(revision);
        let Record { index, at, actor, event, .. } = &*record;
        digest = Record::chain(&digest, Revision(revision), *index, *at, actor, event);
        record.digest = digest;
    }
}

/// Changes the history on all replicas in the same way, with valid digests, so that
/// only the oracle can detect it.
fn forge(evidence: &mut Evidence, change: impl Fn(&mut Vec<Record>)) {
    for said in &mut evidence.testimonies {
        change(&mut said.records);
        rechain(&mut said.records);
    }
    evidence.samples.clear();
    evidence.backups.clear();
    let records = &evidence.testimonies[0].records;
    evidence.followed[0].digests = records.iter().map(|record| record.digest).collect();
}

fn laws(found: &[Violation]) -> Vec<&'static str> {
    let mut laws: Vec<_> = found.iter().map(|violation| violation.law).collect();
    laws.sort_unstable();
    laws.dedup();
    laws
}

#[track_caller]
fn breaks(law: &str, evidence: &Evidence) {
    let found = judge(evidence);
    assert!(laws(&found).contains(&law), "{law} was not seen to be broken: {found:#?}");
}

fn position(records: &[Record], wanted: &str) -> usize {
    records
        .iter()
        .position(|record| match &record.event {
            Event::AddressAllocated(event) => event.name.as_str() == wanted,
            _ => false,
        })
        .expect("it was allocated")
}

#[test]
fn a_right_history_passes() {
    assert_eq!(judge(&good().evidence()), []);
}

#[test]
fn unknown_outcomes_may_have_happened_or_not() {
    let mut truth = good();
    // Committed, but without an answer.
    let at = truth.allocate("d");
    truth.calls[at].outcome = Outcome::Unknown;
    // Not committed.
    truth.call(Ask::Command(Box::new(allocate("e"))), Outcome::Unknown);
    assert_eq!(judge(&truth.evidence()), []);
}

#[test]
fn nobody_testifies() {
    breaks("one-history", &Evidence::default());
}

#[test]
fn a_lost_acknowledged_allocation() {
    let mut evidence = good().evidence();
    forge(&mut evidence, |records| {
        records.remove(position(records, "a"));
    });
    breaks("acked", &evidence);
}

#[test]
fn a_history_that_ends_before_the_last_answer() {
    let mut evidence = good().evidence();
    forge(&mut evidence, |records| records.truncate(records.len() - 2));
    breaks("acked", &evidence);
}

#[test]
fn one_address_for_two_names() {
    let mut evidence = good().evidence();
    forge(&mut evidence, |records| {
        let (a, c) = (position(records, "a"), position(records, "c"));
        let Event::AddressAllocated(first) = records[a].event.clone() else { unreachable!() };
        let Event::AddressAllocated(second) = &mut records[c].event else { unreachable!() };
        second.ip = first.ip;
    });
    breaks("address-once", &evidence);
}

#[test]
fn two_addresses_for_one_name() {
    let mut evidence = good().evidence();
    forge(&mut evidence, |records| {
        let c = position(records, "c");
        let Event::AddressAllocated(second) = &mut records[c].event else { unreachable!() };
        second.name = "a".into();
    });
    breaks("address-once", &evidence);
}

#[test]
fn a_release_of_what_is_not_held() {
    let mut evidence = good().evidence();
    forge(&mut evidence, |records| {
        let release = records
            .iter()
            .position(|record| matches!(record.event, Event::AddressReleased(_)))
            .expect("b was released");
        let again = records[release].clone();
        records.insert(release, again);
    });
    breaks("address-once", &evidence);
}

#[test]
fn a_retry_that_got_another_address() {
    let mut truth = good();
    let again = truth.allocate("a");
    if let Outcome::Acked { held: Some(held), .. } = &mut truth.calls[again].outcome {
        held.ip = "10.0.9.9".parse().expect("an address");
    }
    breaks("acked", &truth.evidence());
}

#[test]
fn an_answer_that_is_not_in_the_history() {
    let mut truth = good();
    let outcome = truth.calls[truth.calls.len() - 1].outcome.clone();
    truth.call(Ask::Command(Box::new(allocate("never"))), outcome);
    breaks("acked", &truth.evidence());
}

#[test]
fn a_release_that_did_not_happen() {
    let mut truth = good();
    let revision = truth.state.revision();
    let release = Command::ReleaseAddress(ReleaseAddress { address: "a".into() });
    let outcome = Outcome::Acked { revision, changed: Some(false), held: None };
    truth.call(Ask::Command(Box::new(release)), outcome);
    breaks("acked", &truth.evidence());
}

#[test]
fn a_stale_read() {
    let mut truth = good();
    let before = truth.state.revision();
    truth.allocate("d");
    let outcome = Outcome::Acked { revision: before, changed: None, held: None };
    truth.call(Ask::Read(AddressName::from("d")), outcome);
    breaks("real-time", &truth.evidence());
}

#[test]
fn a_read_that_made_something_up() {
    let mut truth = good();
    truth.read("c", None);
    breaks("real-time", &truth.evidence());
    breaks("linearizable", &truth.evidence());
}

#[test]
fn a_write_ordered_before_one_that_had_been_answered() {
    let mut truth = good();
    let last = truth.calls.len() - 1;
    // The last allocation is given an invocation time after a much later answer.
    let revision = truth.state.revision();
    let outcome = Outcome::Acked { revision, changed: None, held: None };
    truth.call(Ask::Read("nothing".into()), outcome);
    let later = truth.clock + MS;
    (truth.calls[last].invoked, truth.calls[last].returned) = (later, later + MS);
    breaks("real-time", &truth.evidence());
}

#[test]
fn an_allocation_that_nobody_asked_for() {
    let mut evidence = good().evidence();
    evidence.calls.retain(|call| match call.command() {
        Some(Command::AllocateAddress(ask)) => ask.name.as_str() != "c",
        _ => true,
    });
    breaks("no-phantom", &evidence);
}

#[test]
fn a_refused_allocation_that_happened() {
    let mut truth = good();
    let at = truth.allocate("d");
    truth.calls[at].outcome = Outcome::Refused { code: String::from("NetworkExhausted") };
    breaks("no-phantom", &truth.evidence());
}

#[test]
fn an_unavailable_release_that_happened() {
    let mut truth = good();
    let at = truth.release("a");
    truth.calls[at].outcome = Outcome::Unavailable;
    breaks("no-phantom", &truth.evidence());
}

#[test]
fn a_host_that_nobody_added() {
    let mut evidence = good().evidence();
    evidence.calls.retain(|call| !matches!(call.command(), Some(Command::AddHost(HostSpec { name, .. })) if name.as_str() == "h1"));
    breaks("no-phantom", &evidence);
}

#[test]
fn a_replica_with_another_history() {
    let mut evidence = good().evidence();
    let said = &mut evidence.testimonies[1];
    let last = said.records.len() - 1;
    said.records[last].actor = Actor::from("somebody else");
    rechain(&mut said.records);
    breaks("one-history", &evidence);
}

#[test]
fn a_replica_that_is_behind_for_good() {
    let mut evidence = good().evidence();
    evidence.testimonies[2].records.pop();
    breaks("one-history", &evidence);
}

#[test]
fn a_digest_that_was_once_another() {
    let mut evidence = good().evidence();
    evidence.samples.push(Sample {
        replica: 1,
        revision: Revision(3),
        digest: Digest::of(b"fork"),
    });
    breaks("one-history", &evidence);
}

#[test]
fn a_backup_of_something_else() {
    let mut evidence = good().evidence();
    evidence.backups[0].live.pop();
    breaks("backup", &evidence);
    let mut evidence = good().evidence();
    evidence.backups[0].digest = Digest::of(b"fork");
    breaks("backup", &evidence);
    let mut evidence = good().evidence();
    evidence.backups[0].fault = Some("the digest of the whole is wrong".into());
    breaks("backup", &evidence);
}

#[test]
fn a_broken_chain() {
    let mut evidence = good().evidence();
    for said in &mut evidence.testimonies {
        said.records[3].digest = Digest::of(b"damage");
    }
    breaks("chain", &evidence);
}

#[test]
fn a_missing_record() {
    let mut evidence = good().evidence();
    for said in &mut evidence.testimonies {
        said.records.remove(3);
    }
    breaks("chain", &evidence);
}

#[test]
fn time_that_goes_back() {
    let mut evidence = good().evidence();
    forge(&mut evidence, |records| {
        let last = records.len() - 1;
        records[last].at = Millis(1);
    });
    breaks("chain", &evidence);
}

#[test]
fn a_live_address_that_a_replica_forgot() {
    let mut evidence = good().evidence();
    evidence.testimonies[0].live.pop();
    breaks("live", &evidence);
}

#[test]
fn a_follower_that_saw_a_gap() {
    let mut evidence = good().evidence();
    evidence.followed[0].faults.push(String::from("record 9 cannot follow revision 7"));
    breaks("feed", &evidence);
}

#[test]
fn a_follower_that_stopped_short() {
    let mut evidence = good().evidence();
    evidence.followed[0].digests.pop();
    breaks("feed", &evidence);
}

#[test]
fn a_follower_with_another_digest() {
    let mut evidence = good().evidence();
    evidence.followed[0].digests[5] = Digest::of(b"fork");
    breaks("feed", &evidence);
}

#[test]
fn a_block_outside_its_group() {
    let mut evidence = good().evidence();
    forge(&mut evidence, |records| {
        for record in records {
            if let Event::BlockAssigned(event) = &mut record.event {
                event.group = "10.99.0.0/24".parse().expect("a prefix");
            }
        }
    });
    breaks("blocks", &evidence);
}

#[test]
fn a_block_released_with_addresses_in_use() {
    let mut evidence = good().evidence();
    forge(&mut evidence, |records| {
        let block = records.iter().find_map(|record| match &record.event {
            Event::BlockAssigned(event) => Some(event.clone()),
            _ => None,
        });
        let block = block.expect("a block was assigned");
        let mut record = records.last().expect("not empty").clone();
        record.event = Event::BlockReleased(romana_statemachine::event::BlockReleased {
            cidr: block.cidr,
            host: block.host,
            reusable_at: Millis(0),
        });
        records.push(record);
    });
    breaks("blocks", &evidence);
}

#[test]
fn a_local_read_that_goes_back_or_is_of_no_time() {
    let mut truth = good();
    let revision = truth.state.revision();
    let local = |revision| Outcome::Acked { revision, changed: None, held: None };
    truth.call(Ask::Local("nobody".into(), 1), local(revision));
    truth.call(Ask::Local("nobody".into(), 2), local(revision.minus(2)));
    truth.call(Ask::Local("nobody".into(), 2), local(revision.minus(1)));
    assert_eq!(judge(&truth.evidence()), []);
    let mut back = truth.evidence();
    back.calls.push(truth.calls[truth.calls.len() - 1].clone());
    back.calls.last_mut().expect("a call").outcome = local(revision.minus(3));
    breaks("local-reads", &back);
    truth.call(Ask::Local("a".into(), 3), local(revision));
    breaks("local-reads", &truth.evidence());
}

#[test]
fn a_replica_that_shows_another_state() {
    let mut evidence = good().evidence();
    evidence.testimonies[2].snapshot["hosts"] = serde_json::json!([]);
    breaks("one-history", &evidence);
}

#[test]
fn a_long_silence_without_a_fault() {
    let mut truth = good();
    truth.clock += 12_000 * MS;
    truth.allocate("late");
    let mut evidence = truth.evidence();
    breaks("liveness", &evidence);
    let [from, until] = [1_000 * MS, 5_000 * MS];
    let (fault, hit) = ("kill-all".parse().expect("a fault"), String::from("all"));
    evidence.faults.push(crate::nemesis::Injected { fault, hit, from, until });
    assert_eq!(judge(&evidence), [], "the fault explains it");
}

#[test]
fn stamps_of_another_time() {
    // Each stamp is this far ahead of the judge's clock, or behind it.
    let stamped = |ahead: u64, behind: u64| {
        let truth = good();
        let mut evidence = Evidence { began: Some(Millis(0)), ..truth.evidence() };
        for call in &mut evidence.calls {
            let Outcome::Acked { revision, .. } = call.outcome else { continue };
            let at = truth.records[usize::try_from(revision.get()).expect("small") - 1].at.0;
            let asked = (at + behind).saturating_sub(ahead);
            (call.invoked, call.returned) = (asked * MS, (asked + 1) * MS);
        }
        laws(&judge(&evidence)).contains(&"log-time")
    };
    assert!(!stamped(0, 0) && !stamped(11_900, 0) && !stamped(0, 11_900));
    assert!(stamped(12_100, 0) && stamped(0, 12_100));
    breaks("log-time", &Evidence { began: Some(Millis(0)), ..good().evidence() });
}

#[test]
fn an_audit_that_names_somebody_else() {
    let mut truth = good();
    let [a, b] = [truth.held(begin()), truth.held(begin() + 1)];
    let revision = truth.state.revision();
    let answer = |held| Outcome::Acked { revision, changed: None, held };
    truth.call(Ask::Who(a.ip), answer(Some(a)));
    truth.call(Ask::Who(b.ip), answer(None));
    assert_eq!(judge(&truth.evidence()), []);
    truth.call(Ask::Who(b.ip), answer(Some(b)));
    breaks("who", &truth.evidence());
}

/// Calls before the first of a run: the setup.
fn begin() -> usize {
    world().len()
}

#[test]
fn two_names_that_surely_hold_one_address() {
    let mut truth = good();
    let [a, c] = [begin(), truth.calls.len() - 1].map(|call| truth.held(call));
    truth.read("a", Some(a.clone()));
    let mut evidence = truth.evidence();
    assert_eq!(judge(&evidence), []);
    // The answer to the allocation of c contains the address of a.
    let Outcome::Acked { held: Some(held), .. } =
        &mut evidence.calls[truth.calls.len() - 2].outcome
    else {
        unreachable!()
    };
    held.ip = a.ip;
    breaks("exclusive", &evidence);
    // c is seen at the address of a.
    truth.read("c", Some(HeldAddress { ip: a.ip, ..c }));
    breaks("exclusive", &truth.evidence());
    // Once a may have been released, that is possible.
    truth.release("a");
    let last = truth.calls.len() - 1;
    truth.calls.swap(last, last - 1);
    let [read, release] = [last, last - 1];
    (truth.calls[read].invoked, truth.calls[read].returned) = (truth.clock, truth.clock + MS);
    truth.calls[release].outcome = Outcome::Unknown;
    let broken = laws(&judge(&truth.evidence()));
    assert!(!broken.contains(&"exclusive"), "{broken:?}");
}

#[test]
fn an_address_that_did_not_rest() {
    let mut evidence = good().evidence();
    forge(&mut evidence, |records| {
        let released = records.iter().find_map(|record| match &record.event {
            Event::AddressReleased(event) => Some((record.at, event.ip)),
            _ => None,
        });
        let (at, ip) = released.expect("b was released");
        let c = position(records, "c");
        let Event::AddressAllocated(next) = &mut records[c].event else { unreachable!() };
        next.ip = ip;
        records[c].at = Millis(at.0 + 249);
    });
    breaks("reuse", &evidence);
}

/// Every law in the table has tests here.
#[test]
fn every_law_has_a_test_that_breaks_it() {
    let tests = [
        include_str!("tests.rs"),
        include_str!("tests/abuse.rs"),
        include_str!("tests/audit.rs"),
        include_str!("tests/kubernetes.rs"),
    ]
    .concat();
    for law in super::LAWS.iter().filter(|law| !["digest", "replay"].contains(&law.name)) {
        assert!(tests.contains(&format!("breaks(\"{}\"", law.name)), "{}", law.name);
    }
}

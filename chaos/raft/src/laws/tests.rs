use romana_statemachine::event::TenantCreated;
use romana_statemachine::{Digest, Index, Millis, Revision};

use super::*;

/// A request to a node, with the positions of request and answer in the sequence of observations.
fn operation(
    question: Question,
    name: &str,
    node: u64,
    asked: u64,
    answered: Option<(u64, Answer)>,
) -> Operation {
    let during = (Duration::from_secs(asked), Duration::from_secs(asked + 1));
    Operation { name: format!("{PREFIX}{name}"), node, question, asked, answered, during }
}

fn made(name: &str, asked: u64, answered: u64, revision: Revision) -> Operation {
    operation(Question::Make, name, 1, asked, Some((answered, Answer::At(revision))))
}

fn read(question: Question, node: u64, asked: u64, answered: u64, seen: Revision) -> Operation {
    operation(question, "", node, asked, Some((answered, Answer::At(seen))))
}

/// A record of a tenant, with a stamp relative to the start of the run.
fn record(revision: Revision, name: &str, after: Duration) -> Record {
    let at = Millis(u64::try_from(true_time(after).as_millis()).unwrap());
    let tenant =
        TenantCreated { id: format!("{PREFIX}{name}").as_str().into(), labels: BTreeMap::new() };
    let (actor, digest) = ("client".into(), Digest::default());
    Record {
        revision,
        index: Index(revision.get()),
        at,
        actor,
        event: Event::TenantCreated(tenant),
        digest,
    }
}

fn broken(law: impl FnOnce(&mut Broken)) -> Vec<&'static str> {
    let mut found = Broken::new();
    law(&mut found);
    found.into_iter().map(|(law, _)| law).collect()
}

#[test]
fn an_answer_is_not_older_than_what_was_known_before_it_was_asked_for() {
    let check = |operations: &[Operation]| broken(|found| linearizable(operations, found));
    let first = || made("a", 1, 2, Revision(5));
    assert_eq!(check(&[first(), read(Question::Read, 2, 3, 4, Revision(5))]), [""; 0]);
    assert_eq!(check(&[first(), read(Question::Read, 2, 3, 4, Revision(4))]), ["linearizable"]);
    // Requested before the other answer, so it may be older.
    assert_eq!(
        check(&[made("a", 1, 4, Revision(5)), read(Question::Read, 2, 3, 5, Revision(4))]),
        [""; 0]
    );
    assert_eq!(
        check(&[first(), made("b", 3, 4, Revision(5))]),
        ["linearizable"],
        "a write is a new revision"
    );
    assert_eq!(
        check(&[first(), read(Question::ReadHere, 2, 3, 4, Revision(1))]),
        [""; 0],
        "that is its right"
    );
}

#[test]
fn a_replica_does_not_show_less_than_before() {
    let check = |operations: &[Operation]| broken(|found| local_reads(operations, found));
    let here = |node, asked, seen| read(Question::ReadHere, node, asked, asked + 1, seen);
    assert_eq!(
        check(&[here(1, 1, Revision(5)), here(2, 3, Revision(4)), here(1, 5, Revision(5))]),
        [""; 0]
    );
    assert_eq!(check(&[here(1, 1, Revision(5)), here(1, 3, Revision(4))]), ["local reads"]);
}

#[test]
fn what_was_answered_is_there_and_nothing_else() {
    let check = |operations: &[Operation], records: &[Record]| {
        broken(|found| kept(1, operations, records, found))
    };
    let there = |revision, name| record(revision, name, Duration::ZERO);
    assert_eq!(check(&[made("a", 1, 2, Revision(5))], &[there(Revision(5), "a")]), [""; 0]);
    assert_eq!(check(&[made("a", 1, 2, Revision(5))], &[]), ["kept"], "lost");
    assert_eq!(
        check(&[made("a", 1, 2, Revision(5))], &[there(Revision(6), "a")]),
        ["kept"],
        "elsewhere"
    );
    assert_eq!(
        check(&[made("a", 1, 2, Revision(5))], &[there(Revision(5), "a"), there(Revision(6), "a")]),
        ["kept"],
        "twice"
    );
    let told = |answer| operation(Question::Make, "a", 1, 1, Some((2, answer)));
    assert_eq!(check(&[told(Answer::Refused)], &[there(Revision(5), "a")]), ["kept"]);
    assert_eq!(check(&[told(Answer::Unknown)], &[there(Revision(5), "a")]), [""; 0]);
    assert_eq!(check(&[told(Answer::Unknown)], &[]), [""; 0]);
    assert_eq!(check(&[], &[there(Revision(5), "a")]), ["kept"], "nobody made it");
}

#[test]
fn a_stamp_is_not_far_from_the_true_time() {
    let check = |after: Duration| {
        let operations = [made("a", 100, 2, Revision(5))];
        broken(|found| log_time(&operations, &[record(Revision(5), "a", after)], found))
    };
    let bound = Duration::from_millis(OFF_MAX);
    let (asked, answered) = (Duration::from_secs(100), Duration::from_secs(101));
    assert_eq!(check(asked), [""; 0]);
    assert_eq!(check(asked - bound), [""; 0]);
    assert_eq!(check(answered + bound), [""; 0]);
    assert_eq!(check(asked - bound - Duration::from_millis(1)), ["log time"]);
    assert_eq!(check(answered + bound + Duration::from_millis(1)), ["log time"]);
}

//! Laws about the answers and the final history. (The book checks the laws that must hold at every moment:
//! one history, one leader per term.)
//!
//! The order of all writes is known, as each answer contains its revision. Therefore linearizability needs no
//! search: it suffices that no answer is older than one given before the request.

use std::collections::BTreeMap;
use std::time::Duration;

use romana_statemachine::{Event, Record, Revision};
use romana_storage::platform::true_time;

use crate::node::PREFIX;
use crate::profile::RIGHT;
use crate::recorder::{Answer, Book, Operation, Question};

impl Operation {
    fn told(&self) -> Option<(u64, Revision)> {
        match self.answered {
            Some((at, Answer::At(revision))) => Some((at, revision)),
            _ => None,
        }
    }
}

/// Checks all laws. `records`: the final history of each replica. `clocks`: whether a majority of the
/// clocks was correct throughout.
pub(crate) fn judge(book: &mut Book, records: &BTreeMap<u64, Vec<Record>>, clocks: bool) {
    let mut broken = Vec::new();
    linearizable(&book.operations, &mut broken);
    local_reads(&book.operations, &mut broken);
    for (node, records) in records {
        kept(*node, &book.operations, records, &mut broken);
        if clocks {
            log_time(&book.operations, records, &mut broken);
        }
        for record in records {
            book.see(*node, record.revision, record.digest);
        }
    }
    for (law, how) in broken {
        book.break_law(law, how);
    }
}

type Broken = Vec<(&'static str, String)>;

/// Writes and reads take effect between request and answer.
fn linearizable(operations: &[Operation], broken: &mut Broken) {
    let mut moments: Vec<(u64, bool, &Operation)> = Vec::new();
    for operation in operations {
        if operation.question != Question::ReadHere
            && let Some((answered, _)) = operation.told()
        {
            moments.push((operation.asked, true, operation));
            moments.push((answered, false, operation));
        }
    }
    moments.sort_by_key(|(at, ..)| *at);
    let (mut known, mut floors) = (Revision(0), BTreeMap::new());
    for (_, asked, operation) in moments {
        let Some((_, revision)) = operation.told() else { continue };
        if asked {
            floors.insert(operation.asked, known);
            continue;
        }
        let floor = floors.remove(&operation.asked).unwrap_or_default();
        let is_write = operation.question == Question::Make;
        if revision < floor || is_write && revision == floor {
            let Operation { node, name, question, .. } = operation;
            broken.push((
                "linearizable",
                format!(
                    "{question:?} {name} on node {node} was answered at revision {revision}, and \
                     {floor} had been answered before it was asked"
                ),
            ));
        }
        known = known.max(revision);
    }
}

/// Local reads of one replica are monotonic, also across restarts.
fn local_reads(operations: &[Operation], broken: &mut Broken) {
    let mut reads: Vec<&Operation> =
        operations.iter().filter(|read| read.question == Question::ReadHere).collect();
    reads.sort_by_key(|read| read.asked);
    let mut answers: BTreeMap<u64, Vec<(u64, Revision)>> = BTreeMap::new();
    for read in &reads {
        if let Some(told) = read.told() {
            answers.entry(read.node).or_default().push(told);
        }
    }
    for read in reads {
        let Some((_, revision)) = read.told() else { continue };
        let before = answers.get(&read.node).into_iter().flatten();
        let floor = before.filter(|(at, _)| *at < read.asked).map(|(_, seen)| *seen).max();
        if floor.is_some_and(|floor| floor > revision) {
            let how = format!("node {} showed {revision} after {floor:?}", read.node);
            broken.push(("local reads", how));
        }
    }
}

/// Acknowledged writes are in the history at their revisions, refused ones are not, and none occurs twice.
fn kept(node: u64, operations: &[Operation], records: &[Record], broken: &mut Broken) {
    let mut made: BTreeMap<&str, Vec<Revision>> = BTreeMap::new();
    for record in records {
        if let Event::TenantCreated(tenant) = &record.event
            && tenant.id.as_str().starts_with(PREFIX)
        {
            made.entry(tenant.id.as_str()).or_default().push(record.revision);
        }
    }
    for operation in operations.iter().filter(|made| made.question == Question::Make) {
        let name = &operation.name;
        let found = made.remove(name.as_str()).unwrap_or_default();
        let answer = operation.answered.map(|(_, answer)| answer);
        let right = match answer {
            Some(Answer::At(revision)) => found == [revision],
            Some(Answer::Refused) => found.is_empty(),
            Some(Answer::Unknown) | None => found.len() <= 1,
        };
        if !right {
            let how =
                format!("{name}: answered {answer:?}; in the history of node {node} at {found:?}");
            broken.push(("kept", how));
        }
    }
    if let Some((name, found)) = made.first_key_value() {
        broken.push(("kept", format!("nobody made {name}, which node {node} has at {found:?}")));
    }
}

/// Maximum error of a stamp, milliseconds: clocks up to twice ten seconds apart form a majority while a third
/// is unreachable (`cluster_time`); a reading takes up to a second.
const OFF_MAX: u64 = 10_000 + 1_000 + 4 * RIGHT.unsigned_abs();

/// Stamps lie between request and answer.
fn log_time(operations: &[Operation], records: &[Record], broken: &mut Broken) {
    let milli =
        |elapsed: Duration| u64::try_from(true_time(elapsed).as_millis()).unwrap_or(u64::MAX);
    let stamps: BTreeMap<Revision, u64> =
        records.iter().map(|record| (record.revision, record.at.0)).collect();
    for operation in operations.iter().filter(|made| made.question == Question::Make) {
        let Some((_, revision)) = operation.told() else { continue };
        let Some(at) = stamps.get(&revision) else { continue };
        let (from, to) = (milli(operation.during.0), milli(operation.during.1));
        if *at > to + OFF_MAX || at + OFF_MAX < from {
            let how = format!(
                "revision {revision} is stamped {at}; it was asked for at {from} and answered at {to}"
            );
            broken.push(("log time", how));
        }
    }
}

#[cfg(test)]
mod tests;

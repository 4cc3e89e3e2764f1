//! Records all observations that the laws are checked with.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use romana_statemachine::{Digest, Revision, Term};

/// A client's request.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) enum Question {
    /// Create a tenant with a unique name.
    Make,
    /// A linearizable read.
    Read,
    /// A local read.
    ReadHere,
}

/// A client's answer.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Done, or read, at this revision.
    At(Revision),
    /// Nothing was committed.
    Refused,
    /// It may have been committed, or be committed later.
    Unknown,
}

/// A request and its answer.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    /// Name of the object to create.
    pub(crate) name: String,
    /// The replica asked.
    pub(crate) node: u64,
    pub(crate) question: Question,
    pub(crate) asked: u64,
    /// `None`: the client died first.
    pub(crate) answered: Option<(u64, Answer)>,
    /// Times of request and answer, since the start of the run.
    pub(crate) during: (Duration, Duration),
}

/// The observations. Time is the position in the sequence of all observations.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) operations: Vec<Operation>,
    /// The digest of each revision, and the first replica that reported it.
    pub(crate) digests: BTreeMap<Revision, (Digest, u64)>,
    /// The leader of each term.
    pub(crate) leaders: BTreeMap<Term, u64>,
    /// Violations, in the order of detection.
    pub(crate) broken: Vec<String>,
    /// Injected faults, as text.
    pub(crate) told: Vec<String>,
    /// Number of operations requested before the last fault.
    pub(crate) mark: usize,
    time: u64,
    trace: u64,
}

/// A shared handle of the book for the single thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared(Rc<RefCell<Book>>);

impl Shared {
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut Book) -> R) -> R {
        work(&mut self.0.borrow_mut())
    }
}

impl Book {
    fn tick(&mut self) -> u64 {
        self.time += 1;
        self.time
    }

    /// Adds a value to the trace, which is used to compare runs.
    pub(crate) fn trace(&mut self, what: impl Hash) {
        let mut hasher = DefaultHasher::new();
        (self.trace, what).hash(&mut hasher);
        self.trace = hasher.finish();
    }

    /// Digest of the trace so far.
    pub(crate) fn traced(&self) -> u64 {
        self.trace
    }

    pub(crate) fn ask(&mut self, node: u64, name: String, question: Question) -> usize {
        let asked = self.tick();
        let during = (now(), Duration::MAX);
        self.operations.push(Operation { name, node, question, asked, answered: None, during });
        self.operations.len() - 1
    }

    pub(crate) fn answer(&mut self, which: usize, answer: Answer) {
        let at = self.tick();
        self.trace((which, answer));
        if let Some(operation) = self.operations.get_mut(which) {
            operation.answered = Some((at, answer));
            operation.during.1 = now();
        }
    }

    /// Records a replica's state.
    pub(crate) fn see(&mut self, node: u64, revision: Revision, digest: Digest) {
        if revision == 0 {
            return;
        }
        let (known, first) = *self.digests.entry(revision).or_insert((digest, node));
        if known != digest {
            self.break_law(
                "one history",
                format!(
                    "revision {revision} is {known} on node {first} and {digest} on node {node}"
                ),
            );
        }
    }

    /// Records the leader of a term.
    pub(crate) fn lead(&mut self, node: u64, term: Term) {
        let first = *self.leaders.entry(term).or_insert(node);
        if first != node {
            self.break_law(
                "one leader",
                format!("nodes {first} and {node} both lead in term {term}"),
            );
        }
    }

    pub(crate) fn break_law(&mut self, law: &str, how: String) {
        self.broken.push(format!("BROKEN {law}: {how}"));
    }

    pub(crate) fn tell(&mut self, at: u64, what: String) {
        self.told.push(format!("{:>7.3} s  {what}", at as f64 / 1000.0));
    }
}

/// Time since the start of the run.
fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

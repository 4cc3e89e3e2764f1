//! Who saw what, and when: all that the laws are judged by.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use romana_statemachine::{Digest, Revision, Term};

/// What a client asked.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) enum Question {
    /// To make a tenant that nobody else makes.
    Make,
    /// For the state as of now.
    Read,
    /// For the state that this replica has.
    ReadHere,
}

/// What it was told.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Done, or read, at this revision.
    At(Revision),
    /// Nothing happened.
    Refused,
    /// It may have happened, or happen yet.
    Unknown,
}

/// A question and its answer.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    /// Names what is made.
    pub(crate) name: String,
    /// The replica that was asked.
    pub(crate) node: u64,
    pub(crate) question: Question,
    pub(crate) asked: u64,
    /// `None`: its client died first.
    pub(crate) answered: Option<(u64, Answer)>,
    /// When it was asked and answered, since the run began.
    pub(crate) during: (Duration, Duration),
}

/// What is known. Time is the place in the order of everything that was written here.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) operations: Vec<Operation>,
    /// The digest of each revision, and who said so first.
    pub(crate) digests: BTreeMap<Revision, (Digest, u64)>,
    /// Who led in each term.
    pub(crate) leaders: BTreeMap<Term, u64>,
    /// What cannot be, in the order found.
    pub(crate) broken: Vec<String>,
    /// What was done to whom, for people.
    pub(crate) told: Vec<String>,
    /// Operations asked before the last fault.
    pub(crate) mark: usize,
    time: u64,
    trace: u64,
}

/// The book, from everywhere in the one thread.
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

    /// Mixes something into the trace, by which two runs are compared.
    pub(crate) fn trace(&mut self, what: impl Hash) {
        let mut hasher = DefaultHasher::new();
        (self.trace, what).hash(&mut hasher);
        self.trace = hasher.finish();
    }

    /// The trace so far.
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

    /// A replica has this state.
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

    /// A replica leads in a term.
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

/// Since the run began.
fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

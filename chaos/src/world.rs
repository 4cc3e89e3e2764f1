//! # The world in one process
//!
//! The state machine, the agents' planners and kernels that are maps, driven by a seed: no process, no clock, no
//! socket, so thousands of schedules a minute, and the same again from the same seed.
//!
//! ```text
//!   step ──► Log (entries) ──► replicas: apply; one is restarted from a snapshot, one folds the events
//!     │                │
//!     │                └─► feed ──► agents: view ──► plan, diff ──► kernel (may fail after any write)
//!     └─► laws, after each step
//! ```
//! What runs is what ships: [`State`], cluster time, the agents' views, `routes::plan`, `diff`, the policy compiler. What is
//! modelled: kernels (maps of routes), the feed (in order, late, cut), disks (a copy that is saved now and
//! then), and containers (who has which address).
//!
//! A law is a file in `world/laws/` and a line in [`LAWS`]. Left out: Raft and its log (`chaos run` has the real
//! ones), and what rules do to packets (`agent/tests/policy` has an interpreter).

mod agent;
mod clocks;
mod laws;
mod shrink;
mod step;

use std::fmt;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use romana_statemachine::{
    Command, Digest, Entry, Outcome, Position, Proposal, Record, State, Term,
};

pub use agent::Agent;
use clocks::Clocks;
pub use shrink::shrink;
pub use step::Step;

/// Hosts, and so agents.
pub const HOSTS: usize = 4;

/// A law.
#[derive(Debug)]
pub struct Law {
    /// What reports call it.
    pub name: &'static str,
    pub says: &'static str,
    check: fn(&World) -> Result<(), String>,
}

/// All laws.
pub const LAWS: &[&Law] = &[
    &laws::valid::LAW,
    &laws::same_state::LAW,
    &laws::in_use::LAW,
    &laws::causes::LAW,
    &laws::fail_static::LAW,
    &laws::foreign::LAW,
    &laws::converged::LAW,
    &laws::policy::LAW,
    &laws::vips::LAW,
    &laws::log_time::LAW,
];

/// A law that was broken, and by which step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The law's name.
    pub law: &'static str,
    /// What was seen.
    pub what: String,
    /// The place of the step in the schedule.
    pub step: usize,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by step {}: {}", self.law, self.step, self.what)
    }
}

/// Bugs that are planted at the seams, to see that the laws notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Every fifth record is not delivered to agents.
    LostRecord,
    /// Every seventh write to a kernel is lost, and nobody is told.
    LostWrite,
    /// An agent that has not caught up takes away what its copy does not know.
    EagerStart,
    /// An agent takes routes of others for its own.
    ForeignTaken,
    /// A replica misses an entry.
    LostEntry,
    /// A container goes on with an address that its agent has given up.
    Zombie,
    /// The leader stamps entries with its own clock.
    OwnClock,
}

/// The world.
#[derive(Clone, Debug)]
pub struct World {
    /// Everything that was decided.
    pub records: Vec<Record>,
    /// What the last entry did.
    last: Vec<(Command, Outcome, Vec<Record>)>,
    /// Three that apply entries, and one that folds events.
    replicas: [State; 3],
    fold: State,
    agents: Vec<Agent>,
    /// What time it is, and what the replicas believe.
    clocks: Clocks,
    /// Whether the last step changed a replica, or may have: what is as it was need not be judged again.
    changed: bool,
    /// Whether everything was heard and done in the last step.
    quiet: bool,
    bug: Option<Bug>,
}

impl World {
    /// An empty one, with the newest version of the log.
    #[must_use]
    pub fn new(bug: Option<Bug>) -> Self {
        let state = State::new();
        let mut world = Self {
            records: Vec::new(),
            last: Vec::new(),
            replicas: [state.clone(), state.clone(), state.clone()],
            fold: state,
            agents: (0..HOSTS).map(Agent::new).collect(),
            clocks: Clocks::new(bug == Some(Bug::OwnClock)),
            changed: true,
            quiet: false,
            bug,
        };
        for command in step::beginning() {
            world.propose(&command);
        }
        world
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.replicas[0]
    }

    /// Commits an entry with one command.
    fn propose(&mut self, command: &Command) -> Outcome {
        self.changed = true;
        self.clocks.pass(1);
        let index = self.replicas[0].index().next();
        let proposal = Proposal { actor: "world".into(), command: command.clone() };
        let entry = Entry { at: self.clocks.stamp(), proposals: vec![proposal] };
        let position = Position { term: Term(1), index };
        let (mut outcomes, records) = self.replicas[0].apply(position, &entry);
        for (at, replica) in self.replicas.iter_mut().enumerate().skip(1) {
            if self.bug == Some(Bug::LostEntry) && at == 2 && index.get().is_multiple_of(40) {
                continue;
            }
            replica.apply(position, &entry);
        }
        for record in &records {
            // What cannot follow is for the law of equal states to see.
            _ = self.fold.follow(record);
        }
        let outcome = outcomes.remove(0);
        self.last.push((command.clone(), outcome.clone(), records.clone()));
        self.records.extend(records);
        outcome
    }

    /// Takes a step, and judges.
    ///
    /// # Errors
    /// The law that it broke, and what was seen.
    pub fn take(&mut self, step: &Step) -> Result<(), (&'static str, String)> {
        self.last.clear();
        (self.changed, self.quiet) = (false, false);
        step::take(self, step);
        for law in LAWS {
            (law.check)(self).map_err(|what| (law.name, what))?;
        }
        Ok(())
    }

    /// What happened so far, as a digest: the same schedule gives the same.
    #[must_use]
    pub fn trace(&self) -> Digest {
        let kernels: Vec<String> =
            self.agents.iter().map(|it| format!("{:?}", it.kernel)).collect();
        Digest::of(format!("{}{kernels:?}", self.state().digest()).as_bytes())
    }
}

/// Takes the steps of a schedule. Returns the trace's digest.
///
/// # Errors
/// The first law that was broken.
pub fn play(steps: &[Step], bug: Option<Bug>) -> Result<Digest, Broken> {
    let mut world = World::new(bug);
    for (number, step) in steps.iter().enumerate() {
        world.take(step).map_err(|(law, what)| Broken { law, what, step: number })?;
    }
    Ok(world.trace())
}

/// Draws a schedule; steps are drawn in sight of what is there, so that they meet it.
///
/// # Errors
/// The schedule up to the step that broke a law, and which.
pub fn run(seed: u64, steps: usize, bug: Option<Bug>) -> Result<Digest, (Vec<Step>, Broken)> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut world = World::new(bug);
    let mut taken = Vec::with_capacity(steps);
    for number in 0..steps {
        let last = number + 1 == steps;
        let step = if last { Step::Settle } else { step::draw(&world, &mut rng) };
        taken.push(step);
        if let Err((law, what)) = world.take(&taken[number]) {
            return Err((taken, Broken { law, what, step: number }));
        }
    }
    Ok(world.trace())
}

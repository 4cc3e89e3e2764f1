//! # The world in one process
//!
//! A simulation of the state machine, the agents' planners, and kernels modelled as maps, driven by a seed:
//! without processes, clocks or sockets, it runs thousands of schedules a minute, and is reproducible.
//!
//! ```text
//!   step ──► Log (entries) ──► replicas: apply; one is restarted from a snapshot, one folds the events
//!     │                │
//!     │                └─► feed ──► agents: view ──► plan, diff ──► kernel (may fail after any write)
//!     └─► laws, after each step
//! ```
//! The code is the production code: [`State`], cluster time, the agents' views, `routes::plan`, `diff`, the
//! policy compiler. Modelled are kernels (maps of routes), the feed (in order, delayed, interrupted), disks
//! (a view saved now and then), and containers (which has which address).
//!
//! A law is a file in `world/laws/` and a line in [`LAWS`]. Not covered: Raft and its log (`chaos run` has
//! the real ones), and the effect of rules on packets (`agent/tests/policy` has an interpreter).

mod agent;
mod clocks;
mod laws;
mod shrink;
mod step;

use std::fmt;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use romana_statemachine::command::WithdrawObject;
use romana_statemachine::{
    Command, Digest, Entry, Outcome, Position, Proposal, Record, State, Term,
};

pub use agent::Agent;
use clocks::Clocks;
pub use shrink::shrink;
pub use step::Step;

/// Number of hosts, each with an agent.
pub const HOSTS: usize = 4;

/// A law.
#[derive(Debug)]
pub struct Law {
    /// Name in reports.
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
    &laws::imports::LAW,
    &laws::log_time::LAW,
];

/// A broken law, and the step that broke it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub law: &'static str,
    /// The observation that breaks it.
    pub what: String,
    /// Index of the step in the schedule.
    pub step: usize,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by step {}: {}", self.law, self.step, self.what)
    }
}

/// Bugs injected at interfaces, to verify that the laws detect them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Every fifth record is not delivered to agents.
    LostRecord,
    /// Every seventh write to a kernel is silently lost.
    LostWrite,
    /// An agent that has not caught up removes routes that its saved view does not have.
    EagerStart,
    /// An agent treats other programs' routes as its own.
    ForeignTaken,
    /// A replica misses an entry.
    LostEntry,
    /// A container continues to use an address that its agent has released.
    Zombie,
    /// The leader stamps entries with its own clock.
    OwnClock,
    /// What is withdrawn for one source is withdrawn for whichever it belongs to.
    AnySource,
}

/// The simulated world.
#[derive(Clone, Debug)]
pub struct World {
    /// All records committed so far.
    pub records: Vec<Record>,
    /// The effect of the last entry.
    last: Vec<(Command, Outcome, Vec<Record>)>,
    /// Three replicas that apply entries, and one that applies events.
    replicas: [State; 3],
    fold: State,
    agents: Vec<Agent>,
    /// The true time, and the replicas' clocks.
    clocks: Clocks,
    /// Whether the last step may have changed a replica; if not, it need not be judged again.
    changed: bool,
    /// Whether the last step delivered and applied everything.
    quiet: bool,
    bug: Option<Bug>,
}

impl World {
    /// An empty world, with the newest version of the log.
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
        let proposal = Proposal { actor: "world".into(), command: self.applied(command) };
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
            // The law of equal states detects a failure.
            _ = self.fold.follow(record);
        }
        let outcome = outcomes.remove(0);
        self.last.push((command.clone(), outcome.clone(), records.clone()));
        self.records.extend(records);
        outcome
    }

    /// What becomes of a command on its way into the log.
    fn applied(&self, command: &Command) -> Command {
        match command {
            Command::WithdrawObject(ask) if self.bug == Some(Bug::AnySource) => {
                let source = self.state().source(&ask.object);
                let uid = source.map_or_else(|| ask.uid.clone(), |source| source.uid.clone());
                Command::WithdrawObject(WithdrawObject { uid, ..ask.clone() })
            }
            command => command.clone(),
        }
    }

    /// Executes a step, and checks the laws.
    ///
    /// # Errors
    /// The law that it broke, and the observation.
    pub fn take(&mut self, step: &Step) -> Result<(), (&'static str, String)> {
        self.last.clear();
        (self.changed, self.quiet) = (false, false);
        step::take(self, step);
        for law in LAWS {
            (law.check)(self).map_err(|what| (law.name, what))?;
        }
        Ok(())
    }

    /// Digest of everything that happened: equal schedules give equal digests.
    #[must_use]
    pub fn trace(&self) -> Digest {
        let kernels: Vec<String> =
            self.agents.iter().map(|it| format!("{:?}", it.kernel)).collect();
        Digest::of(format!("{}{kernels:?}", self.state().digest()).as_bytes())
    }
}

/// Executes a schedule. Returns the trace's digest.
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

/// Draws and executes a schedule; steps are drawn depending on the current state, so that they affect it.
///
/// # Errors
/// The schedule up to the step that broke a law, and the law.
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

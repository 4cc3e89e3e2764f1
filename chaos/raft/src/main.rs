//! # Raft under a simulated network, disk and clock
//!
//! Three complete replicas (openraft, our log, state machine, history, snapshots and everything between) in
//! one thread, driven by a seed: thirty seconds of power cuts, killed processes, cut and slow connections,
//! failing syncs and wrong clocks take about one second. The same seed gives the same run, bit by bit.
//!
//! ```text
//!   seed ─► plan (what this run is like) ─► world: a tick, faults, laws; a tick, faults, laws …
//!                                             │
//!              node 1, node 2, node 3: a replica, and clients that ask it ─► book (who saw what, when)
//! ```
//!
//! ## What is exact
//! The order of events: tasks, messages, timers, random values. Every run is one possible order, and the
//! power can fail at any single disk operation, also within what a real disk does as one operation.
//!
//! ## What is not
//! - Computation takes no time, and threads are tasks: data races are not found, nor concurrent threads of
//!   one replica. An uninterrupted step of a worker happens at one instant.
//! - Connections are turmoil's: a lost segment is never resent, so the connection is silent until one side
//!   gives up. Real TCP would continue.
//! - The API and its clients' connections, the audit's index (sled), checkpoints and the feed are not
//!   included; membership does not change. `chaos run` covers all of them with real processes.
//! - Disks lose and tear unsynced data; they do not corrupt synced data. (`chaos run` does that, too.)
//!
//! ## Reading order
//! `plan`, `book` with `laws`, `node`, `world`; `watch` (a run that hangs), `sweep` (many seeds, one process
//! each); `stories` (log and history separately).
//!
//! Built with the feature `simulation`: `make sim` does that.

mod cli;
mod component_fuzz;
mod laws;
mod lie;
mod node;
mod profile;
mod recorder;
mod sweep;
mod watch;
mod world;

fn main() -> anyhow::Result<std::process::ExitCode> {
    cli::main()
}

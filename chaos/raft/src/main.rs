//! # Raft under a simulated network, disk and clock
//!
//! Three whole replicas (openraft, our log, state machine, history, snapshots and everything between) in one
//! thread, from one seed: thirty seconds of power cuts, dead processes, cut and slow connections, failing syncs
//! and wrong clocks take about one. The same seed is the same run, to the last bit.
//!
//! ```text
//!   seed ─► plan (what this run is like) ─► world: a tick, faults, laws; a tick, faults, laws …
//!                                             │
//!              node 1, node 2, node 3: a replica, and clients that ask it ─► book (who saw what, when)
//! ```
//!
//! ## What is exact
//! The order of everything: tasks, messages, timers, dice. Every run is one of the orders that are possible, and
//! the power can go at any single operation on a disk, also in the middle of what a real disk does in one go.
//!
//! ## What is not
//! - A program that computes takes no time, and a thread is a task: there are no data races to be found here,
//!   and no two threads of one replica at once. What a worker does in one go happens at one instant.
//! - Connections are turmoil's: a lost segment is never sent again, so that its connection is silent until
//!   somebody gives up on it. Real TCP would go on.
//! - The API and its clients' connections, the audit's index (sled), checkpoints and the feed are not there;
//!   members do not change. `chaos run` has all of them, with real processes.
//! - Disks lose and tear what was not synced; they do not change what was. (`chaos run` does that, too.)
//!
//! ## Reading order
//! `plan`, `book` with `laws`, `node`, `world`; `watch` (a run that does not end), `sweep` (many seeds, a process
//! each); `stories` (log and history, each alone).
//!
//! Built with `--cfg romana_sim`: `make sim` does that.

#[cfg(romana_sim)]
mod cli;
#[cfg(romana_sim)]
mod component_fuzz;
#[cfg(romana_sim)]
mod laws;
#[cfg(romana_sim)]
mod lie;
#[cfg(romana_sim)]
mod node;
#[cfg(romana_sim)]
mod profile;
#[cfg(romana_sim)]
mod recorder;
#[cfg(romana_sim)]
mod sweep;
#[cfg(romana_sim)]
mod watch;
#[cfg(romana_sim)]
mod world;

#[cfg(romana_sim)]
fn main() -> anyhow::Result<std::process::ExitCode> {
    cli::main()
}

#[cfg(not(romana_sim))]
fn main() -> std::process::ExitCode {
    eprintln!(
        "this build has real disks and networks: build with RUSTFLAGS='--cfg romana_sim --cfg tokio_unstable', or use `make sim`"
    );
    std::process::ExitCode::from(2)
}

//! # The judge
//!
//! Runs real `romanad` processes, injects faults, and checks that the laws hold; and benchmarks them against
//! etcd. Nothing here is linked into the programs under test, and nothing is mocked.
//!
//! ```text
//!   cluster (processes) ◄── nemesis (kill, pause, power cut, partition)
//!        ▲   ▲
//!        │   └── followers, samplers ──┐
//!        └────── workload (clients) ───┴──► evidence::Evidence ──► oracle (pure) ──► violations
//! ```
//! A run may follow a real Kubernetes API server as well ([`kubernetes`]), which is then among the victims.
//!
//!
//! ## Reading order
//! [`evidence`] (what is recorded), [`oracle`] (what must hold), [`run`] (one run), [`nemesis`], [`cluster`],
//! [`kubernetes`], [`audit`] (final queries), [`report`], [`soak`] (many runs); [`mod@bench`] is independent.
//!
//! Runs use real processes, so a seed fixes the random choices, not the timing. [`world`] is the opposite:
//! everything in one process, reproducible from a seed, without Raft; the crate in `raft/` runs Raft, our
//! log, history and snapshots on a simulated network, disk and clock.

pub mod audit;
mod backup;
pub mod bench;
pub mod caller;
mod calm;
pub mod clock;
pub mod cluster;
pub mod evidence;
pub mod final_state;
pub mod follower;
pub mod forger;
pub mod http;
pub mod kubernetes;
pub mod nemesis;
pub mod oracle;
pub mod report;
mod resident;
pub mod run;
pub mod soak;
pub mod wait;
pub mod workload;
pub mod world;

//! # The judge
//!
//! Runs real `romanad` processes, breaks them, and checks that the laws held; and measures them
//! side by side with etcd. Nothing here is linked into what it judges, and nothing is mocked.
//!
//! ```text
//!   cluster (processes) ◄── nemesis (kill, pause, power cut, partition)
//!        ▲   ▲
//!        │   └── followers, samplers ──┐
//!        └────── workload (clients) ───┴──► evidence::Evidence ──► oracle (pure) ──► violations
//! ```
//!
//! ## Reading order
//! [`history`] (what is recorded), [`oracle`] (what it must obey), [`run`] (one run), [`nemesis`],
//! [`cluster`], [`audit`] (questions at the end), [`report`], [`soak`] (many runs); [`mod@bench`] stands alone.
//!
//! Runs are real, so a seed fixes the dice, not the timing. [`world`] is the other way: everything in one process,
//! the same from the same seed, without Raft; the crate in `raft/` has Raft, our log, history and snapshots under a
//! simulated network, disk and clock.

pub mod audit;
mod backup;
pub mod bench;
pub mod caller;
pub mod clock;
pub mod cluster;
pub mod evidence;
pub mod final_state;
pub mod follower;
pub mod forger;
pub mod http;
pub mod nemesis;
pub mod oracle;
pub mod report;
mod resident;
pub mod run;
pub mod soak;
pub mod wait;
pub mod workload;
pub mod world;

//! # Storage
//!
//! What a replica keeps on its disk, and the machine below it: real, or simulated.
//!
//! ```text
//!   wal       what Raft must not forget: entries, votes      history   every record of every event, in segments
//!      └─────────────────────┬──────────────────────────────────┘
//!   durable   files that are whole or not there          state_file   a state in a file: snapshots, checkpoints
//!   disk      is there room, and was it a full disk that refused
//!                            │
//!   platform  files, connections, threads, clocks, random numbers: std and tokio,
//!             or with `--cfg romana_sim` a machine made of memory (`chaos/raft`)
//! ```
//!
//! Nothing here knows Raft: payloads of the log are opaque bytes. The history holds records of the state
//! machine, because their digests are its own proof.
//!
//! Start with [`wal`] and [`history`]: each states its laws at the top.

pub mod disk;
pub mod durable;
pub mod history;
pub mod platform;
pub mod state_file;
pub mod wal;

//! # Storage
//!
//! What a replica keeps on its disk, and the platform below it: real or simulated.
//!
//! ```text
//!   wal       Raft's durable state: entries, votes           history   every record of every event, in segments
//!      └─────────────────────┬──────────────────────────────────┘
//!   durable   atomic file writes                         state_file   a state in a file: snapshots, checkpoints
//!   disk      free space, and detection of full disks
//!                            │
//!   platform  files, connections, threads, clocks, random numbers: std and tokio,
//!             or with the feature `simulation` an in-memory one (`chaos/raft`)
//! ```
//!
//! Nothing here depends on Raft: the log's payloads are opaque bytes. The history stores records of the state
//! machine, because it verifies their digests.
//!
//! Start with [`wal`] and [`history`]: each states its laws at the top.

pub mod disk;
pub mod durable;
pub mod history;
pub mod platform;
pub mod state_file;
pub mod wal;

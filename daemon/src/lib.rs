//! # What every long-running program shares
//!
//! ```text
//!   main ─► config: flag > variable > file > default ─► process: log, runtime, signals, exit code
//!                                                           │
//!     tasks: supervised until SIGTERM, SIGINT, or the first one that dies
//!       ├── reconcile: pass · wake, timer, back-off ──► problems ─┐
//!       ├── the program's own tasks ────────────────► problems ───┤
//!       └── probe: /healthz /readyz /status /metrics ◄────────────┘
//!             └── listener: bounded connections over TCP, or over what an acceptor makes of it
//! ```
//! `examples/idle.rs` is the smallest program of this form. The crate also has error formatting, files at
//! user-supplied paths, durable files, and exclusive directories.

pub mod config;
pub mod durable;
pub mod error;
pub mod file;
pub mod listener;
pub mod log;
pub mod owner;
pub mod probe;
pub mod problems;
pub mod process;
pub mod reconcile;
pub mod repeats;
pub mod tasks;
pub mod whole;

pub use process::Process;
pub use tasks::Tasks;

//! # What every long-running program shares
//!
//! ```text
//!   main ─► process: log, runtime ─► tasks: supervised until SIGTERM, SIGINT, or the first that dies ─► exit code
//! ```
//! Besides: files at paths that users give, directories that are not shared, and how errors are shown.

pub mod config;
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

pub use process::Process;
pub use tasks::Tasks;

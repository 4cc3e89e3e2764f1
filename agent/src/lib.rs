//! # The agent
//!
//! What runs on a host: it follows the log, programs routes, attaches containers, and says what it
//! sees.
//!
//! ```text
//!   feed ──► view ──► plan (pure) ──► diff (pure) ──► kernel          romana-cni ──► attach ──► kernel
//!            copy on disk             ▲ actual                        (socket)       │ ledger on disk
//!                                                                                   └──► log
//! ```

pub mod attach;
pub mod cni;
pub mod config;
pub mod copy;
pub mod daemon;
pub mod follow;
pub mod http;
pub mod kernel;
pub mod ours;
pub mod register;
pub mod router;
pub mod routes;
pub mod status;
pub mod sysctl;
pub mod view;
pub mod wire;

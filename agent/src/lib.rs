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

pub mod ours;
pub mod view;
pub mod wire;

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
//!
//! ## Laws
//! 1. Fail-static: the loss of the control plane, of the agent, or of both changes nothing in the kernel.
//!    Before the agent has caught up with a replica it only puts in what is missing.
//! 2. Only what [`ours`] lists is ever changed or removed.
//! 3. What is right is not written again: a restart writes nothing.
//! 4. A container's policy is in the kernel before its ADD answers; what is not known is closed.
//! 5. An ADD that fails, and a crash anywhere, leave nothing behind; a DEL is never lost.
//!
//! ## Reading order
//! [`ours`], [`view`], [`routes`], [`router`], [`daemon`]; then [`policy`]; then [`wire`], [`cni`], [`attach`]. Left
//! out for now: VIPs.

pub mod attach;
pub mod cleanup;
pub mod cni;
pub mod config;
pub mod connections;
pub mod daemon;
pub mod enrol;
pub mod follow;
pub mod http;
pub mod install;
pub mod kernel;
pub mod nat;
pub mod ours;
pub mod policy;
pub mod pulse;
pub mod register;
pub mod router;
pub mod routes;
pub mod rules;
pub mod state_dir;
pub mod status;
pub mod sysctl;
pub mod view;
pub mod wire;

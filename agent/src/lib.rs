//! # The agent
//!
//! The agent of a host: it follows the log, programs routes, enforces policy,
//! attaches containers, and reports.
//!
//! ```text
//!   feed ──► view ──► plan (pure) ──► diff (pure) ──► kernel          romana-cni ──► attach ──► kernel
//!            copy on disk             ▲ actual                        (socket)       │ store on disk
//!                                                                                   └──► log
//! ```
//!
//! ## Laws
//! 1. Fail static: the loss of the control plane, of the agent, or of both changes nothing in the kernel.
//!    Until the agent has caught up with a replica, it only adds what is missing.
//! 2. Only what [`ownership`] lists is changed or removed.
//! 3. Correct state is not rewritten: a restart writes nothing.
//! 4. A container's policy is in the kernel before its ADD returns; unknown containers are isolated.
//! 5. A VIP's address is on the host only while the leader grants it: the exception from 1.
//! 6. A failed ADD, and a crash at any point, leave nothing behind; a DEL is never lost.
//!
//! ## Reading order
//! [`ownership`], [`view`], [`routes`], [`route_reconciler`], [`daemon`]; then [`policy`]; then [`ipc`], [`cni`],
//! [`attach`]; [`vips`].

pub mod attach;
pub mod cleanup;
pub mod cni;
pub mod config;
pub mod connections;
pub mod daemon;
pub mod enrol;
pub mod follow;
pub mod forwarding;
pub mod heartbeat;
pub mod host_name;
pub mod http;
pub mod install;
pub mod ipc;
pub mod kernel;
pub mod nat;
pub mod ownership;
pub mod policy;
pub mod policy_view;
pub mod register;
pub mod route_reconciler;
pub mod routes;
pub mod state_dir;
pub mod status;
pub mod sysctl;
pub mod view;
pub mod vips;

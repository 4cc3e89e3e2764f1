//! # DNS
//!
//! Names of Kubernetes Services and of Romana's endpoints and VIPs, as a drop-in for kube-dns; all other names are
//! forwarded.
//!
//! ```text
//!   Kubernetes API ──► source::kubernetes ─► Catalogue ─► Services ─┐              copies on disk: both outlive
//!   Romana's feed ───► source::feed ───────► Names ─────────────────┤              a restart without their source
//!                                                                   ▼
//!   UDP, TCP ──► serve: limits, access ──► Question ──► zone::answer (pure) ──► wire: EDNS, truncation ──► client
//!                                              └──────► forward: cache, upstreams ──┘
//! ```
//!
//! ## Laws
//! 1. An answer is a function of the zones' data, the settings and the question.
//! 2. A name that exists without records of the asked type is NODATA, never NXDOMAIN (RFC 2308, section 2), and so is
//!    every name that has names below it (RFC 8020).
//! 3. Fail static: while the API server or the control plane is away, answers stay as they were, after a restart, too.
//! 4. No packet makes the server panic, or makes it send more than the client said that it takes.
//! 5. No recursion for clients outside the configured networks.
//!
//! ## Reading order
//! [`inventory`], [`zone`], [`catalogue`], [`names`]; [`wire`], [`forward`], [`serve`]; [`source`], [`daemon`].

pub mod catalogue;
pub mod config;
pub mod daemon;
pub mod forward;
pub mod http;
pub mod inventory;
pub mod metrics;
pub mod names;
pub mod serve;
pub mod source;
pub mod wire;
pub mod zone;

//! Attaches and detaches containers: serves the plugin's requests on the agent's socket.
//!
//! ```text
//!   ADD: intent on disk ─► addresses from the log ─► pair, addresses, routes ─► policy ─► ready on disk
//!   DEL: removing on disk ─► link gone ─► answer            … and in the background: addresses given back
//! ```
//! A failed ADD is undone like a DEL. A DEL needs neither the container's namespace nor the control plane.
//!
//! Reading order: `store`, `names`, `segment`, `add`, `remove`, `check`, `ability`, `heal`, `recover`,
//! `server`; `report` reports attachments to the control plane; `reserve` holds addresses
//! for use while it is unreachable.

mod ability;
mod add;
mod check;
mod heal;
mod names;
mod recover;
mod remove;
mod report;
mod reserve;
mod segment;
mod server;
mod store;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use romana_client::Client;
use romana_daemon::error::chain;
use romana_statemachine::Revision;
use romana_statemachine::name::HostName;
use rtnetlink::Handle;
use tokio::sync::{Notify, OwnedMutexGuard, watch};
use tokio::time::Instant;

pub use ability::Unable;
pub use names::{is_of, is_ours, name};
pub use server::{News, ServeError, Server, open};
pub use store::{AttachmentAddress, AttachmentStore, BorrowedAddress, Entry, Stage};

use crate::config::Config;
use crate::enrol::EnrolmentState;
use crate::follow::Seen;
use crate::ipc::{Failed, Key};
use crate::kernel::KernelError;
use crate::kernel::netns::NetnsError;
use crate::policy::PolicyStatus;
use crate::policy::gate::EnforcerHandle;
use crate::sysctl::Sysctls;
use reserve::Reserve;

/// Configuration of attachments.
#[derive(Clone, Debug)]
pub struct AttachConfig {
    pub host: HostName,
    /// Socket for the plugin.
    pub socket: PathBuf,
    /// Directory of the attachment store.
    pub state_dir: PathBuf,
    /// Default MTU of containers' links; `None`: the MTU of the link of the host's default route.
    pub mtu: Option<u32>,
    pub route_table: u32,
    pub sysctls: Sysctls,
}

impl From<&Config> for AttachConfig {
    fn from(config: &Config) -> Self {
        Self {
            host: config.host.clone(),
            socket: config.socket.clone(),
            state_dir: config.state_dir.clone(),
            mtu: config.mtu,
            route_table: config.route_table,
            sysctls: config.sysctls.clone(),
        }
    }
}

/// State shared by all requests.
struct Attacher {
    config: AttachConfig,
    store: AttachmentStore,
    reserve: Reserve,
    client: Client,
    seen: watch::Receiver<Seen>,
    handle: Handle,
    gate: EnforcerHandle,
    /// Locks by key: one operation at a time.
    busy: Mutex<BTreeMap<Key, Arc<tokio::sync::Mutex<()>>>>,
    /// MTU towards other hosts: the routes' revision it was computed at, and when.
    mtu: Mutex<Option<((Revision, Instant), u32)>>,
    /// Locks the processing of spooled DELs.
    spool: tokio::sync::Mutex<()>,
    /// Addresses wait to be released.
    released: Notify,
    /// The set of attachments has changed.
    changed: Notify,
    /// Whether this agent is the accepted one of its host.
    enrolment_state: watch::Receiver<EnrolmentState>,
    /// State of policy enforcement.
    policy: watch::Receiver<Option<PolicyStatus>>,
    /// Why no ADD can succeed.
    unable: watch::Sender<Option<Unable>>,
    /// When an ADD last found no free address, and the message; `None`: a later ADD found one.
    exhausted: Mutex<Option<(Instant, String)>>,
}

impl Attacher {
    /// Waits for the lock of a key.
    async fn lock(&self, key: &Key) -> OwnedMutexGuard<()> {
        self.lock_of(key).lock_owned().await
    }

    /// Takes the lock of a key without waiting; `None`: it is held.
    fn try_lock(&self, key: &Key) -> Option<OwnedMutexGuard<()>> {
        self.lock_of(key).try_lock_owned().ok()
    }

    fn lock_of(&self, key: &Key) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        // Drop locks without holders or waiters.
        busy.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(busy.entry(key.clone()).or_default())
    }
}

/// CNI error codes (spec 1.1, section 5); codes from 100 are plugin-specific.
mod code {
    pub(super) const UNSUPPORTED: u32 = 2;
    pub(super) const UNKNOWN_CONTAINER: u32 = 3;
    pub(super) const IO: u32 = 5;
    pub(super) const CONFIG: u32 = 7;
    pub(super) const OWN_NAMESPACE: u32 = 8;
    pub(super) const AGAIN: u32 = 11;
    pub(super) const NOT_AVAILABLE: u32 = 50;
    pub(super) const EXHAUSTED: u32 = 100;
    pub(super) const KERNEL: u32 = 101;
    pub(super) const DUPLICATE: u32 = 102;
    pub(super) const REFUSED: u32 = 103;
    pub(super) const DIFFERS: u32 = 104;
}

fn failed(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Failed {
    Failed { code, msg: msg.into(), details: details.into() }
}

/// When a cooling address becomes available at the latest. Computed without this
/// host's clock, which may be wrong.
fn cooled_down_in(details: &serde_json::Value) -> String {
    let delay = Duration::from_millis(details["reuse_delay_ms"].as_u64().unwrap_or_default());
    format!("try again in {} s at the latest", delay.as_secs() + 1)
}

impl From<KernelError> for Failed {
    fn from(error: KernelError) -> Self {
        failed(code::KERNEL, chain(&error), "")
    }
}

impl From<romana_daemon::durable::DurableError> for Failed {
    fn from(error: romana_daemon::durable::DurableError) -> Self {
        failed(
            code::IO,
            chain(&error),
            "make room, or mend the disk of the agent's state directory",
        )
    }
}

impl From<NetnsError> for Failed {
    fn from(error: NetnsError) -> Self {
        let code = match &error {
            NetnsError::Open { .. } | NetnsError::Other { .. } => code::UNKNOWN_CONTAINER,
            NetnsError::Own { .. } => code::OWN_NAMESPACE,
        };
        failed(code, chain(&error), "")
    }
}

impl From<romana_client::Error> for Failed {
    fn from(error: romana_client::Error) -> Self {
        use romana_client::Error;
        match &error {
            Error::Refused(refusal) if error.code() == Some("NetworkExhausted") => failed(
                code::EXHAUSTED,
                refusal.to_string(),
                "`romana network list` shows what is free",
            ),
            // A temporary condition: runtimes retry after code 11.
            Error::Refused(refusal) if error.code() == Some("AddressCoolingDown") => {
                failed(code::AGAIN, refusal.to_string(), cooled_down_in(&refusal.details))
            }
            Error::Refused(refusal) if error.code() == Some("AllocationHeld") => {
                let details = "try again when their agents have reported, in some seconds; or go on \
                               without them: `romana cluster resume`";
                failed(code::AGAIN, refusal.to_string(), details)
            }
            Error::Refused(refusal) => failed(code::REFUSED, refusal.to_string(), ""),
            Error::Unavailable { .. } | Error::Unknown { .. } => {
                failed(code::AGAIN, chain(&error), "the control plane does not answer: try again")
            }
            Error::Protocol { .. } | Error::Newer { .. } | Error::Config { .. } => {
                failed(code::AGAIN, chain(&error), "")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use romana_client::{ApiError, Error};
    use serde_json::json;

    use super::*;

    #[test]
    fn what_passes_is_tried_again_and_what_does_not_is_not() {
        let refused = |code: &str, details: serde_json::Value| {
            let refusal = ApiError { code: code.into(), details, ..ApiError::default() };
            Failed::from(Error::Refused(Box::new(refusal)))
        };
        let cooling = json!({"released_at": 1_767_225_600_000_u64, "reuse_delay_ms": 20_500});
        let failed = refused("AddressCoolingDown", cooling);
        assert_eq!(
            (failed.code, &*failed.details),
            (code::AGAIN, "try again in 21 s at the latest")
        );
        assert_eq!(refused("AllocationHeld", json!({})).code, code::AGAIN);
        assert_eq!(refused("NetworkExhausted", json!({})).code, code::EXHAUSTED);
        assert_eq!(refused("AddressInUse", json!({})).code, code::REFUSED);
    }
}

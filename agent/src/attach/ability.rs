//! Whether an ADD is expected to succeed: the answer to STATUS, and part of readiness.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use romana_statemachine::name::HostName;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::add::SILENT;
use super::{Attacher, code, failed};
use crate::follow::NOT_FOLLOWED;
use crate::forwarding;
use crate::ipc::Failed;
use crate::ownership::ATTACHMENTS_DIR;
use crate::sysctl::Sysctls;
use crate::view::View;

/// How often readiness is checked.
const PERIOD: Duration = Duration::from_secs(1);
/// A failure that lasts longer is reported as a problem.
const LASTS: Duration = Duration::from_secs(5);
/// How long a network counts as exhausted after an ADD found no address.
const EXHAUSTED_FOR: Duration = Duration::from_secs(30);

/// Why no ADD can succeed.
#[derive(Clone, Debug)]
pub struct Unable {
    why: String,
    since: Instant,
}

impl Unable {
    /// A failure that begins now.
    #[must_use]
    pub fn new(why: String) -> Self {
        Self { why, since: Instant::now() }
    }

    /// The problem to report, once it has lasted: short failures, such as those
    /// at start-up, are not reported.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let lasts = self.since.elapsed() >= LASTS;
        lasts.then(|| format!("no ADD can work: {}", self.why))
    }
}

impl Attacher {
    /// Publishes whether an ADD is expected to succeed, every second and on each change, until `stop`.
    pub(super) async fn watch_ability(self: Arc<Self>, stop: CancellationToken) {
        let mut clock = interval(PERIOD);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut policy, mut enrolment_state) = (self.policy.clone(), self.enrolment_state.clone());
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = clock.tick() => {}
                Ok(()) = policy.changed() => {}
                Ok(()) = enrolment_state.changed() => {}
            }
            let why = self.status().err().map(|why| why.msg);
            self.unable.send_if_modified(|said| {
                let changed = said.as_ref().map(|unable| &unable.why) != why.as_ref();
                if changed {
                    *said = why.map(Unable::new);
                }
                changed
            });
        }
    }

    /// Whether an ADD is expected to succeed.
    pub(super) fn status(&self) -> Result<(), Failed> {
        let unable = |(msg, details): (String, &str)| failed(code::NOT_AVAILABLE, msg, details);
        let seen = self.seen.borrow().clone();
        let Some(view) = &seen.view else {
            let details = "the agent has not heard a replica since it was installed";
            return Err(unable(("nothing is known of the cluster".into(), details)));
        };
        let heard = seen.heard.is_some_and(|heard| heard.elapsed() < SILENT);
        let of_cluster = no_place(view, &self.config.host).or_else(|| {
            self.enrolment_state.borrow().problem().map(|why| (why, "see `romana doctor`"))
        });
        let cut_off = (!heard && self.reserve.is_empty()).then(|| {
            let details =
                "see whether the replicas run, and `romana settings set reserve_per_owner=…`";
            ("no replica answers, and nothing is in reserve".to_owned(), details)
        });
        let stranded = seen.stranded.clone().map(|why| {
            (
                format!("{NOT_FOLLOWED}: {why}"),
                "upgrade romana-agent to the control plane's release",
            )
        });
        let why = of_cluster
            .or(stranded)
            .or(cut_off)
            .or_else(|| full_disk(&self.config.state_dir))
            .or_else(|| not_forwarding(view, &self.config.sysctls))
            .or_else(|| self.no_policy())
            .or_else(|| self.exhausted());
        why.map_or(Ok(()), |why| Err(unable(why)))
    }

    /// Policy is not enforced yet, so a new container would be unprotected.
    fn no_policy(&self) -> Option<(String, &'static str)> {
        let policy = self.policy.borrow().clone().filter(|policy| policy.applied.is_none())?;
        let why = policy.problems.first().cloned();
        let why = why.unwrap_or_else(|| "the packet filter is not in place yet".into());
        Some((why, "see `romana-agent status`; iptables and ipset must be there"))
    }

    /// The last ADD found no free address.
    fn exhausted(&self) -> Option<(String, &'static str)> {
        let last = self.exhausted.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, why) = last.as_ref()?;
        let details = "`romana network list` shows what is free";
        (at.elapsed() < EXHAUSTED_FOR).then(|| (why.clone(), details))
    }
}

/// No network of the cluster has room for containers of this host.
fn no_place(view: &View, host: &HostName) -> Option<(String, &'static str)> {
    if !view.hosts.contains_key(host) {
        let details = "add it with `romana host add`, or start the agent with --register";
        return Some((format!("host {host} is not in the cluster"), details));
    }
    let details = "set one with `romana topology update`";
    view.networks.is_empty().then(|| ("the cluster has no network".into(), details))
}

/// The disk is full, so no attachment can be recorded.
fn full_disk(state_dir: &Path) -> Option<(String, &'static str)> {
    let system = rustix::fs::statvfs(state_dir).ok()?;
    // File systems without an inode limit report zero inodes.
    let full = system.f_bavail == 0 || system.f_files > 0 && system.f_favail == 0;
    let details = "make room on the disk of the agent's state directory, or repair it";
    if full {
        return Some((format!("the disk of {} is full", state_dir.display()), details));
    }
    let store = state_dir.join(ATTACHMENTS_DIR);
    let written = tempfile::NamedTempFile::new_in(&store).and_then(|mut file| file.write_all(b"."));
    let error = written.err()?;
    Some((format!("{} cannot be written to: {error}", store.display()), details))
}

/// The host does not forward packets of containers.
fn not_forwarding(view: &View, sysctls: &Sysctls) -> Option<(String, &'static str)> {
    let mut used = forwarding::families(&view.networks).into_iter();
    let why = used.find_map(|v4| sysctls.forward(v4, false))?;
    Some((why, "start the agent with --set-sysctls"))
}

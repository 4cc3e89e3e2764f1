//! The agent's status: one document for `/status` and `romana-agent status`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use romana_daemon::durable;
use romana_daemon::problems::Problems;
use romana_daemon::reconcile::Reconcile;
use romana_statemachine::{Revision, plural};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::attach::Unable;
use crate::config::Config;
use crate::enrol::EnrolmentState;
use crate::follow::{NOT_FOLLOWED, Seen};
use crate::forwarding::{Forwarding, provide};
use crate::policy::PolicyStatus;
use crate::policy::enforce::Enforcer;
use crate::sysctl::Sysctls;
use crate::vips::clock;
use crate::vips::status::{HeldVip, Holding, VipsStatus};

/// The agent's status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub host: String,
    /// Version of the program.
    pub version: String,
    /// Revision of the view; `None`: there is no view yet.
    pub revision: Option<Revision>,
    /// The revision that the kernel agrees with.
    pub applied: Option<Revision>,
    /// Milliseconds since the last answer of a replica; `None`: none since the start.
    pub stale_ms: Option<u64>,
    /// Number of our routes in the kernel.
    pub routes: usize,
    /// Blocks without a route that need no action, and why.
    pub skipped: BTreeMap<IpNet, String>,
    /// Policy status; `None`: this agent does not enforce policy.
    #[serde(default)]
    pub policy: Option<PolicyStatus>,
    /// The VIPs of this host.
    #[serde(default)]
    pub vips: VipsStatus,
    /// Problems that need an operator.
    pub problems: Vec<String>,
    /// Whether no ADD can succeed. Once that has lasted, `problems` says why.
    #[serde(default)]
    pub unable: bool,
    /// Changes requested from the kernel since the start.
    pub writes: u64,
    /// Number of events since the start that this program does not know and skipped, as their records permit, or
    /// knows only in part.
    #[serde(default)]
    pub unknown_events: u64,
}

/// State of the agent's parts.
#[derive(Clone, Debug)]
pub struct StatusSources {
    pub routes: watch::Receiver<Status>,
    pub vips: watch::Receiver<Holding>,
    pub policy: watch::Receiver<Option<PolicyStatus>>,
    pub problems: Problems,
    pub enrolment_state: watch::Receiver<EnrolmentState>,
    pub unable: watch::Receiver<Option<Unable>>,
    pub seen: watch::Receiver<Seen>,
    pub state_dir: PathBuf,
    /// What to check; `None`: the agent sets them, and reports what is wrong with them.
    pub sysctls: Option<Sysctls>,
}

impl StatusSources {
    /// Collects the parts' receivers.
    #[must_use]
    pub fn new(
        config: &Config,
        (routes, vips): (watch::Receiver<Status>, watch::Receiver<Holding>),
        policy: &watch::Receiver<Option<PolicyStatus>>,
        problems: &Problems,
        enrolment_state: &watch::Receiver<EnrolmentState>,
        unable: watch::Receiver<Option<Unable>>,
        seen: &watch::Receiver<Seen>,
    ) -> Self {
        let (policy, problems) = (policy.clone(), problems.clone());
        let (enrolment_state, seen) = (enrolment_state.clone(), seen.clone());
        let state_dir = config.state_dir.clone();
        let sysctls = (!config.set_sysctls).then(|| config.sysctls.clone());
        Self { routes, vips, policy, problems, enrolment_state, unable, seen, state_dir, sysctls }
    }

    /// The current status. `applied` is the lowest revision that all parts have applied.
    #[must_use]
    pub fn now(&self) -> Status {
        let Seen { heard, unknown: unknown_events, stranded, trouble, .. } =
            self.seen.borrow().clone();
        let stale_ms =
            heard.map(|heard| u64::try_from(heard.elapsed().as_millis()).unwrap_or(u64::MAX));
        let (routes, policy) = (self.routes.borrow().clone(), self.policy.borrow().clone());
        let applied = match &policy {
            None => routes.applied,
            Some(policy) => routes.applied.min(policy.applied),
        };
        let unable = self.unable.borrow().clone();
        let enrolment_state = self.enrolment_state.borrow().problem();
        let trouble = trouble.map(|why| format!("the log is not followed for now: {why}"));
        let stranded = stranded.map(|why| format!("{NOT_FOLLOWED}: {why}: upgrade romana-agent"));
        self.problems.note("enrolment", enrolment_state);
        self.problems.note("follow", trouble.into_iter().chain(stranded));
        if let Some(sysctls) = &self.sysctls {
            // Read now, as another program may have changed it since the start.
            let view = self.seen.borrow().view.clone();
            let networks = view.as_ref().map(|view| view.networks.as_slice()).unwrap_or_default();
            self.problems.note(Forwarding::PART, provide(sysctls, networks, false));
        }
        self.problems.note("state directory", set_aside(&self.state_dir));
        self.problems.note("ability", unable.as_ref().and_then(Unable::problem));
        // Problems of policy are in its own status.
        let problems = self.problems.all_but(Enforcer::PART);
        let (unable, vips) = (unable.is_some(), self.vips.borrow().at(clock::now()));
        Status { stale_ms, applied, policy, vips, problems, unable, unknown_events, ..routes }
    }
}

/// A problem if damaged files were set aside; their content was recovered from the log and the kernel.
fn set_aside(state_dir: &Path) -> Option<String> {
    let aside = durable::aside_in(state_dir);
    let first = aside.first()?.display();
    let files = plural(aside.len() as u64, "damaged file");
    Some(format!("{files} set aside, such as {first}: check the disk, and remove them"))
}

impl Status {
    /// Whether the kernel agrees with the view, and containers can be attached.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.unable && self.agrees()
    }

    /// Whether the kernel agrees with the view, however old that is.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.revision.is_some()
            && self.applied.is_some()
            && self.policy.as_ref().is_none_or(|policy| policy.applied.is_some())
    }

    /// The status as text.
    #[must_use]
    pub fn text(&self) -> String {
        let number =
            |value: Option<Revision>| value.map_or_else(|| "none".to_owned(), |n| n.to_string());
        let ago = |ms: u64| format!("{}.{} s ago", ms / 1000, ms % 1000 / 100);
        let never = || "no replica since the start".to_owned();
        let stale = self.stale_ms.map_or_else(never, ago);
        let mut text = format!(
            "host        {}\nversion     {}\nrevision    {} (applied: {})\nheard       {stale}\nroutes      \
             {} ({} written since the start)\n",
            self.host,
            self.version,
            number(self.revision),
            number(self.applied),
            self.routes,
            self.writes,
        );
        match &self.policy {
            None => text.push_str("policy      not enforced (--policy=false)\n"),
            Some(PolicyStatus { backend, applied, policies, sets, rules, took_us, .. }) => {
                text.push_str(&format!(
                    "policy      {policies} here (applied: {}); {rules} rules, {sets} sets in {backend}, last \
                     change {}.{} ms\n",
                    number(*applied),
                    took_us / 1000,
                    took_us % 1000 / 100,
                ));
            }
        }
        if self.unknown_events > 0 {
            let count = self.unknown_events;
            text.push_str(&format!(
                "unknown     {count} events of a newer control plane left out\n"
            ));
        }
        for HeldVip { ip, name, link, left_ms } in &self.vips.held {
            let (seconds, tenths) = (left_ms / 1000, left_ms % 1000 / 100);
            text.push_str(&format!(
                "vip         {name} {ip} on {link}, granted for {seconds}.{tenths} s\n"
            ));
        }
        for (block, why) in &self.skipped {
            text.push_str(&format!("no route    {block}: {why}\n"));
        }
        let of_policy = self.policy.iter().flat_map(|policy| &policy.problems);
        for problem in self.problems.iter().chain(of_policy) {
            text.push_str(&format!("problem     {problem}\n"));
        }
        text
    }
}

//! What agents say about their hosts, since version 3: reports with addresses, conflicts, the reserve for
//! hosts that are cut off, and the settings of all this.
//!
//! ```text
//!   report ─► allocated and not running: released, the report cited
//!          ─► running and not allocated: adopted if it is free, else a conflict
//!   reserve ─► committed in advance under a name of its own ─► used while cut off ─► claimed on return
//! ```

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use imbl::OrdMap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::cluster;
use crate::entry::{Millis, Revision, Term};
use crate::event::{AllocationResumed, Event, ResumedBy};
use crate::ipam;
use crate::limits::{
    CONFLICTS_KEPT_MAX, HOLD_MS_MAX, HOST_DOWN_AFTER_MS, REPORT_NAMES_MAX, RESERVE_MAX,
};
use crate::name::{AddressName, HostName, InstanceId, SegmentId, TenantId};
use crate::refusal::Refusal;
use crate::snapshot::{Snapshot3, Snapshot4};
use crate::state::{Now, State, VERSION_MAX, fence};

/// The version of behaviour that knows this module.
const VERSION: u16 = 3;

/// Begins the names of addresses that an agent holds in reserve.
pub const RESERVE_PREFIX: &str = "reserve:";

/// Begin the names of addresses that the CNI plugin asks for, IPv4 and IPv6:
/// `cni:<tenant>.<pod>:<container>:<interface>`, without the dot and the pod where there is none.
pub const PLUGIN_PREFIXES: [&str; 2] = ["cni:", "cni6:"];

/// Whether the plugin asked for an address for a Kubernetes pod of this tenant.
#[must_use]
pub fn is_pod(name: &AddressName, tenant: &TenantId) -> bool {
    let mut prefixes = PLUGIN_PREFIXES.iter();
    let rest = prefixes.find_map(|prefix| name.as_str().strip_prefix(prefix));
    let rest = rest.and_then(|rest| rest.strip_prefix(tenant.as_str()));
    rest.is_some_and(|rest| rest.starts_with('.'))
}

/// An address in use on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attached {
    /// Its name.
    pub name: AddressName,
    /// The address.
    pub ip: IpAddr,
    /// Whose it is.
    pub tenant: TenantId,
    /// Which part of the tenant.
    pub segment: SegmentId,
}

/// What runs on a host, with addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportAttachments {
    /// The reporting host.
    pub host: HostName,
    /// The revision the agent had followed to when it looked. Younger addresses are left alone.
    pub revision: Revision,
    /// Time of that revision: what was released later is not adopted.
    pub at: Millis,
    /// Addresses in use there.
    pub running: Vec<Attached>,
    /// Names that stay although nothing can be said of their addresses: those being set up, and those
    /// that are not the agent's to judge.
    #[serde(default)]
    pub kept: Vec<AddressName>,
}

/// An address of the reserve that was used while no quorum could be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimReserve {
    /// The name in reserve; begins with [`RESERVE_PREFIX`].
    pub reserve: AddressName,
    /// The name that it was used under.
    pub name: AddressName,
    /// The host that used it.
    pub host: HostName,
    /// Whose it is.
    pub tenant: TenantId,
    /// Which part of the tenant.
    pub segment: SegmentId,
    /// Since when it is used, by the host's clock.
    pub since: Millis,
}

/// New values of what concerns agents; absent ones stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentSettingsChange {
    /// Addresses that an agent holds in reserve for each tenant and segment that its host runs.
    pub reserve_per_owner: Option<u32>,
    /// Silence after which a host with an agent counts as down, milliseconds; 0: never.
    pub host_down_after_ms: Option<u64>,
    /// Longest that allocation waits for reports after a restore, milliseconds; 0: until all are there.
    pub restore_hold_max_ms: Option<u64>,
}

/// The wait for reports after a restore is over (leader task).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndHold {
    /// The term the task decided in.
    pub term: Term,
}

/// Settings of what concerns agents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSettings {
    /// Addresses that an agent holds in reserve for each tenant and segment that its host runs; 0: none.
    pub reserve_per_owner: u32,
    /// Silence after which a host with an agent counts as down, milliseconds; 0: never.
    pub host_down_after_ms: u64,
    /// Longest that allocation waits for reports after a restore, milliseconds; 0: until all are there.
    pub restore_hold_max_ms: u64,
}

impl Default for AgentSettings {
    fn default() -> Self {
        Self { reserve_per_owner: 0, host_down_after_ms: 10_000, restore_hold_max_ms: 0 }
    }
}

/// An address that ran without being allocated, and was free, belongs to who uses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressAdopted {
    /// The name.
    pub name: AddressName,
    /// The address.
    pub ip: IpAddr,
    /// Its block.
    pub block: IpNet,
    /// Its host.
    pub host: HostName,
    /// Its tenant.
    pub tenant: TenantId,
    /// Its segment.
    pub segment: SegmentId,
    /// Revision that the host's report is based on.
    pub reported: Revision,
}

/// An address of a reserve has been in use for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressClaimed {
    /// The name that it has now.
    pub name: AddressName,
    /// The name that it had.
    pub reserve: AddressName,
    /// The address.
    pub ip: IpAddr,
    /// Its block.
    pub block: IpNet,
    /// Its host.
    pub host: HostName,
    /// Its tenant.
    pub tenant: TenantId,
    /// Its segment.
    pub segment: SegmentId,
    /// Since when, by the host's clock: before the event.
    pub since: Millis,
}

/// An address that runs on a host and that the log cannot give it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The name that it has there.
    pub name: AddressName,
    /// The address.
    pub ip: IpAddr,
    /// Why not.
    pub why: Refusal,
}

/// All conflicts of a host, as of now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictsReported {
    /// The host.
    pub host: HostName,
    /// Revision that its report is based on.
    pub reported: Revision,
    /// In the order of the report, at most [`CONFLICTS_KEPT_MAX`]; empty: there are none any more.
    pub conflicts: Vec<Conflict>,
}

/// What an agent says each second, of no interest to the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Its host.
    pub host: HostName,
    /// Version of its program, and of the log as it knows it ([`Heartbeat::version_of`]).
    pub version: String,
    /// Up to where it has followed the log.
    pub revision: Revision,
    /// The revision that its kernel agrees with; `None`: it does not agree yet.
    pub applied: Option<Revision>,
    /// What somebody has to do something about.
    pub problems: Vec<String>,
}

/// Stands between the version of an agent's program and the version of the log that it knows: build metadata of
/// Semantic Versioning 2.0.0 §10, so that cluster and agents that do not know it take it as it is.
const KNOWS: &str = "+log.";

impl Heartbeat {
    /// The version that this program says of itself.
    #[must_use]
    pub fn version_of(package: &str) -> String {
        format!("{package}{KNOWS}{VERSION_MAX}")
    }

    /// The newest version of the log that the agent knows.
    #[must_use]
    pub fn knows(&self) -> u16 {
        let said = self.version.rsplit_once(KNOWS).and_then(|(_, version)| version.parse().ok());
        // Agents have said it since version 4.
        said.unwrap_or(VERSION)
    }
}

/// A heartbeat, and how long ago it was heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// The last one of its host.
    pub heartbeat: Heartbeat,
    /// Milliseconds since.
    pub silent_ms: u64,
}

/// Something that is not as it should be, and what mends it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// Stable code.
    pub code: String,
    /// What it is about: `host h1`, `address 10.0.0.5`.
    pub subject: String,
    /// What is wrong, and why.
    pub why: String,
    /// What to do: a command, or a sentence.
    pub mend: String,
}

/// Code of findings that agents report of their hosts.
pub const AGENT_PROBLEM: &str = "AgentProblem";

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something does not work.
    Error,
    /// Something may not work before long, or cannot be verified.
    Warning,
}

/// Key of the agent's version among a host's facts: says that there is an agent.
pub const AGENT_INFO: &str = "agent";

/// What is known through agents.
#[derive(Clone, Debug, Default)]
pub(crate) struct Agents {
    pub(crate) settings: AgentSettings,
    pub(crate) conflicts: OrdMap<HostName, Arc<Vec<Conflict>>>,
    pub(crate) instances: OrdMap<HostName, InstanceId>,
}

fn needs_version(state: &State) -> Result<(), Refusal> {
    let current = state.version;
    if current < VERSION {
        return Err(Refusal::VersionTooLow { needed: VERSION, current });
    }
    Ok(())
}

pub(crate) fn decide_report(
    state: &State,
    report: &ReportAttachments,
    now: Now,
) -> Result<Vec<Event>, Refusal> {
    needs_version(state)?;
    let size = report.running.len() + report.kept.len();
    if size > REPORT_NAMES_MAX {
        let (size, max) = (size as u64, REPORT_NAMES_MAX as u64);
        return Err(Refusal::TooLarge { field: "running".into(), size, max });
    }
    let names = report.running.iter().map(|attached| &attached.name).chain(&report.kept);
    let names: BTreeSet<_> = names.collect();
    let mut events = ipam::decide_leaked(state, &report.host, report.revision, &names, now)?;
    let mut later = Later::new(state, &events, now);
    let mut conflicts = Vec::new();
    for attached in &report.running {
        match ipam::decide_adopt(later.state(), report, attached, now) {
            Ok(adopted) => {
                later.evolve(&adopted);
                events.extend(adopted);
            }
            // Released after the agent had looked: the next report knows.
            Err(Refusal::AddressCoolingDown { .. }) => {}
            Err(refusal @ Refusal::InvalidName { .. }) => return Err(refusal),
            Err(why) => {
                let Attached { name, ip, .. } = attached.clone();
                conflicts.push(Conflict { name, ip, why });
            }
        }
    }
    conflicts.truncate(CONFLICTS_KEPT_MAX);
    let known = state.agents.conflicts.get(&report.host).map_or(&[][..], |known| known);
    if conflicts != known {
        let (host, reported) = (report.host.clone(), report.revision);
        let event = ConflictsReported { host, reported, conflicts };
        events.push(Event::ConflictsReported(event));
    }
    events.extend(cluster::reported(state, &report.host, report.revision));
    Ok(events)
}

/// A state that some events are ahead of another; a copy only if there are any.
struct Later<'a> {
    now: &'a State,
    ahead: Option<State>,
    at: Millis,
}

impl<'a> Later<'a> {
    fn new(now: &'a State, events: &[Event], at: Now) -> Self {
        let mut later = Self { now, ahead: None, at: at.at };
        later.evolve(events);
        later
    }

    fn state(&self) -> &State {
        self.ahead.as_ref().unwrap_or(self.now)
    }

    fn evolve(&mut self, events: &[Event]) {
        if events.is_empty() {
            return;
        }
        let state = self.ahead.get_or_insert_with(|| self.now.clone());
        state.at = self.at;
        for event in events {
            state.revision += 1;
            state.evolve(event);
        }
    }
}

pub(crate) fn decide_claim(state: &State, claim: &ClaimReserve) -> Result<Vec<Event>, Refusal> {
    needs_version(state)?;
    let ClaimReserve { reserve, name, host, tenant, segment, since } = claim.clone();
    name.check()?;
    let of_claim = |live: &ipam::Allocation| {
        live.host == host && live.tenant == tenant && live.segment == segment
    };
    let held = state.ipam.by_name(&reserve).filter(of_claim);
    let held = held.filter(|held| held.name.as_str().starts_with(RESERVE_PREFIX));
    if let Some(live) = state.ipam.by_name(&name) {
        // Claimed already; unless the reserve is still there: then the name has another address.
        if of_claim(&live) && held.is_none() {
            return Ok(Vec::new());
        }
        let ipam::Allocation { name, ip, host, tenant, segment, .. } = live;
        return Err(Refusal::AddressNameInUse { name, ip, host, tenant, segment });
    }
    let Some(ipam::Allocation { ip, block, .. }) = held else {
        return Err(Refusal::AddressNotFound { address: reserve });
    };
    let event = AddressClaimed { name, reserve, ip, block, host, tenant, segment, since };
    Ok(alloc::vec![Event::AddressClaimed(event)])
}

pub(crate) fn decide_settings(
    state: &State,
    change: &AgentSettingsChange,
) -> Result<Vec<Event>, Refusal> {
    needs_version(state)?;
    let within = |setting: &str, value: u64, (min, max): (u64, u64)| {
        if value == 0 || (min..=max).contains(&value) {
            return Ok(value);
        }
        Err(Refusal::SettingOutOfRange { setting: String::from(setting), value, min, max })
    };
    let mut next = state.agents.settings.clone();
    if let Some(value) = change.reserve_per_owner {
        within("reserve_per_owner", value.into(), (0, RESERVE_MAX.into()))?;
        next.reserve_per_owner = value;
    }
    if let Some(value) = change.host_down_after_ms {
        next.host_down_after_ms = within("host_down_after_ms", value, HOST_DOWN_AFTER_MS)?;
    }
    if let Some(value) = change.restore_hold_max_ms {
        next.restore_hold_max_ms = within("restore_hold_max_ms", value, (0, HOLD_MS_MAX))?;
    }
    if next == state.agents.settings {
        return Ok(Vec::new());
    }
    Ok(alloc::vec![Event::AgentSettingsChanged(next)])
}

pub(crate) fn decide_end_hold(
    state: &State,
    end: &EndHold,
    now: Now,
) -> Result<Vec<Event>, Refusal> {
    needs_version(state)?;
    fence(Some(end.term), now)?;
    let resumed = Event::AllocationResumed(AllocationResumed { by: ResumedBy::Timeout });
    Ok(state.held().map(|_| resumed).into_iter().collect())
}

impl Agents {
    pub(crate) fn evolve_conflicts(&mut self, reported: &ConflictsReported) {
        if reported.conflicts.is_empty() {
            self.conflicts.remove(&reported.host);
        } else {
            self.conflicts.insert(reported.host.clone(), Arc::new(reported.conflicts.clone()));
        }
    }

    pub(crate) fn evolve_host_removed(&mut self, host: &HostName) {
        self.conflicts.remove(host);
        self.instances.remove(host);
    }
}

/// What agents say.
impl State {
    /// Settings of what concerns agents.
    #[must_use]
    pub fn agent_settings(&self) -> &AgentSettings {
        &self.agents.settings
    }

    /// Addresses that run on hosts and that the log cannot give them, by host.
    pub fn conflicts(&self) -> impl Iterator<Item = (&HostName, &[Conflict])> {
        self.agents.conflicts.iter().map(|(host, conflicts)| (host, &conflicts[..]))
    }
}

impl Snapshot3 {
    pub(crate) fn of(agents: &Agents) -> Self {
        let conflicts = agents.conflicts.iter();
        let conflicts = conflicts.map(|(host, list)| (host.clone(), Vec::clone(list))).collect();
        Self { settings: agents.settings.clone(), conflicts }
    }

    pub(crate) fn into_agents(self, fourth: Option<Snapshot4>) -> Agents {
        let conflicts = self.conflicts.into_iter();
        let conflicts = conflicts.map(|(host, list)| (host, Arc::new(list))).collect();
        let instances = fourth.map(|fourth| fourth.agents).unwrap_or_default();
        let instances = instances.into_iter().collect();
        Agents { settings: self.settings, conflicts, instances }
    }
}

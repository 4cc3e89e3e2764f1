//! `/v1/settings`: values that are the same on all replicas, hence in the log.

use axum::http::StatusCode;
use ipnet::IpNet;
use romana_statemachine::command::{
    AgentSettingsChange, ReserveServices, Retention, SettingsChange,
};
use romana_statemachine::{AgentSettings, Answer, Command, Now, Revision, Settings, State};
use serde::{Deserialize, Deserializer, Serialize};

use super::call::{Call, Changed};
use super::reply;
use super::route::{BODY_BYTES_MAX, CONSISTENCY, Route, Verb, handler};
use crate::error::Failure;

pub(super) const ROUTES: &[Route] = &[
    Route::new(
        Verb::Get,
        "/v1/settings",
        "settings",
        "The cluster settings.",
        &[(200, "Settings")],
        handler!(get),
    )
    .query(&[CONSISTENCY]),
    Route::new(
        Verb::Patch,
        "/v1/settings",
        "settings",
        "Changes settings; absent members stay. A retention of null keeps the history for ever.",
        &[(200, "Settings")],
        handler!(patch),
    )
    .body("SettingsPatch", BODY_BYTES_MAX),
];

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    settings: Settings,
    #[serde(flatten)]
    agents: AgentSettings,
    history_retention_ms: Option<u64>,
    history_retention_bytes: Option<u64>,
    service_ranges: Vec<IpNet>,
    version: u16,
    revision: Revision,
}

/// What is to change; absent members stay. A retention of null is for ever.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    address_reuse_delay_ms: Option<u64>,
    vip_lease_ms: Option<u64>,
    reserve_per_owner: Option<u32>,
    host_down_after_ms: Option<u64>,
    restore_hold_max_ms: Option<u64>,
    #[serde(default, deserialize_with = "given")]
    history_retention_ms: Option<Option<u64>>,
    #[serde(default, deserialize_with = "given")]
    history_retention_bytes: Option<Option<u64>>,
    service_ranges: Option<Vec<String>>,
}

/// Tells null from absent.
fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::<u64>::deserialize(from).map(Some)
}

impl Patch {
    /// The commands that make the change, given what is kept now.
    fn commands(self, kept: &Retention) -> Vec<Command> {
        let Self { address_reuse_delay_ms, vip_lease_ms, .. } = self;
        let mut commands = Vec::new();
        if self.history_retention_ms.is_some() || self.history_retention_bytes.is_some() {
            commands.push(Command::SetRetention(Retention {
                age_ms: self.history_retention_ms.unwrap_or(kept.age_ms),
                bytes: self.history_retention_bytes.unwrap_or(kept.bytes),
            }));
        }
        let Self { reserve_per_owner, host_down_after_ms, restore_hold_max_ms, .. } = self;
        let services = self.service_ranges.map(|ranges| ReserveServices { ranges });
        commands.extend(services.map(Command::ReserveServices));
        let agents =
            AgentSettingsChange { reserve_per_owner, host_down_after_ms, restore_hold_max_ms };
        if agents != AgentSettingsChange::default() {
            commands.push(Command::ChangeAgentSettings(agents));
        }
        if address_reuse_delay_ms.is_some() || vip_lease_ms.is_some() || commands.is_empty() {
            let change = SettingsChange { address_reuse_delay_ms, vip_lease_ms };
            commands.push(Command::ChangeSettings(change));
        }
        commands
    }
}

fn view(state: &State) -> Shown {
    let Retention { age_ms, bytes } = *state.retention();
    Shown {
        settings: state.settings().clone(),
        agents: state.agent_settings().clone(),
        history_retention_ms: age_ms,
        history_retention_bytes: bytes,
        service_ranges: state.service_ranges().collect(),
        version: state.version(),
        revision: state.revision(),
    }
}

async fn get(call: Call) -> reply::Result {
    let state = call.state().await?;
    reply::ok(state.revision(), &view(&state))
}

async fn patch(call: Call) -> reply::Result {
    let patch: Patch = call.json()?;
    let state = call.state().await?;
    let commands = patch.commands(state.retention());
    // All or nothing: what refuses one of these now would refuse it when it is committed.
    let now = Now { at: state.at(), term: 0 };
    for command in &commands {
        state.decide(command, now).map_err(Failure::from)?;
        call.check_served(command)?;
    }
    let mut change = Changed { changed: false, revision: state.revision() };
    for outcome in call.propose_all(commands).await? {
        let answer = outcome.result.map_err(Failure::from)?;
        change.changed |= matches!(answer, Answer::Done { changed: true });
        change.revision = outcome.revision;
    }
    call.show(StatusCode::OK, change, |state: &State| Some(view(state))).await
}

//! `/v1/settings`: values that must be the same on all replicas and are therefore in the log.

use axum::http::StatusCode;
use romana_api::Changed;
use romana_api::settings::{ClusterSettings, SettingsPatch};
use romana_statemachine::command::{
    AgentSettingsChange, ReserveServices, Retention, SettingsChange,
};
use romana_statemachine::{Answer, Command, Now, State, Term};

use super::call::Call;
use super::operation::{BODY_BYTES_MAX, CONSISTENCY, Operation, Verb, handler, of};
use super::reply;
use crate::error::Failure;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new(
        Verb::Get,
        "/v1/settings",
        "settings",
        "The cluster settings.",
        &[(200, of::<ClusterSettings>)],
        handler!(get),
    )
    .query(&[CONSISTENCY]),
    Operation::new(
        Verb::Patch,
        "/v1/settings",
        "settings",
        "Changes settings; absent members stay. A retention of null keeps the history for ever.",
        &[(200, of::<ClusterSettings>)],
        handler!(patch),
    )
    .body::<SettingsPatch>(BODY_BYTES_MAX),
];

/// The commands for a patch, given the current retention.
fn commands(patch: SettingsPatch, kept: &Retention) -> Vec<Command> {
    let SettingsPatch { address_reuse_delay_ms, vip_lease_ms, .. } = patch;
    let mut commands = Vec::new();
    if patch.history_retention_ms.is_some() || patch.history_retention_bytes.is_some() {
        commands.push(Command::SetRetention(Retention {
            age_ms: patch.history_retention_ms.unwrap_or(kept.age_ms),
            bytes: patch.history_retention_bytes.unwrap_or(kept.bytes),
        }));
    }
    let SettingsPatch { reserve_per_owner, host_down_after_ms, restore_hold_max_ms, .. } = patch;
    let services = patch.service_ranges.map(|ranges| ReserveServices { ranges });
    commands.extend(services.map(Command::ReserveServices));
    let agents = AgentSettingsChange { reserve_per_owner, host_down_after_ms, restore_hold_max_ms };
    if agents != AgentSettingsChange::default() {
        commands.push(Command::ChangeAgentSettings(agents));
    }
    if address_reuse_delay_ms.is_some() || vip_lease_ms.is_some() || commands.is_empty() {
        let change = SettingsChange { address_reuse_delay_ms, vip_lease_ms };
        commands.push(Command::ChangeSettings(change));
    }
    commands
}

fn view(state: &State) -> ClusterSettings {
    let Retention { age_ms, bytes } = *state.retention();
    ClusterSettings {
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
    let patch: SettingsPatch = call.json()?;
    let state = call.state().await?;
    let commands = commands(patch, state.retention());
    // Atomic: check now whether any of these would be refused when it is committed.
    let now = Now { at: state.at(), term: Term(0) };
    for command in &commands {
        state.decide(command, now).map_err(Failure::from)?;
    }
    let mut change = Changed { changed: false, revision: state.revision() };
    for outcome in call.propose_all(commands).await? {
        let answer = outcome.result.map_err(Failure::from)?;
        change.changed |= matches!(answer, Answer::Done { changed: true });
        change.revision = outcome.revision;
    }
    call.show(StatusCode::OK, change, |state: &State| Some(view(state))).await
}

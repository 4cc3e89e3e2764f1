//! `/v1/settings`: values that are the same on all replicas, hence in the log.

use romana_statemachine::{Command, Revision, Settings, State};
use serde::Serialize;

use super::call::Call;
use super::reply;
use super::route::{BODY_BYTES_MAX, CONSISTENCY, Route, Verb, handler};

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
        "Changes settings; absent members stay.",
        &[(200, "Settings")],
        handler!(patch),
    )
    .body("SettingsChange", BODY_BYTES_MAX),
];

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    settings: Settings,
    version: u16,
    revision: Revision,
}

fn view(state: &State) -> Shown {
    let (settings, version) = (state.settings().clone(), state.version());
    Shown { settings, version, revision: state.revision() }
}

async fn get(call: Call) -> reply::Result {
    let state = call.state().await?;
    reply::ok(state.revision(), &view(&state))
}

async fn patch(call: Call) -> reply::Result {
    let change = call.change(Command::ChangeSettings(call.json()?)).await?;
    call.show(axum::http::StatusCode::OK, change, |state: &State| Some(view(state))).await
}

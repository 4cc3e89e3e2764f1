//! `/v1/tenants` and their segments.

use romana_statemachine::command::{SegmentRef, SegmentSpec, TenantRef, TenantSpec};
use romana_statemachine::name::{SegmentId, TenantId};
use romana_statemachine::{Command, Labels, Refusal, State, Tenant};
use serde::{Deserialize, Serialize};

use super::call::Call;
use super::reply;
use super::route::{BODY_BYTES_MAX, CONSISTENCY, CONTINUE, LIMIT, Route, Verb, handler};

pub(super) const ROUTES: &[Route] = &[
    Route::new(
        Verb::Get,
        "/v1/tenants",
        "tenants",
        "Tenants that were created, by id. (A tenant need not be created to own addresses.)",
        &[(200, "TenantList")],
        handler!(list),
    )
    .query(&[LIMIT, CONTINUE, CONSISTENCY]),
    Route::new(
        Verb::Get,
        "/v1/tenants/{id}",
        "tenants",
        "A tenant with its segments.",
        &[(200, "Tenant")],
        handler!(get),
    )
    .query(&[CONSISTENCY]),
    Route::new(
        Verb::Put,
        "/v1/tenants/{id}",
        "tenants",
        "Creates a tenant or replaces its labels.",
        &[(201, "Tenant"), (200, "Tenant")],
        handler!(put),
    )
    .body("LabelsBody", BODY_BYTES_MAX),
    Route::new(
        Verb::Delete,
        "/v1/tenants/{id}",
        "tenants",
        "Deletes a tenant that owns nothing.",
        &[(200, "Changed")],
        handler!(delete),
    ),
    Route::new(
        Verb::Get,
        "/v1/tenants/{id}/segments",
        "tenants",
        "Segments of a tenant, by id.",
        &[(200, "SegmentList")],
        handler!(list_segments),
    )
    .query(&[LIMIT, CONTINUE, CONSISTENCY]),
    Route::new(
        Verb::Get,
        "/v1/tenants/{id}/segments/{segment}",
        "tenants",
        "A segment.",
        &[(200, "Segment")],
        handler!(get_segment),
    )
    .query(&[CONSISTENCY]),
    Route::new(
        Verb::Put,
        "/v1/tenants/{id}/segments/{segment}",
        "tenants",
        "Creates a segment or replaces its labels.",
        &[(201, "Segment"), (200, "Segment")],
        handler!(put_segment),
    )
    .body("LabelsBody", BODY_BYTES_MAX),
    Route::new(
        Verb::Delete,
        "/v1/tenants/{id}/segments/{segment}",
        "tenants",
        "Deletes a segment that owns nothing.",
        &[(200, "Changed")],
        handler!(delete_segment),
    ),
];

/// The body of a PUT; may be left out.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Body {
    labels: Labels,
}

/// A tenant as shown, in lists and snapshots.
#[derive(Serialize)]
pub(super) struct Shown {
    id: TenantId,
    labels: Labels,
    segments: Vec<Segment>,
}

impl Shown {
    /// Which tenant.
    pub(super) fn key(&self) -> String {
        self.id.to_string()
    }
}

/// A segment as shown.
#[derive(Serialize)]
pub(super) struct Segment {
    id: SegmentId,
    labels: Labels,
}

/// All tenants, by id.
pub(super) fn all(state: &State) -> impl Iterator<Item = Shown> {
    state.tenants().map(|(id, tenant)| view(id, tenant))
}

fn view(id: &TenantId, tenant: &Tenant) -> Shown {
    Shown { id: id.clone(), labels: tenant.labels.clone(), segments: segments(tenant).collect() }
}

fn segments(tenant: &Tenant) -> impl Iterator<Item = Segment> {
    tenant.segments.iter().map(|(id, labels)| Segment { id: id.clone(), labels: labels.clone() })
}

fn ids(call: &Call) -> (TenantId, SegmentId) {
    (TenantId::from(call.path("id")), SegmentId::from(call.path("segment")))
}

fn find<'a>(state: &'a State, id: &TenantId) -> Result<&'a Tenant, Refusal> {
    state.tenant(id).ok_or_else(|| Refusal::TenantNotFound { tenant: id.clone() })
}

async fn list(call: Call) -> reply::Result {
    let state = call.state().await?;
    reply::page(&call, &state, all(&state), |tenant| tenant.id.clone(), |tenant| tenant)
}

async fn get(call: Call) -> reply::Result {
    let state = call.state().await?;
    let (id, _) = ids(&call);
    reply::ok(state.revision(), &view(&id, find(&state, &id)?))
}

async fn put(call: Call) -> reply::Result {
    let (id, _) = ids(&call);
    let Body { labels } = call.json_or_default()?;
    let change = call.change(Command::CreateTenant(TenantSpec { id: id.clone(), labels })).await?;
    let show = |state: &State| state.tenant(&id).map(|tenant| view(&id, tenant));
    call.show(change.created(), change, show).await
}

async fn delete(call: Call) -> reply::Result {
    let (id, _) = ids(&call);
    let change = call.change(Command::DeleteTenant(TenantRef { id })).await?;
    reply::ok(change.revision, &change)
}

async fn list_segments(call: Call) -> reply::Result {
    let state = call.state().await?;
    let (id, _) = ids(&call);
    let tenant = find(&state, &id)?;
    reply::page(&call, &state, segments(tenant), |segment| segment.id.clone(), |segment| segment)
}

async fn get_segment(call: Call) -> reply::Result {
    let state = call.state().await?;
    let (tenant, segment) = ids(&call);
    match find(&state, &tenant)?.segments.get(&segment) {
        Some(labels) => {
            reply::ok(state.revision(), &Segment { id: segment, labels: labels.clone() })
        }
        None => Err(Refusal::SegmentNotFound { tenant, segment }.into()),
    }
}

async fn put_segment(call: Call) -> reply::Result {
    let (tenant, id) = ids(&call);
    let Body { labels } = call.json_or_default()?;
    let spec = SegmentSpec { tenant: tenant.clone(), id: id.clone(), labels };
    let change = call.change(Command::CreateSegment(spec)).await?;
    let show = |state: &State| {
        let labels = state.tenant(&tenant)?.segments.get(&id)?.clone();
        Some(Segment { id: id.clone(), labels })
    };
    call.show(change.created(), change, show).await
}

async fn delete_segment(call: Call) -> reply::Result {
    let (tenant, id) = ids(&call);
    let change = call.change(Command::DeleteSegment(SegmentRef { tenant, id })).await?;
    reply::ok(change.revision, &change)
}

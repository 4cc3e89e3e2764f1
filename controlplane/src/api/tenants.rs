//! `/v1/tenants` and their segments.

use romana_api::tenant::{LabelsBody, Segment, Tenant};
use romana_api::{Changed, Page};
use romana_statemachine::command::{SegmentRef, SegmentSpec, TenantRef, TenantSpec};
use romana_statemachine::name::{SegmentId, TenantId};
use romana_statemachine::{Command, Refusal, State};

use super::call::{Call, created};
use super::operation::{
    BODY_BYTES_MAX, CONSISTENCY, CONTINUE, LIMIT, Operation, Verb, handler, of,
};
use super::{list, reply};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new(
        Verb::Get,
        "/v1/tenants",
        "tenants",
        "Tenants that were created, by id. (A tenant need not be created to own addresses.)",
        &[(200, of::<Page<Tenant>>)],
        handler!(list),
    )
    .query(&[LIMIT, CONTINUE, CONSISTENCY]),
    Operation::new(
        Verb::Get,
        "/v1/tenants/{id}",
        "tenants",
        "A tenant with its segments.",
        &[(200, of::<Tenant>)],
        handler!(get),
    )
    .query(&[CONSISTENCY]),
    Operation::new(
        Verb::Put,
        "/v1/tenants/{id}",
        "tenants",
        "Creates a tenant or replaces its labels.",
        &[(201, of::<Tenant>), (200, of::<Tenant>)],
        handler!(put),
    )
    .body::<LabelsBody>(BODY_BYTES_MAX),
    Operation::new(
        Verb::Delete,
        "/v1/tenants/{id}",
        "tenants",
        "Deletes a tenant that owns nothing.",
        &[(200, of::<Changed>)],
        handler!(delete),
    ),
    Operation::new(
        Verb::Get,
        "/v1/tenants/{id}/segments",
        "tenants",
        "Segments of a tenant, by id.",
        &[(200, of::<Page<Segment>>)],
        handler!(list_segments),
    )
    .query(&[LIMIT, CONTINUE, CONSISTENCY]),
    Operation::new(
        Verb::Get,
        "/v1/tenants/{id}/segments/{segment}",
        "tenants",
        "A segment.",
        &[(200, of::<Segment>)],
        handler!(get_segment),
    )
    .query(&[CONSISTENCY]),
    Operation::new(
        Verb::Put,
        "/v1/tenants/{id}/segments/{segment}",
        "tenants",
        "Creates a segment or replaces its labels.",
        &[(201, of::<Segment>), (200, of::<Segment>)],
        handler!(put_segment),
    )
    .body::<LabelsBody>(BODY_BYTES_MAX),
    Operation::new(
        Verb::Delete,
        "/v1/tenants/{id}/segments/{segment}",
        "tenants",
        "Deletes a segment that owns nothing.",
        &[(200, of::<Changed>)],
        handler!(delete_segment),
    ),
];

/// All tenants, by id.
pub(super) fn all(state: &State) -> impl Iterator<Item = Tenant> {
    state.tenants().map(|(id, tenant)| Tenant::new(id, tenant))
}

fn ids(call: &Call) -> (TenantId, SegmentId) {
    (TenantId::from(call.path("id")), SegmentId::from(call.path("segment")))
}

fn find<'a>(state: &'a State, id: &TenantId) -> Result<&'a romana_statemachine::Tenant, Refusal> {
    state.tenant(id).ok_or_else(|| Refusal::TenantNotFound { tenant: id.clone() })
}

async fn list(call: Call) -> reply::Result {
    let state = call.state().await?;
    list::page(&call, &state, all(&state), |tenant| tenant.id.clone(), |tenant| tenant)
}

async fn get(call: Call) -> reply::Result {
    let state = call.state().await?;
    let (id, _) = ids(&call);
    reply::ok(state.revision(), &Tenant::new(&id, find(&state, &id)?))
}

async fn put(call: Call) -> reply::Result {
    let (id, _) = ids(&call);
    let LabelsBody { labels } = call.json_or_default()?;
    let change = call.change(Command::CreateTenant(TenantSpec { id: id.clone(), labels })).await?;
    let show = |state: &State| state.tenant(&id).map(|tenant| Tenant::new(&id, tenant));
    call.show(created(change), change, show).await
}

async fn delete(call: Call) -> reply::Result {
    let (id, _) = ids(&call);
    let change = call.change(Command::DeleteTenant(TenantRef { id })).await?;
    reply::ok(change.revision, &change)
}

async fn list_segments(call: Call) -> reply::Result {
    let state = call.state().await?;
    let (id, _) = ids(&call);
    let segments = Tenant::new(&id, find(&state, &id)?).segments.into_iter();
    list::page(&call, &state, segments, |segment| segment.id.clone(), |segment| segment)
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
    let LabelsBody { labels } = call.json_or_default()?;
    let spec = SegmentSpec { tenant: tenant.clone(), id: id.clone(), labels };
    let change = call.change(Command::CreateSegment(spec)).await?;
    let show = |state: &State| {
        let labels = state.tenant(&tenant)?.segments.get(&id)?.clone();
        Some(Segment { id: id.clone(), labels })
    };
    call.show(created(change), change, show).await
}

async fn delete_segment(call: Call) -> reply::Result {
    let (tenant, id) = ids(&call);
    let change = call.change(Command::DeleteSegment(SegmentRef { tenant, id })).await?;
    reply::ok(change.revision, &change)
}

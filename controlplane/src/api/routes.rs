//! `/v1/routes`: the aggregated routes from one point of view, and why each exception exists.

use ipnet::IpNet;
use romana_api::routes::RoutesAt;
use romana_statemachine::Refusal;
use romana_statemachine::name::HostName;
use romana_statemachine::routes::{for_group, for_host, for_router};

use super::addresses::required;
use super::call::Call;
use super::head::bad_query;
use super::operation::{CONSISTENCY, Operation, Param, Verb, handler, of};
use super::reply;
use crate::error::{Code, Failure};

pub(super) const OPERATIONS: &[Operation] = &[Operation::new(
    Verb::Get,
    "/v1/routes",
    "routes",
    "Routes from one point of view, aggregated along the topology.",
    &[(200, of::<RoutesAt>)],
    handler!(get),
)
.query(&[
    Param::required(
        "for",
        "`host:NAME`, `group:CIDR` (the router of a group, of a group of groups, or of a network) or `router` \
         (those above all groups)",
    ),
    CONSISTENCY,
])
.walks()];

async fn get(call: Call) -> reply::Result {
    let state = call.state().await?;
    let view = required(&call, "for")?;
    let routes = if view == "router" {
        for_router(&state)
    } else if let Some(name) = view.strip_prefix("host:") {
        let host = HostName::from(name);
        for_host(&state, &host).ok_or(Refusal::HostNotFound { host })?
    } else if let Some(cidr) = view.strip_prefix("group:") {
        let group: IpNet = romana_statemachine::parse_cidr(cidr)?;
        for_group(&state, group).ok_or_else(|| {
            let why =
                format!("{group} is neither a group that takes hosts or groups nor a network");
            Failure::new(Code::GroupNotFound, why).with("group", group.to_string())
        })?
    } else {
        return Err(bad_query("for", view, "it is not host:NAME, group:CIDR or router"));
    };
    reply::ok(state.revision(), &RoutesAt { routes, revision: state.revision() })
}

//! `/v1/addresses`: allocation (the hot path) and lists.

use std::net::IpAddr;

use axum::body::Body;
use axum::http::StatusCode;
use ipnet::IpNet;
use romana_api::{Changed, Page};
use romana_statemachine::command::{AllocateAddress, ReleaseAddress};
use romana_statemachine::name::{AddressName, HostName};
use romana_statemachine::{Allocation, Answer, Command, Owner, Refusal, State};

use super::body::parse;
use super::call::Call;
use super::head::bad_query;
use super::operation::{
    BODY_BYTES_MAX, CONSISTENCY, CONTINUE, LIMIT, Operation, Param, Verb, handler, of,
};
use super::{list, reply};
use crate::error::{Code, Failure};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new(
        Verb::Post,
        "/v1/addresses",
        "addresses",
        "Allocates an address. Idempotent by name: 200 if it stood already.",
        &[(201, of::<Allocation>), (200, of::<Allocation>)],
        handler!(allocate),
    )
    .body::<AllocateAddress>(BODY_BYTES_MAX),
    Operation::new(
        Verb::Get,
        "/v1/addresses",
        "addresses",
        "Live addresses, in order.",
        &[(200, of::<Page<Allocation>>)],
        handler!(list),
    )
    .query(&[
        Param::optional("network", "Only of this network"),
        Param::optional("host", "Only on this host"),
        Param::optional("tenant", "Only of this tenant"),
        Param::optional("segment", "Only of this segment"),
        Param::optional("block", "Only in this block or other CIDR"),
        LIMIT,
        CONTINUE,
        CONSISTENCY,
    ]),
    Operation::new(
        Verb::Get,
        "/v1/addresses/{address}",
        "addresses",
        "A live address, by its name or itself.",
        &[(200, of::<Allocation>)],
        handler!(get),
    )
    .query(&[CONSISTENCY]),
    Operation::new(
        Verb::Delete,
        "/v1/addresses/{address}",
        "addresses",
        "Releases an address, by its name or itself. Idempotent: `changed` is false if it was not live.",
        &[(200, of::<Changed>)],
        handler!(release),
    ),
];

async fn allocate(call: Call) -> reply::Result {
    let command = Command::AllocateAddress(parse(&call.body)?);
    let (revision, answer) = call.propose(command).await?;
    let Answer::Address { allocation, fresh } = answer else {
        return Err(Failure::new(Code::Internal, "an allocation was not answered by an address"));
    };
    let status = if fresh { StatusCode::CREATED } else { StatusCode::OK };
    let body = Body::from(reply::bytes(&allocation)?);
    Ok(reply::raw(status, revision, "application/json", body))
}

/// Filters of a list.
struct Filter<'a> {
    network: Option<&'a str>,
    host: Option<&'a str>,
    tenant: Option<&'a str>,
    segment: Option<&'a str>,
    cidr: Option<IpNet>,
}

impl Filter<'_> {
    fn wants(&self, address: &Allocation) -> bool {
        let Allocation { network, host, tenant, segment, ip, .. } = address;
        self.owner([network.as_str(), host.as_str(), tenant.as_str(), segment.as_str()])
            && self.cidr.is_none_or(|cidr| cidr.contains(ip))
    }

    /// Whether an address with this network, host, tenant and segment matches.
    fn owner(&self, has: [&str; 4]) -> bool {
        let wanted = [self.network, self.host, self.tenant, self.segment];
        wanted.into_iter().zip(has).all(|(wanted, has)| wanted.is_none_or(|wanted| wanted == has))
    }
}

async fn list(call: Call) -> reply::Result {
    let state = call.state().await?;
    let filter = Filter {
        network: call.query("network"),
        host: call.query("host"),
        tenant: call.query("tenant"),
        segment: call.query("segment"),
        cidr: call.query_as("block")?,
    };
    let after = call.query_as::<IpAddr>("continue")?;
    let key = |address: &Allocation| address.ip;
    // Use the most selective index: a block, a host, or all addresses after the end of the previous page.
    match (filter.cidr, filter.host) {
        (Some(cidr), _) => {
            let found = state.ipam().addresses_in(cidr).filter(|address| filter.wants(address));
            list::page(&call, &state, found, key, |address| address)
        }
        (None, Some(host)) => {
            let host = HostName::from(host);
            let found = state.ipam().host_addresses(&host).filter(|address| filter.wants(address));
            list::page(&call, &state, found, key, |address| address)
        }
        (None, None) => {
            let owner = |owner: &Owner| {
                let Owner { network, host, tenant, segment } = owner;
                filter.owner([network.as_str(), host.as_str(), tenant.as_str(), segment.as_str()])
            };
            let found = state.ipam().addresses_of(after, owner);
            list::page(&call, &state, found, key, |address| address)
        }
    }
}

async fn get(call: Call) -> reply::Result {
    let address = AddressName::from(call.path("address"));
    let look = |state: &State| {
        let ipam = state.ipam();
        let found = ipam.check_unambiguous(&address).map(|()| ipam.by_name_or_ip(&address));
        (state.revision(), found)
    };
    let (revision, found) = call.look(look).await?;
    match found? {
        Some(allocation) => reply::ok(revision, &allocation),
        None => Err(Refusal::AddressNotFound { address }.into()),
    }
}

async fn release(call: Call) -> reply::Result {
    let address = AddressName::from(call.path("address"));
    let change = call.change(Command::ReleaseAddress(ReleaseAddress { address })).await?;
    reply::ok(change.revision, &change)
}

/// A required query parameter.
pub(super) fn required<'a>(call: &'a Call, name: &str) -> Result<&'a str, Failure> {
    call.query(name)
        .filter(|value| !value.is_empty())
        .ok_or_else(|| bad_query(name, "", "it is missing"))
}

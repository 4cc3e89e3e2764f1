//! `/v1/networks`: networks, and the utilisation of their groups.

use romana_api::Page;
use romana_api::network::Group;
use romana_statemachine::name::NetworkName;
use romana_statemachine::topology::Network;
use romana_statemachine::{Block, Refusal, State};

use super::call::Call;
use super::operation::{CONSISTENCY, CONTINUE, LIMIT, Operation, Verb, handler, of};
use super::{list, reply};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new(
        Verb::Get,
        "/v1/networks",
        "networks",
        "Networks in order of their names, with the utilisation of each group.",
        &[(200, of::<Page<romana_api::network::Network>>)],
        handler!(list),
    )
    .query(&[LIMIT, CONTINUE, CONSISTENCY]),
    Operation::new(
        Verb::Get,
        "/v1/networks/{name}",
        "networks",
        "A network, with the utilisation of each group.",
        &[(200, of::<romana_api::network::Network>)],
        handler!(get),
    )
    .query(&[CONSISTENCY]),
];

/// The API's form of a network, with the utilisation of its leaf groups.
pub(super) fn view(state: &State, network: &Network) -> romana_api::network::Network {
    let groups = network.leaves().map(|group| Group {
        name: group.name.clone(),
        assignment: group.requires.clone(),
        usage: state.ipam().usage(group.cidr),
    });
    romana_api::network::Network {
        name: network.name.clone(),
        cidr: network.cidr,
        block_mask: network.block_mask,
        tenants: network.tenants.iter().cloned().collect(),
        skip_first_last: network.skip_first_last,
        groups: groups.collect(),
    }
}

/// Blocks of a network, in order.
pub(super) fn blocks<'a>(
    state: &'a State,
    network: &'a Network,
) -> impl Iterator<Item = &'a Block> {
    let from = state.ipam().blocks_from(network.cidr);
    from.take_while(|block| network.cidr.contains(&block.cidr))
}

/// The network with that name, or a refusal.
pub(super) fn find<'a>(state: &'a State, name: &str) -> Result<&'a Network, Refusal> {
    let network = NetworkName::from(name);
    let found = state.topology().and_then(|topology| topology.network(&network));
    found.ok_or(Refusal::NetworkNotFound { network })
}

async fn list(call: Call) -> reply::Result {
    let state = call.state().await?;
    let mut networks: Vec<&Network> =
        state.topology().into_iter().flat_map(|topology| topology.networks()).collect();
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    let key = |network: &&Network| network.name.clone();
    list::page(&call, &state, networks.into_iter(), key, |network| view(&state, network))
}

async fn get(call: Call) -> reply::Result {
    let state = call.state().await?;
    let network = find(&state, call.path("name"))?;
    reply::ok(state.revision(), &view(&state, network))
}

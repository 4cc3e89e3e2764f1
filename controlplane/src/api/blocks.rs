//! `/v1/blocks`: the blocks assigned to hosts.

use ipnet::IpNet;
use romana_api::Page;
use romana_api::block::Block as ApiBlock;
use romana_statemachine::Block;
use romana_statemachine::name::HostName;

use super::call::Call;
use super::operation::{CONSISTENCY, CONTINUE, LIMIT, Operation, Param, Verb, handler, of};
use super::{list, reply};

pub(super) const OPERATIONS: &[Operation] = &[Operation::new(
    Verb::Get,
    "/v1/blocks",
    "blocks",
    "Assigned blocks, in order.",
    &[(200, of::<Page<ApiBlock>>)],
    handler!(list),
)
.query(&[
    Param::optional("network", "Only of this network"),
    Param::optional("host", "Only of this host"),
    Param::optional("tenant", "Only of this tenant"),
    Param::optional("segment", "Only of this segment"),
    LIMIT,
    CONTINUE,
    CONSISTENCY,
])];

async fn list(call: Call) -> reply::Result {
    let state = call.state().await?;
    let [network, host, tenant, segment] =
        ["network", "host", "tenant", "segment"].map(|name| call.query(name));
    let same = |wanted: Option<&str>, has: &str| wanted.is_none_or(|wanted| wanted == has);
    let wanted = |block: &&Block| {
        let owner = block.owner();
        same(network, owner.network.as_str())
            && same(host, owner.host.as_str())
            && same(tenant, owner.tenant.as_str())
            && same(segment, owner.segment.as_str())
    };
    let ipam = state.ipam();
    let (key, view) = (|block: &&Block| block.cidr, |block| ApiBlock::from(block));
    match host {
        Some(host) => {
            let cidrs = ipam.host_blocks(&HostName::from(host)).collect::<Vec<_>>();
            let blocks = cidrs.into_iter().filter_map(|cidr| ipam.block(cidr)).filter(wanted);
            list::page(&call, &state, blocks, key, view)
        }
        None => {
            let after = call.query_as::<IpNet>("continue")?.map(|cidr| cidr.network());
            list::page(&call, &state, ipam.blocks_after(after).filter(wanted), key, view)
        }
    }
}

//! `romana block`.

use clap::Subcommand;
use romana_api::Page;
use romana_api::block::Block;
use romana_client::Query;
use romana_statemachine::Allocation;
use serde::Serialize;
use serde_json::Value;

use crate::answer::{Answer, to_json};
use crate::context::Context;
use crate::failure::Failure;
use crate::table::{Table, cell, optional};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the blocks assigned to hosts
    #[command(visible_alias = "ls")]
    List {
        /// Of this network
        #[arg(short, long)]
        network: Option<String>,
        /// Of this host
        #[arg(short = 'H', long)]
        host: Option<String>,
        /// Of this tenant
        #[arg(short, long)]
        tenant: Option<String>,
    },
    /// Show a block and the addresses in it
    Show {
        /// Block, or an address in it
        #[arg(value_name = "CIDR|IP")]
        block: String,
    },
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::List { network, host, tenant } => {
                let query = Query::new("/v1/blocks").with("network", network).with("host", host);
                ctx.show_list(query.with("tenant", tenant), table).await
            }
            Self::Show { block } => show(ctx, &block).await,
        }
    }
}

/// A block with its addresses, as received.
#[derive(Serialize)]
struct Contents<'a> {
    block: &'a Value,
    addresses: &'a Value,
}

async fn show(ctx: &Context, wanted: &str) -> Result<(), Failure> {
    let not_read = || Failure::usage(format!("{wanted:?} is neither a block nor an address"));
    let ip = wanted.split('/').next().unwrap_or_default();
    let ip: std::net::IpAddr = ip.parse().map_err(|_| not_read())?;
    let blocks: Answer<Page<Block>> = ctx.list(Query::new("/v1/blocks")).await?;
    let found = blocks.into_items().find(|block| block.value.cidr.contains(&ip));
    let none = || {
        let hint = "romana block list shows the blocks.";
        Failure::not_found("BlockNotFound", format!("no host has a block with {ip}"), hint)
    };
    let block = found.ok_or_else(none)?;
    let query = Query::new("/v1/addresses").with("block", Some(block.value.cidr));
    let addresses: Answer<Page<Allocation>> = ctx.list(query).await?;
    let contents = Contents { block: &block.json, addresses: &addresses.json["items"] };
    let json = to_json(&contents);
    let shown = Answer { json, value: (block.value, addresses.value.items) };
    ctx.out.show(&shown, |(block, addresses)| {
        let mut table = crate::address::table(addresses);
        let Block { cidr, network, group, host, tenant, segment, .. } = block;
        let [network, host, tenant, segment] =
            [cell(network), cell(host), cell(tenant), cell(segment)];
        let group = optional(group.as_ref());
        table.note(format!(
            "{cidr} on {host} for {tenant}/{segment}, in group {group} of {network}"
        ));
        table
    })
}

fn table(blocks: &[Block]) -> Table {
    let mut table = Table::new(
        &["CIDR", "HOST", "TENANT", "SEGMENT", "NETWORK", "GROUP", "LIVE"],
        "no blocks yet: a host gets one with its first address",
    );
    for Block { cidr, network, group, host, tenant, segment, live } in blocks {
        table.row(vec![
            cell(cidr),
            cell(host),
            cell(tenant),
            cell(segment),
            cell(network),
            optional(group.as_ref()),
            cell(live),
        ]);
    }
    table
}

//! `romana block`.

use clap::Subcommand;
use romana_client::Query;
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::Failure;
use crate::shape::{ADDRESS, RANGE};
use crate::table::{Table, cell, items};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the blocks that hosts have
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
        /// The block, or an address in it
        #[arg(value_name = "CIDR|IP")]
        block: String,
    },
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::List { network, host, tenant } => {
                let query = Query::new("/v1/blocks").with("network", network).with("host", host);
                let list = ctx.list(query.with("tenant", tenant), RANGE).await?;
                ctx.out.show(&list, || table(items(&list)))
            }
            Self::Show { block } => show(ctx, &block).await,
        }
    }
}

async fn show(ctx: &Context, wanted: &str) -> Result<(), Failure> {
    let not_read = || Failure::usage(format!("{wanted:?} is neither a block nor an address"));
    let ip = wanted.split('/').next().unwrap_or_default();
    let ip: std::net::IpAddr = ip.parse().map_err(|_| not_read())?;
    let blocks = ctx.page(Query::new("/v1/blocks"), RANGE).await?;
    let found = blocks.items.into_iter().find(|block| {
        let cidr = block.get("cidr").and_then(Value::as_str).and_then(|cidr| cidr.parse().ok());
        cidr.is_some_and(|cidr: ipnet::IpNet| cidr.contains(&ip))
    });
    let none = || Failure::usage(format!("no host has a block with {ip}; see romana block list"));
    let block = found.ok_or_else(none)?;
    let query = Query::new("/v1/addresses").with("block", Some(cell(&block, "/cidr")));
    let addresses = ctx.page(query, ADDRESS).await?.items;
    let value = json!({"block": block, "addresses": addresses});
    ctx.out.show(&value, || {
        let mut table = crate::address::table(&addresses);
        let owner = format!("{}/{}", cell(&block, "/tenant"), cell(&block, "/segment"));
        let (cidr, host) = (cell(&block, "/cidr"), cell(&block, "/host"));
        let (group, network) = (cell(&block, "/group"), cell(&block, "/network"));
        table.note(format!("{cidr} on {host} for {owner}, in group {group} of {network}"));
        table
    })
}

fn table(blocks: &[Value]) -> Table {
    let mut table = Table::new(
        &["CIDR", "HOST", "TENANT", "SEGMENT", "NETWORK", "GROUP", "LIVE"],
        "no blocks yet: the first address allocated on a host brings one",
    );
    for block in blocks {
        let keys = ["/cidr", "/host", "/tenant", "/segment", "/network", "/group", "/live"];
        table.row(keys.map(|key| cell(block, key)).into());
    }
    table
}

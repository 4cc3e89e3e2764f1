//! `romana vip pool`.

use clap::Subcommand;
use hyper::Method;
use romana_api::Page;
use romana_api::vip::VipPoolUsage;
use romana_client::Query;
use romana_statemachine::command::{SetVipPools, VipPoolSpec};
use romana_statemachine::plural;

use crate::context::Context;
use crate::failure::Failure;
use crate::table::{self, Table, cell};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Replace all pools; virtual IPs keep the addresses that they have
    Set {
        /// A pool and its ranges, such as edge=192.168.99.0/28,fd00:99::/64
        #[arg(value_name = "NAME=CIDR,…", required_unless_present = "none", value_parser = spec)]
        pools: Vec<VipPoolSpec>,
        /// Remove all pools
        #[arg(long, conflicts_with = "pools")]
        none: bool,
    },
    /// List the pools, and how many virtual IPs have an address of each
    #[command(visible_alias = "ls")]
    List,
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let path = Query::new("/v1/vip-pools");
        match self {
            Self::Set { pools, none: _ } => {
                let set = format!("{} set", plural(pools.len() as u64, "VIP pool"));
                let body = SetVipPools { pools };
                let answer = ctx.change::<Page<VipPoolUsage>>(Method::PUT, path, &body).await?;
                ctx.out.done(&answer, set)
            }
            Self::List => ctx.show_list(path, table).await,
        }
    }
}

/// Parses `NAME=CIDR,…`. The control plane checks the ranges.
fn spec(text: &str) -> Result<VipPoolSpec, String> {
    let (name, ranges) = text.split_once('=').ok_or("it is not NAME=CIDR")?;
    let ranges = ranges.split(',').map(str::to_owned).collect();
    Ok(VipPoolSpec { name: name.into(), ranges })
}

fn table(pools: &[VipPoolUsage]) -> Table {
    let empty = "no pools of addresses for VIPs yet: romana vip pool set NAME=CIDR";
    let mut rows = Table::new(&["NAME", "RANGES", "VIPS"], empty);
    for VipPoolUsage { name, ranges, vips } in pools {
        rows.row(vec![cell(name), table::list(ranges), cell(vips)]);
    }
    rows
}

//! `romana address`.

use std::net::IpAddr;

use clap::Subcommand;
use romana_client::Query;
use romana_statemachine::Allocation;
use romana_statemachine::command::AllocateAddress;

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;
use crate::table::{Table, cell};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Allocate an address; repeating the request returns the same address
    #[command(visible_alias = "add")]
    Allocate {
        /// Name of the address, by which it is shown and released
        name: String,
        /// Host that will use it
        #[arg(short = 'H', long)]
        host: String,
        /// Tenant that will own it
        #[arg(short, long, default_value = "default")]
        tenant: String,
        /// Segment of the tenant
        #[arg(short, long, default_value = "default")]
        segment: String,
        /// Allocate from this network only
        #[arg(short, long)]
        network: Option<String>,
        /// Allocate exactly this address
        #[arg(long)]
        ip: Option<IpAddr>,
    },
    /// Release addresses; releasing one again is not an error
    #[command(visible_alias = "remove")]
    Release {
        /// Names or addresses
        #[arg(required = true, value_name = "NAME|IP")]
        addresses: Vec<String>,
    },
    /// List live addresses
    #[command(visible_alias = "ls")]
    List {
        /// Of this network
        #[arg(short, long)]
        network: Option<String>,
        /// On this host
        #[arg(short = 'H', long)]
        host: Option<String>,
        /// Of this tenant
        #[arg(short, long)]
        tenant: Option<String>,
        /// Of this segment
        #[arg(short, long)]
        segment: Option<String>,
    },
    /// Show addresses
    Show {
        /// Names or addresses
        #[arg(required = true, value_name = "NAME|IP")]
        addresses: Vec<String>,
    },
}

const PATH: &str = "/v1/addresses";

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Allocate { name, host, tenant, segment, network, ip } => {
                let body = AllocateAddress {
                    name: name.into(),
                    host: host.into(),
                    tenant: tenant.into(),
                    segment: segment.into(),
                    network: network.map(Into::into),
                    ip,
                };
                let answer = ctx.post(Query::new(PATH), &body, true).await?;
                ctx.out.show(&answer, |address| table(std::slice::from_ref(address)))
            }
            Self::Release { addresses } => {
                let mut answers = Vec::with_capacity(addresses.len());
                let mut lines = Vec::with_capacity(addresses.len());
                for address in addresses {
                    let answer = ctx.delete(Query::new(PATH).segment(&address), true).await?;
                    let what = if answer.value.changed { "released" } else { "was not live" };
                    lines.push(format!("address {address} {what}"));
                    answers.push(answer);
                }
                ctx.out.done(&Answer::one_or_list(answers), lines.join("\n"))
            }
            Self::List { network, host, tenant, segment } => {
                let query = Query::new(PATH).with("network", network).with("host", host);
                let query = query.with("tenant", tenant).with("segment", segment);
                ctx.show_list(query, table).await
            }
            Self::Show { addresses } => ctx.show_each(PATH, &addresses, table).await,
        }
    }
}

/// Addresses, one per row.
pub(crate) fn table(addresses: &[Allocation]) -> Table {
    let mut table = Table::new(
        &["IP", "NAME", "HOST", "TENANT", "SEGMENT", "BLOCK", "NETWORK", "REVISION"],
        "no addresses: romana address allocate NAME --host HOST",
    );
    for Allocation { name, ip, block, network, host, tenant, segment, revision } in addresses {
        table.row(vec![
            cell(ip),
            cell(name),
            cell(host),
            cell(tenant),
            cell(segment),
            cell(block),
            cell(network),
            cell(revision),
        ]);
    }
    table
}

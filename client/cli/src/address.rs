//! `romana address`.

use std::net::IpAddr;

use clap::Subcommand;
use romana_client::Query;
use romana_statemachine::command::AllocateAddress;
use serde_json::Value;

use crate::context::Context;
use crate::failure::Failure;
use crate::shape::ADDRESS;
use crate::table::{Table, cell, items, one_or_list};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Allocate an address; the same request again gets the same address
    #[command(visible_alias = "add")]
    Allocate {
        /// The name it is known and released by
        name: String,
        /// The host it is for
        #[arg(short = 'H', long)]
        host: String,
        /// Whose it is
        #[arg(short, long, default_value = "default")]
        tenant: String,
        /// Which part of the tenant
        #[arg(short, long, default_value = "default")]
        segment: String,
        /// Only from this network
        #[arg(short, long)]
        network: Option<String>,
        /// Exactly this address
        #[arg(long)]
        ip: Option<IpAddr>,
    },
    /// Release addresses; again is fine
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
                let answer = ctx.post(Query::new("/v1/addresses"), &body, true, ADDRESS).await?;
                ctx.out.show(&answer, || table(std::slice::from_ref(&answer)))
            }
            Self::Release { addresses } => {
                let mut answers = Vec::with_capacity(addresses.len());
                let mut lines = Vec::with_capacity(addresses.len());
                for address in addresses {
                    let query = Query::new("/v1/addresses").segment(&address);
                    let answer = ctx.delete(query, true).await?;
                    let idle = answer.get("changed") == Some(&Value::Bool(false));
                    let what = if idle { "was not live" } else { "released" };
                    lines.push(format!("address {address} {what}"));
                    answers.push(answer);
                }
                ctx.out.done(&one_or_list(answers), lines.join("\n"))
            }
            Self::List { network, host, tenant, segment } => {
                let query = Query::new("/v1/addresses").with("network", network).with("host", host);
                let query = query.with("tenant", tenant).with("segment", segment);
                let list = ctx.list(query, ADDRESS).await?;
                ctx.out.show(&list, || table(items(&list)))
            }
            Self::Show { addresses } => {
                let found = ctx.get_each("/v1/addresses", &addresses, ADDRESS).await?;
                ctx.out.show(&one_or_list(found.clone()), || table(&found))
            }
        }
    }
}

/// Addresses, one per row.
pub(crate) fn table(addresses: &[Value]) -> Table {
    let mut table = Table::new(
        &["IP", "NAME", "HOST", "TENANT", "SEGMENT", "BLOCK", "NETWORK", "REVISION"],
        "no addresses: romana address allocate NAME --host HOST",
    );
    for address in addresses {
        let keys =
            ["/ip", "/name", "/host", "/tenant", "/segment", "/block", "/network", "/revision"];
        table.row(keys.map(|key| cell(address, key)).into());
    }
    table
}

//! `romana vip`.

use std::net::IpAddr;

use clap::Subcommand;
use romana_api::vip::VipBody;
use romana_client::Query;
use serde_json::Value;

use crate::context::Context;
use crate::failure::Failure;
use crate::shape::NAMED;
use crate::table::{Table, Tone, cell, items, one_or_list};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask for a virtual IP, or change the request (refused: no host of this release answers for them)
    #[command(visible_alias = "set")]
    Add {
        /// Its name
        name: String,
        /// The address
        ip: IpAddr,
        /// Host that may answer; may be repeated; none = any host that is up
        #[arg(long = "candidate", value_name = "HOST")]
        candidates: Vec<String>,
    },
    /// Remove a virtual IP
    Remove {
        /// Its name
        name: String,
    },
    /// List the virtual IPs and who answers
    #[command(visible_alias = "ls")]
    List,
    /// Show virtual IPs
    Show {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let path = Query::new("/v1/vips");
        match self {
            Self::Add { name, ip, candidates } => {
                let candidates = candidates.into_iter().map(Into::into).collect();
                let body = VipBody { ip, candidates };
                let answer = ctx.put(path.segment(&name), &body, NAMED.or_changed()).await?;
                ctx.out.done(&answer, format!("VIP {name} is requested at {ip}"))
            }
            Self::Remove { name } => {
                let answer = ctx.delete(path.segment(&name), false).await?;
                ctx.out.done(&answer, format!("VIP {name} removed"))
            }
            Self::List => {
                let list = ctx.list(path, NAMED).await?;
                ctx.out.show(&list, || table(items(&list)))
            }
            Self::Show { names } => {
                let found = ctx.get_each("/v1/vips", &names, NAMED).await?;
                ctx.out.show(&one_or_list(found.clone()), || table(&found))
            }
        }
    }
}

fn table(vips: &[Value]) -> Table {
    let columns = ["NAME", "IP", "HOST", "CANDIDATES"];
    let mut table = Table::new(&columns, "no virtual IPs: this release does not serve them");
    for vip in vips {
        let holder = cell(vip, "/holder/host");
        let tone = if holder == "-" { Tone::Warning } else { Tone::Plain };
        let candidates = match cell(vip, "/candidates") {
            none if none == "-" => String::from("any"),
            some => some,
        };
        table.toned(tone, vec![cell(vip, "/name"), cell(vip, "/ip"), holder, candidates]);
    }
    table
}

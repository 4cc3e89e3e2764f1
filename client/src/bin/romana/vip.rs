//! `romana vip`.

use std::net::IpAddr;

use clap::Subcommand;
use romana_client::Query;
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::Failure;
use crate::table::{Table, Tone, cell, items};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask for a virtual IP, or change the request
    #[command(visible_alias = "set")]
    Add {
        /// Its name
        name: String,
        /// The address
        ip: IpAddr,
        /// Host that may answer; may be repeated; none = any host that is up
        #[arg(short = 'c', long = "candidate", value_name = "HOST")]
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
                let body = json!({"ip": ip, "candidates": candidates});
                let answer = ctx.put(path.segment(&name), &body).await?;
                ctx.out.done(&answer, format!("VIP {name} is requested at {ip}"))
            }
            Self::Remove { name } => {
                let answer = ctx.delete(path.segment(&name), false).await?;
                ctx.out.done(&answer, format!("VIP {name} removed"))
            }
            Self::List => {
                let list = ctx.list(path).await?;
                ctx.out.show(&list, || table(items(&list)))
            }
            Self::Show { names } => {
                let list = ctx.client.list::<Value>(path).await?;
                let named = |vip: &Value| names.contains(&cell(vip, "/name"));
                let found: Vec<Value> = list.items.into_iter().filter(named).collect();
                let missing = names.iter().find(|n| !found.iter().any(|v| cell(v, "/name") == **n));
                if let Some(missing) = missing {
                    return Err(Failure::usage(format!("VIP {missing} does not exist")));
                }
                ctx.out.show(&found.clone().into(), || table(&found))
            }
        }
    }
}

fn table(vips: &[Value]) -> Table {
    let columns = ["NAME", "IP", "HOST", "CANDIDATES"];
    let mut table = Table::new(&columns, "no virtual IPs: romana vip add NAME IP");
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

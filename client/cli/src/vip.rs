//! `romana vip`.

use std::net::IpAddr;

use clap::Subcommand;
use hyper::Method;
use romana_api::vip::VipBody;
use romana_client::Query;
use romana_statemachine::Vip;

use crate::context::Context;
use crate::failure::Failure;
use crate::table::{self, Table, Tone, cell};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Request a virtual IP, or change the request (refused: this release does not serve them)
    #[command(visible_alias = "set")]
    Add {
        /// Its name
        name: String,
        /// The address
        ip: IpAddr,
        /// Host that may hold it; may be repeated [default: any host that is up]
        #[arg(long = "candidate", value_name = "HOST")]
        candidates: Vec<String>,
    },
    /// Remove a virtual IP
    Remove {
        /// Its name
        name: String,
    },
    /// List the virtual IPs and the hosts that hold them
    #[command(visible_alias = "ls")]
    List,
    /// Show virtual IPs
    Show {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

const PATH: &str = "/v1/vips";

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let path = Query::new(PATH);
        match self {
            Self::Add { name, ip, candidates } => {
                let candidates = candidates.into_iter().map(Into::into).collect();
                let body = VipBody { ip, candidates };
                let answer = ctx.change::<Vip>(Method::PUT, path.segment(&name), &body).await?;
                ctx.out.done(&answer, format!("VIP {name} is requested at {ip}"))
            }
            Self::Remove { name } => {
                let answer = ctx.delete(path.segment(&name), false).await?;
                ctx.out.done(&answer, format!("VIP {name} removed"))
            }
            Self::List => ctx.show_list(path, table).await,
            Self::Show { names } => ctx.show_each(PATH, &names, table).await,
        }
    }
}

fn table(vips: &[Vip]) -> Table {
    let columns = ["NAME", "IP", "HOST", "SINCE", "WHY", "CANDIDATES"];
    let mut table = Table::new(&columns, "no virtual IPs: this release does not serve them");
    for vip in vips {
        let Vip { name, ip, candidates, placement, .. } = vip;
        let tone = if vip.holder().is_some() { Tone::Plain } else { Tone::Warning };
        let since = placement.as_ref().map(|placed| format!("r{}", placed.since));
        let why = table::optional(placement.as_ref().map(|placed| placed.reason));
        let candidates = match candidates.is_empty() {
            true => String::from("any"),
            false => table::list(candidates),
        };
        let (host, since) = (table::optional(vip.holder()), table::optional(since));
        table.toned(tone, vec![cell(name), cell(ip), host, since, why, candidates]);
    }
    table
}

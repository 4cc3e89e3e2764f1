//! `romana vip`.

mod pool;

use std::net::IpAddr;

use clap::Subcommand;
use hyper::Method;
use romana_api::Page;
use romana_api::vip::{SourcedVip, VipBody};
use romana_client::Query;
use romana_statemachine::Vip;
use romana_statemachine::command::IpFamily;
use romana_statemachine::lease::LeaseLeft;

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;
use crate::table::{self, Table, Tone, cell};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Request a virtual IP, or change the request
    #[command(visible_alias = "set")]
    Add {
        /// Its name
        name: String,
        /// The address
        #[arg(required_unless_present = "auto")]
        ip: Option<IpAddr>,
        /// Take an address from a pool; one that has such an address keeps it
        #[arg(long, conflicts_with = "ip")]
        auto: bool,
        /// The pool [default: any]
        #[arg(long, requires = "auto")]
        pool: Option<String>,
        /// The family of the address [default: either]
        #[arg(long, requires = "auto", value_name = "ipv4|ipv6", value_parser = family)]
        family: Option<IpFamily>,
        /// Host that may hold it; may be repeated [default: any host that is up]
        #[arg(long = "candidate", value_name = "HOST")]
        candidates: Vec<String>,
    },
    /// Remove a virtual IP
    Remove {
        /// Its name
        name: String,
    },
    /// List the virtual IPs: which host has each, since when and why, and what is left of its grant
    #[command(visible_alias = "ls")]
    List,
    /// Show virtual IPs
    Show {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Pools of addresses for virtual IPs
    #[command(subcommand)]
    Pool(pool::Command),
}

const PATH: &str = "/v1/vips";
const LEASES: &str = "/v1/leases";

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let path = Query::new(PATH);
        match self {
            Self::Add { name, ip, auto, pool, family, candidates } => {
                let candidates = candidates.into_iter().map(Into::into).collect();
                let body = VipBody { ip, auto, pool: pool.map(Into::into), family, candidates };
                let answer =
                    ctx.change::<SourcedVip>(Method::PUT, path.segment(&name), &body).await?;
                let ip = answer.value.object().map(|sourced| sourced.vip.ip).or(ip);
                let at =
                    ip.map_or_else(|| String::from("an address of a pool"), |ip| ip.to_string());
                ctx.out.done(&answer, format!("VIP {name} is requested at {at}"))
            }
            Self::Remove { name } => {
                let answer = ctx.delete(path.segment(&name), false).await?;
                ctx.out.done(&answer, format!("VIP {name} removed"))
            }
            Self::List => {
                let leases = leases(ctx).await;
                ctx.show_list(path, |vips| table(vips, &leases)).await
            }
            Self::Show { names } => {
                let leases = leases(ctx).await;
                ctx.show_each(PATH, &names, |vips| details(vips, &leases)).await
            }
            Self::Pool(command) => command.run(ctx).await,
        }
    }
}

fn family(text: &str) -> Result<IpFamily, String> {
    match text {
        "ipv4" => Ok(IpFamily::Ipv4),
        "ipv6" => Ok(IpFamily::Ipv6),
        _ => Err(String::from("it is neither ipv4 nor ipv6")),
    }
}

/// What is left of a VIP's grants. Nothing is said where the leader does not answer: who has it is in the log.
async fn leases(ctx: &Context) -> Vec<LeaseLeft> {
    if !ctx.out.is_for_people() {
        return Vec::new();
    }
    let leases: Result<Answer<Page<LeaseLeft>>, Failure> = ctx.get(Query::new(LEASES)).await;
    match leases {
        Ok(leases) => leases.value.items,
        Err(failure) => {
            anstream::eprintln!("note: what is left of grants is not known: {failure}");
            Vec::new()
        }
    }
}

/// What is left of the grants for an address. More than one: the last holder's is not over yet.
fn grants(vip: &Vip, leases: &[LeaseLeft]) -> String {
    let grants = leases.iter().filter(|lease| lease.ip == vip.ip).map(|lease| {
        let LeaseLeft { host, left_ms, leaving, .. } = lease;
        let holds = vip.holder() == Some(host);
        let whose = if holds { String::new() } else { format!(" of {host}") };
        let ends = if *leaving { ", not renewed" } else { "" };
        format!("{}.{}s{whose}{ends}", left_ms / 1000, left_ms % 1000 / 100)
    });
    let grants: Vec<String> = grants.collect();
    cell(grants.join("; "))
}

/// Who asks for a VIP. Those of Services are named after them.
fn source(vip: &SourcedVip) -> String {
    // Further VIPs of a Service have a number behind its namespace.
    let labels: Vec<&str> = vip.vip.name.as_str().split('.').collect();
    match (&vip.source, &labels[..]) {
        (Some(source), [service, namespace, ..]) if source.kind.as_str() == "Service" => {
            format!("Service {namespace}/{service}")
        }
        (Some(source), _) => source.to_string(),
        (None, _) => String::from("operator"),
    }
}

fn candidates(vip: &Vip) -> String {
    match vip.candidates.is_empty() {
        true => String::from("any"),
        false => table::list(&vip.candidates),
    }
}

fn tone(vip: &Vip) -> Tone {
    if vip.holder().is_some() { Tone::Plain } else { Tone::Warning }
}

fn table(vips: &[SourcedVip], leases: &[LeaseLeft]) -> Table {
    let columns = ["NAME", "IP", "HOST", "SINCE", "WHY", "GRANT", "CANDIDATES", "SOURCE"];
    let mut table = Table::new(&columns, "no virtual IPs yet: romana vip add NAME IP");
    for sourced in vips {
        let vip = &sourced.vip;
        let placed = vip.placement.as_ref();
        let since = table::optional(placed.map(|placed| format!("r{}", placed.since)));
        let why = table::optional(placed.map(|placed| placed.reason));
        let (host, grant) = (table::optional(vip.holder()), grants(vip, leases));
        let (name, ip) = (cell(&vip.name), cell(vip.ip));
        let cells = vec![name, ip, host, since, why, grant, candidates(vip), source(sourced)];
        table.toned(tone(vip), cells);
    }
    table
}

fn details(vips: &[SourcedVip], leases: &[LeaseLeft]) -> Table {
    let mut table = Table::new(&["", ""], "no virtual IP");
    for (at, sourced) in vips.iter().enumerate() {
        if at > 0 {
            table.row(vec![String::new(), String::new()]);
        }
        let vip = &sourced.vip;
        let placed = vip.placement.as_ref();
        let since = placed.map(|placed| format!("{} (r{})", placed.at, placed.since));
        let length = placed.map(|placed| format!("{} ms after each renewal", placed.grant_ms));
        for (title, text) in [
            ("Name", cell(&vip.name)),
            ("IP", cell(vip.ip)),
            ("Host", table::optional(vip.holder())),
            ("Since", table::optional(since)),
            ("Why", table::optional(placed.map(|placed| placed.reason))),
            ("Grant", table::optional(length)),
            ("Left", grants(vip, leases)),
            ("Candidates", candidates(vip)),
            ("Source", source(sourced)),
        ] {
            table.row(vec![title.into(), text]);
        }
    }
    table
}

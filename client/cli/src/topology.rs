//! `romana topology`.

use std::path::PathBuf;

use clap::Subcommand;
use hyper::Method;
use romana_client::Query;
use romana_statemachine::name::NetworkName;
use romana_statemachine::plural;
use romana_statemachine::topology::{
    GroupSpec, MapSpec, PlannedNetwork, TopologyPlan, TopologySpec,
};

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;
use crate::input;
use crate::table::{self, Table, Tone, cell, optional};

const PATH: &str = "/v1/topology";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the topology: networks, prefix groups and their hosts
    #[command(visible_alias = "list")]
    Show,
    /// Set or replace the topology; everything in use is kept, or the update is refused as a whole
    Update {
        /// Document, JSON or YAML [default: stdin]
        file: Option<PathBuf>,
    },
    /// Show what an update would change; nothing is changed. Exit code 1 if it would be refused
    Plan {
        /// Document, JSON or YAML [default: stdin]
        file: Option<PathBuf>,
    },
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Show => ctx.out.show(&ctx.get(Query::new(PATH)).await?, tree),
            Self::Update { file } => {
                let document = input::document(file).await?;
                let query = Query::new(PATH);
                let answer = ctx.change::<TopologySpec>(Method::PUT, query, &document).await?;
                ctx.out.done(&answer, "Topology updated successfully.")
            }
            Self::Plan { file } => {
                let document = input::document(file).await?;
                let plan: Answer<TopologyPlan> =
                    ctx.inquire("/v1/topology/plan", &document).await?;
                ctx.out.show(&plan, planned)?;
                if is_refused(&plan.value) { Err(Failure::Found) } else { Ok(()) }
            }
        }
    }
}

/// The groups of every map, as an indented tree.
fn tree(document: &TopologySpec) -> Table {
    let mut table = Table::new(
        &["GROUP", "CIDR", "ASSIGNMENT", "HOSTS"],
        "no topology yet: romana topology update FILE",
    );
    for map in &document.topologies {
        let networks = format!("networks {}", table::list(&map.networks));
        let cells = vec![networks, cidrs(document, map), String::new(), String::new()];
        table.toned(Tone::Good, cells);
        map.map.iter().for_each(|group| branch(&mut table, group, 1));
    }
    table
}

/// CIDRs of the networks of a map.
fn cidrs(document: &TopologySpec, map: &MapSpec) -> String {
    let of = |name: &NetworkName| document.networks.iter().find(|network| network.name == *name);
    let cidrs: Vec<&str> =
        map.networks.iter().filter_map(of).map(|network| network.cidr.as_str()).collect();
    cidrs.join(",")
}

/// Whether `topology update` would be refused.
fn is_refused(plan: &TopologyPlan) -> bool {
    !plan.conflicts.is_empty()
}

/// Maximum depth of groups to display: the server allows 20 levels.
const DEPTH_MAX: usize = 32;

fn branch(table: &mut Table, group: &GroupSpec, depth: usize) {
    if group.dummy == Some(true) || depth > DEPTH_MAX {
        return; // Padding takes no host.
    }
    let all = || group.groups.iter().chain(&group.hosts).flatten();
    let hosts = all().filter(|element| element.is_host());
    let hosts = table::list(hosts.map(|host| optional(host.name.as_ref())));
    let name = group.name.as_ref().map_or_else(|| String::from("(unnamed)"), cell);
    let name = format!("{}{name}", "  ".repeat(depth));
    let (cidr, assignment) = (optional(group.cidr.as_ref()), table::labels(&group.assignment));
    table.row(vec![name, cidr, assignment, hosts]);
    for inner in all().filter(|element| !element.is_host()) {
        branch(table, inner, depth + 1);
    }
}

/// The changes of whole networks, as lines of text.
fn networks(plan: &TopologyPlan) -> Vec<String> {
    let mut lines = Vec::new();
    for (word, names) in [("add", &plan.networks_added), ("remove", &plan.networks_removed)] {
        lines.extend(names.iter().map(|name| format!("{word} network {}", cell(name))));
    }
    for change in &plan.networks_changed {
        let network = cell(&change.network);
        let (from, to) = (properties(&change.from), properties(&change.to));
        let both = from.into_iter().zip(to);
        lines.extend(both.filter(|(from, to)| from != to).map(|((what, from), (_, to))| {
            format!("change network {network}: {what} {from} → {to}")
        }));
    }
    for moved in &plan.blocks_handed_over {
        lines.push(format!(
            "move {} with {} from network {} to {}",
            plural(moved.blocks, "block"),
            plural(moved.addresses, "address"),
            cell(&moved.from),
            cell(&moved.to)
        ));
    }
    lines
}

/// The properties of a network, with their names.
fn properties(network: &PlannedNetwork) -> [(&'static str, String); 4] {
    let PlannedNetwork { cidr, block_mask, tenants, skip_first_last } = network;
    let all = tenants.is_empty();
    [
        ("range", cell(cidr)),
        ("block mask", cell(block_mask)),
        ("tenants", if all { String::from("all") } else { table::list(tenants) }),
        ("without first and last", cell(skip_first_last)),
    ]
}

fn planned(plan: &TopologyPlan) -> Table {
    let mut table = Table::new(&["NETWORK", "GROUP", "NAME", "HOSTS"], "no group would take hosts");
    for group in &plan.groups {
        let name = optional(group.name.as_ref());
        table.row(vec![cell(&group.network), cell(group.cidr), name, cell(group.hosts)]);
    }
    table.note("");
    networks(plan).into_iter().for_each(|line| table.note(line));
    for moved in &plan.hosts_moved {
        let (host, network) = (cell(&moved.host), cell(&moved.network));
        let (from, to) = (optional(moved.from), optional(moved.to));
        table.note(format!("move {host} in {network}: {from} → {to}"));
    }
    plan.hosts_added.iter().for_each(|host| table.note(format!("add host {}", cell(host))));
    for block in &plan.blocks_released {
        table.note(format!("release empty block {block}"));
    }
    for conflict in &plan.conflicts {
        let (subject, reason) = (cell(&conflict.subject), cell(&conflict.reason));
        table.note(format!("conflict: {subject}: {reason}"));
    }
    let blocks = plural(plan.blocks_kept, "block");
    let addresses = plural(plan.addresses_kept, "address");
    table.note(match (is_refused(plan), plan.changed) {
        (true, _) => String::from("it would be refused"),
        (false, false) => String::from("nothing would change"),
        (false, true) => {
            format!("it would be accepted, and keep {blocks} and {addresses}")
        }
    });
    table
}

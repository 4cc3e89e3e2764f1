//! `romana topology`.

use std::path::PathBuf;

use clap::Subcommand;
use romana_client::Query;
use romana_statemachine::plural;
use serde_json::Value;

use crate::context::{Context, done, read};
use crate::failure::Failure;
use crate::input;
use crate::shape::{Kind, Shape, TOPOLOGY};
use crate::table::{Table, Tone, cell, items, text};

/// The topology after a change.
const SHOWN: Shape = TOPOLOGY.or_changed();
/// The plan of a change.
const PLAN: Shape = Shape::new(&[("changed", Kind::Bool)]);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the topology: networks, prefix groups and their hosts
    #[command(visible_alias = "list")]
    Show,
    /// Set or replace the topology; what lives is kept, or the whole is refused
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
            Self::Show => {
                let document = ctx.get(Query::new("/v1/topology"), TOPOLOGY).await?;
                ctx.out.show(&document, || tree(&document))
            }
            Self::Update { file } => {
                let document = input::document(file).await?;
                let answer = done(ctx.client.put_topology(&document).await?, SHOWN)?;
                ctx.out.done(&answer, "Topology updated successfully.")
            }
            Self::Plan { file } => {
                let document = input::document(file).await?;
                let plan = read(ctx.client.plan_topology(&document).await?, PLAN)?;
                ctx.out.show(&plan, || planned(&plan))?;
                if is_refused(&plan) { Err(Failure::Found) } else { Ok(()) }
            }
        }
    }
}

/// The groups of every map, as an indented tree.
fn tree(document: &Value) -> Table {
    let mut table = Table::new(
        &["GROUP", "CIDR", "ASSIGNMENT", "HOSTS"],
        "no topology yet: romana topology update FILE",
    );
    for map in document.get("topologies").map(items).unwrap_or_default() {
        table.toned(
            Tone::Good,
            vec![
                format!("networks {}", cell(map, "/networks")),
                cidrs(document, map),
                String::new(),
                String::new(),
            ],
        );
        for group in map.get("map").map(items).unwrap_or_default() {
            branch(&mut table, group, 1);
        }
    }
    table
}

/// CIDRs of the networks of a map.
fn cidrs(document: &Value, map: &Value) -> String {
    let networks = document.get("networks").map(items).unwrap_or_default();
    let named = map.get("networks").map(items).unwrap_or_default();
    let of = |name: &Value| networks.iter().find(|network| network.get("name") == Some(name));
    let cidrs: Vec<String> = named.iter().filter_map(of).map(|n| cell(n, "/cidr")).collect();
    cidrs.join(",")
}

/// Whether `topology update` would be refused.
fn is_refused(plan: &Value) -> bool {
    plan.get("conflicts").is_some_and(|list| !items(list).is_empty())
}

/// Maximum depth of groups to display: the server allows 20 levels.
const DEPTH_MAX: usize = 32;

fn branch(table: &mut Table, group: &Value, depth: usize) {
    if group.get("dummy").and_then(Value::as_bool) == Some(true) || depth > DEPTH_MAX {
        return; // Padding takes no host.
    }
    let below = |key: &str| group.get(key).map(items).unwrap_or_default();
    let is_host = |element: &&Value| element.get("ip").is_some_and(|ip| !ip.is_null());
    let all = || below("groups").iter().chain(below("hosts"));
    let hosts: Vec<String> = all().filter(is_host).map(|host| cell(host, "/name")).collect();
    let name = match cell(group, "/name") {
        none if none == "-" => String::from("(unnamed)"),
        name => name,
    };
    let hosts = if hosts.is_empty() { String::from("-") } else { hosts.join(",") };
    let name = format!("{}{name}", "  ".repeat(depth));
    table.row(vec![name, cell(group, "/cidr"), cell(group, "/assignment"), hosts]);
    for inner in all().filter(|element| !is_host(element)) {
        branch(table, inner, depth + 1);
    }
}

/// The changes of whole networks, as lines of text.
fn networks(plan: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for (word, key) in [("add", "networks_added"), ("remove", "networks_removed")] {
        let names = plan.get(key).map(items).unwrap_or_default();
        lines.extend(names.iter().map(|name| format!("{word} network {}", text(name))));
    }
    for change in plan.get("networks_changed").map(items).unwrap_or_default() {
        let of = |end: &str, key: &str| change.get(end).and_then(|facts| facts.get(key)).cloned();
        for (what, key) in [
            ("range", "cidr"),
            ("block mask", "block_mask"),
            ("tenants", "tenants"),
            ("without first and last", "skip_first_last"),
        ] {
            let (from, to) = (of("from", key), of("to", key));
            if let (Some(from), Some(to)) = (&from, &to)
                && from != to
            {
                let network = cell(change, "/network");
                let (from, to) = (shown(from), shown(to));
                lines.push(format!("change network {network}: {what} {from} → {to}"));
            }
        }
    }
    for one in plan.get("blocks_handed_over").map(items).unwrap_or_default() {
        let of = |key: &str| cell(one, key);
        lines.push(format!(
            "move {} with {} from network {} to {}",
            number(one, "/blocks", "block"),
            number(one, "/addresses", "address"),
            of("/from"),
            of("/to")
        ));
    }
    lines
}

/// A count in a response, with its noun.
fn number(value: &Value, pointer: &str, noun: &str) -> String {
    let count = value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    plural(count, noun).to_string()
}

/// A value in short form: an empty list of tenants means all.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(list) if list.is_empty() => "all".into(),
        Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(","),
        value => text(value),
    }
}

fn planned(plan: &Value) -> Table {
    let mut table = Table::new(&["NETWORK", "GROUP", "NAME", "HOSTS"], "no group would take hosts");
    for group in plan.get("groups").map(items).unwrap_or_default() {
        table.row(["/network", "/cidr", "/name", "/hosts"].map(|key| cell(group, key)).into());
    }
    table.note("");
    networks(plan).into_iter().for_each(|line| table.note(line));
    for one in plan.get("hosts_moved").map(items).unwrap_or_default() {
        let (host, network) = (cell(one, "/host"), cell(one, "/network"));
        table.note(format!(
            "move {host} in {network}: {} → {}",
            cell(one, "/from"),
            cell(one, "/to")
        ));
    }
    for host in plan.get("hosts_added").map(items).unwrap_or_default() {
        table.note(format!("add host {}", text(host)));
    }
    for block in plan.get("blocks_released").map(items).unwrap_or_default() {
        table.note(format!("release empty block {}", text(block)));
    }
    for conflict in plan.get("conflicts").map(items).unwrap_or_default() {
        table.note(format!(
            "conflict: {}: {}",
            cell(conflict, "/subject"),
            cell(conflict, "/reason")
        ));
    }
    let refused = is_refused(plan);
    let changed = plan.get("changed").and_then(Value::as_bool).unwrap_or(true);
    let blocks = number(plan, "/blocks_kept", "block");
    let addresses = number(plan, "/addresses_kept", "address");
    table.note(match (refused, changed) {
        (true, _) => String::from("it would be refused"),
        (false, false) => String::from("nothing would change"),
        (false, true) => {
            format!("it would be accepted, and keep {blocks} and {addresses}")
        }
    });
    table
}

//! `romana host`.

use std::net::IpAddr;

use clap::Subcommand;
use ipnet::IpNet;
use romana_api::host::HostPatch;
use romana_client::Query;
use romana_statemachine::Refusal;
use romana_statemachine::command::{HostSource, HostSpec, HostState, Labels};
use serde_json::Value;

use crate::context::Context;
use crate::failure::Failure;
use crate::labels::{self, Change};
use crate::shape::{NAMED, Shape};
use crate::table::{Table, Tone, cell, items, one_or_list};

/// A host after a change.
const SHOWN: Shape = NAMED.or_changed();

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Add a host; its labels choose its prefix group
    Add {
        /// Its name (the Kubernetes node name)
        name: String,
        /// Its address in the physical network
        ip: IpAddr,
        /// The prefix it is expected to get (the topology decides; a difference is said)
        #[arg(value_name = "ROMANA-CIDR")]
        cidr: Option<IpNet>,
        /// Port of its agent, kept as information
        #[arg(value_name = "AGENT-PORT")]
        agent_port: Option<u16>,
        /// Label, such as rack=rack-1; may be repeated
        #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = labels::pair)]
        labels: Vec<(String, String)>,
        /// Further address; may be repeated
        #[arg(long = "address", value_name = "IP")]
        addresses: Vec<IpAddr>,
    },
    /// Remove a host that has no live addresses
    Remove {
        /// Its name or address
        #[arg(value_name = "NAME|IP")]
        host: String,
        /// Evict: release what lives on it
        #[arg(long)]
        force: bool,
    },
    /// List the hosts
    #[command(visible_alias = "ls")]
    List,
    /// Show hosts in detail
    Show {
        /// Names or addresses
        #[arg(required = true, value_name = "NAME|IP")]
        hosts: Vec<String>,
    },
    /// Set labels (key=value) and remove them (key-)
    Label {
        /// Its name or address
        #[arg(value_name = "NAME|IP")]
        host: String,
        /// What to change
        #[arg(required = true, value_name = "KEY=VALUE|KEY-", value_parser = labels::change)]
        changes: Vec<Change>,
    },
    /// Give a host no new VIPs and router duties
    Drain {
        /// Its name or address
        #[arg(value_name = "NAME|IP")]
        host: String,
    },
    /// Put a host into service again
    Up {
        /// Its name or address
        #[arg(value_name = "NAME|IP")]
        host: String,
    },
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Add { name, ip, cidr, agent_port, labels, addresses } => {
                let spec = HostSpec {
                    name: name.into(),
                    ip,
                    addresses,
                    labels: labels.into_iter().collect(),
                    info: info(cidr, agent_port),
                    source: HostSource::Operator,
                };
                add(ctx, cidr, &spec).await
            }
            Self::Remove { host, force } => {
                let name = resolve(ctx, host).await?;
                let query = Query::new("/v1/hosts").segment(&name);
                let answer = ctx.delete(query.with("force", force.then_some(true)), false).await?;
                ctx.out.done(&answer, format!("host {name} removed"))
            }
            Self::List => {
                let list = ctx.list(Query::new("/v1/hosts"), NAMED).await?;
                ctx.out.show(&list, || table(items(&list)))
            }
            Self::Show { hosts } => show(ctx, hosts).await,
            Self::Label { host, changes } => {
                let name = resolve(ctx, host).await?;
                let query = Query::new("/v1/hosts").segment(&name);
                let found = ctx.get(query.clone(), NAMED).await?;
                let labels = serde_json::from_value(found["labels"].clone()).unwrap_or_default();
                let labels = labels::apply(labels, changes);
                let patch = HostPatch { labels: Some(labels), ..HostPatch::default() };
                let answer = ctx.patch(query, &patch, SHOWN).await?;
                ctx.out.done(&answer, format!("host {name} labelled"))
            }
            Self::Drain { host } => set_state(ctx, host, HostState::Draining).await,
            Self::Up { host } => set_state(ctx, host, HostState::Up).await,
        }
    }
}

async fn set_state(ctx: &Context, host: String, state: HostState) -> Result<(), Failure> {
    let name = resolve(ctx, host).await?;
    let query = Query::new("/v1/hosts").segment(&name);
    let patch = HostPatch { state: Some(state), ..HostPatch::default() };
    let answer = ctx.patch(query, &patch, SHOWN).await?;
    let word = match state {
        HostState::Up => "up",
        HostState::Down => "down",
        HostState::Draining => "draining",
    };
    ctx.out.done(&answer, format!("host {name} is {word}"))
}

/// Arguments of the first command line that no longer have an effect, stored as facts of the host.
fn info(cidr: Option<IpNet>, agent_port: Option<u16>) -> Labels {
    let cidr = cidr.map(|cidr| ("romana_cidr".into(), cidr.to_string()));
    let port = agent_port.map(|port| ("agent_port".into(), port.to_string()));
    cidr.into_iter().chain(port).collect()
}

async fn add(ctx: &Context, cidr: Option<IpNet>, spec: &HostSpec) -> Result<(), Failure> {
    let name = &spec.name;
    let answer = ctx.post(Query::new("/v1/hosts"), spec, true, SHOWN).await?;
    let groups: Vec<IpNet> = items(answer.get("places").unwrap_or(&Value::Null))
        .iter()
        .filter_map(|place| place.get("group")?.as_str()?.parse().ok())
        .collect();
    let list: Vec<String> = groups.iter().map(ToString::to_string).collect();
    if let Some(cidr) = cidr.filter(|cidr| !groups.iter().any(|group| cidr.contains(group))) {
        let list = list.join(", ");
        anstream::eprintln!(
            "note: the topology places {name} in {list}, which is not inside {cidr}"
        );
    }
    ctx.out.done(&answer, format!("host {name} added to {}", list.join(", ")))
}

/// The name of a host given by name or address. If the text is the name of one host and the address of another, it is
/// refused.
async fn resolve(ctx: &Context, host: String) -> Result<String, Failure> {
    let Ok(ip) = host.parse::<IpAddr>() else { return Ok(host) };
    let hosts = ctx.client.hosts().await?;
    let named = hosts.items.iter().find(|known| known.name.as_str() == host);
    let found = hosts.items.iter().find(|host| host.ip == ip || host.addresses.contains(&ip));
    match (named, found) {
        (Some(named), Some(found)) if named.name != found.name => {
            let (named, found) = (format!("host {} ({})", named.name, named.ip), &found.name);
            let found = format!("the address of host {found}");
            return Err(Refusal::AmbiguousName { text: host, named, found }.into());
        }
        _ => {}
    }
    found.or(named).map(|host| host.name.to_string()).ok_or_else(|| {
        Failure::usage(format!("no host has the address {ip}; see romana host list"))
    })
}

async fn show(ctx: &Context, hosts: Vec<String>) -> Result<(), Failure> {
    let mut names = Vec::with_capacity(hosts.len());
    for host in hosts {
        names.push(resolve(ctx, host).await?);
    }
    let found = ctx.get_each("/v1/hosts", &names, NAMED).await?;
    ctx.out.show(&one_or_list(found.clone()), || details(&found))
}

fn state_tone(state: &str) -> Tone {
    match state {
        "down" => Tone::Bad,
        "draining" => Tone::Warning,
        _ => Tone::Plain,
    }
}

fn places(host: &Value) -> String {
    let places = host.get("places").map(items).unwrap_or_default();
    let groups: Vec<String> = places.iter().map(|place| cell(place, "/group")).collect();
    if groups.is_empty() { String::from("-") } else { groups.join(",") }
}

fn table(hosts: &[Value]) -> Table {
    let mut table = Table::new(
        &["NAME", "IP", "STATE", "GROUPS", "LABELS"],
        "no hosts yet: romana host add NAME IP --label KEY=VALUE",
    );
    for host in hosts {
        let state = cell(host, "/state");
        let cells = [cell(host, "/name"), cell(host, "/ip"), state.clone(), places(host)];
        let cells = cells.into_iter().chain([cell(host, "/labels")]).collect();
        table.toned(state_tone(&state), cells);
    }
    table
}

fn details(hosts: &[Value]) -> Table {
    let mut table = Table::new(&["", ""], "no host");
    for (at, host) in hosts.iter().enumerate() {
        if at > 0 {
            table.row(vec![String::new(), String::new()]);
        }
        for (title, pointer) in [
            ("Name", "/name"),
            ("IP", "/ip"),
            ("Addresses", "/addresses"),
            ("State", "/state"),
            ("Source", "/source"),
            ("Labels", "/labels"),
            ("Info", "/info"),
        ] {
            table.row(vec![title.into(), cell(host, pointer)]);
        }
        for place in host.get("places").map(items).unwrap_or_default() {
            let group = format!("{} in {}", cell(place, "/group"), cell(place, "/network"));
            table.row(vec!["Group".into(), group]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_arguments_are_kept_as_info() {
        let info = info(Some("10.0.0.0/16".parse().unwrap()), Some(9604));
        assert_eq!(info["romana_cidr"], "10.0.0.0/16");
        assert_eq!(info["agent_port"], "9604");
        assert!(super::info(None, None).is_empty());
    }
}

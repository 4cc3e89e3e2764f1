//! `romana host`.

use std::net::IpAddr;

use clap::Subcommand;
use hyper::Method;
use ipnet::IpNet;
use romana_api::host::HostPatch;
use romana_client::Query;
use romana_statemachine::command::{HostSource, HostSpec, HostState, Labels};
use romana_statemachine::{Host, Refusal};

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;
use crate::labels::{self, Change};
use crate::table::{self, Table, Tone, cell};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Add a host; its labels choose its prefix group
    Add {
        /// Its name (the Kubernetes node name)
        name: String,
        /// Its address in the physical network
        ip: IpAddr,
        /// Prefix that it is expected to get; the topology decides, and a difference is reported
        #[arg(value_name = "ROMANA-CIDR")]
        cidr: Option<IpNet>,
        /// Port of its agent, kept as information
        #[arg(value_name = "AGENT-PORT")]
        agent_port: Option<u16>,
        /// Label, such as rack=rack-1; may be repeated
        #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = labels::pair)]
        labels: Vec<(String, String)>,
        /// Additional address; may be repeated
        #[arg(long = "address", value_name = "IP")]
        addresses: Vec<IpAddr>,
    },
    /// Remove a host that has no live addresses
    Remove {
        /// Its name or address
        #[arg(value_name = "NAME|IP")]
        host: String,
        /// Evict: release its live addresses
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
        /// Labels to set or remove
        #[arg(required = true, value_name = "KEY=VALUE|KEY-", value_parser = labels::change)]
        changes: Vec<Change>,
    },
    /// Drain a host: it gets no new VIPs or router assignments
    Drain {
        /// Its name or address
        #[arg(value_name = "NAME|IP")]
        host: String,
    },
    /// Put a host back into service
    Up {
        /// Its name or address
        #[arg(value_name = "NAME|IP")]
        host: String,
    },
}

const PATH: &str = "/v1/hosts";

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
                let query = Query::new(PATH).segment(&name);
                let answer = ctx.delete(query.with("force", force.then_some(true)), false).await?;
                ctx.out.done(&answer, format!("host {name} removed"))
            }
            Self::List => ctx.show_list(Query::new(PATH), table).await,
            Self::Show { hosts } => show(ctx, hosts).await,
            Self::Label { host, changes } => {
                let name = resolve(ctx, host).await?;
                let query = Query::new(PATH).segment(&name);
                let found: Answer<Host> = ctx.get(query.clone()).await?;
                let labels = labels::apply(found.value.labels, changes);
                let patch = HostPatch { labels: Some(labels), ..HostPatch::default() };
                let answer = ctx.change::<Host>(Method::PATCH, query, &patch).await?;
                ctx.out.done(&answer, format!("host {name} labelled"))
            }
            Self::Drain { host } => set_state(ctx, host, HostState::Draining).await,
            Self::Up { host } => set_state(ctx, host, HostState::Up).await,
        }
    }
}

async fn set_state(ctx: &Context, host: String, state: HostState) -> Result<(), Failure> {
    let name = resolve(ctx, host).await?;
    let query = Query::new(PATH).segment(&name);
    let patch = HostPatch { state: Some(state), ..HostPatch::default() };
    let answer = ctx.change::<Host>(Method::PATCH, query, &patch).await?;
    ctx.out.done(&answer, format!("host {name} is {}", state.as_str()))
}

/// Arguments of the first command line that no longer have an effect, stored as facts of the host.
fn info(cidr: Option<IpNet>, agent_port: Option<u16>) -> Labels {
    let cidr = cidr.map(|cidr| ("romana_cidr".into(), cidr.to_string()));
    let port = agent_port.map(|port| ("agent_port".into(), port.to_string()));
    cidr.into_iter().chain(port).collect()
}

async fn add(ctx: &Context, cidr: Option<IpNet>, spec: &HostSpec) -> Result<(), Failure> {
    let name = &spec.name;
    let answer = ctx.change::<Host>(Method::POST, Query::new(PATH), spec).await?;
    let Some(host) = answer.value.object() else {
        return ctx.out.done(&answer, format!("host {name} added"));
    };
    let groups = || host.places.iter().map(|place| place.group);
    let list = groups().map(|group| group.to_string()).collect::<Vec<_>>().join(", ");
    if let Some(cidr) = cidr.filter(|cidr| !groups().any(|group| cidr.contains(&group))) {
        anstream::eprintln!(
            "note: the topology places {name} in {list}, which is not inside {cidr}"
        );
    }
    ctx.out.done(&answer, format!("host {name} added to {list}"))
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
        let hint = "romana host list shows the hosts.";
        Failure::not_found("HostNotFound", format!("no host has the address {ip}"), hint)
    })
}

async fn show(ctx: &Context, hosts: Vec<String>) -> Result<(), Failure> {
    let mut names = Vec::with_capacity(hosts.len());
    for host in hosts {
        names.push(resolve(ctx, host).await?);
    }
    ctx.show_each(PATH, &names, details).await
}

fn tone(state: HostState) -> Tone {
    match state {
        HostState::Up => Tone::Plain,
        HostState::Draining => Tone::Warning,
        HostState::Down => Tone::Bad,
    }
}

fn table(hosts: &[Host]) -> Table {
    let mut table = Table::new(
        &["NAME", "IP", "STATE", "GROUPS", "LABELS"],
        "no hosts yet: romana host add NAME IP --label KEY=VALUE",
    );
    for host in hosts {
        let groups = table::list(host.places.iter().map(|place| place.group));
        let state = host.state.as_str().into();
        let cells =
            vec![cell(&host.name), cell(host.ip), state, groups, table::labels(&host.labels)];
        table.toned(tone(host.state), cells);
    }
    table
}

fn details(hosts: &[Host]) -> Table {
    let mut table = Table::new(&["", ""], "no host");
    for (at, host) in hosts.iter().enumerate() {
        if at > 0 {
            table.row(vec![String::new(), String::new()]);
        }
        for (title, text) in [
            ("Name", cell(&host.name)),
            ("IP", cell(host.ip)),
            ("Addresses", table::list(&host.addresses)),
            ("State", host.state.as_str().into()),
            ("Source", host.source.as_str().into()),
            ("Labels", table::labels(&host.labels)),
            ("Info", table::labels(&host.info)),
        ] {
            table.row(vec![title.into(), text]);
        }
        for place in &host.places {
            table.row(vec!["Group".into(), format!("{} in {}", place.group, place.network)]);
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

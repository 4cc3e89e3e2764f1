//! `romana route`.

use clap::Subcommand;
use romana_api::routes::RoutesAt;
use romana_client::Query;
use romana_statemachine::plural;
use romana_statemachine::routes::{Route, Via};

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;
use crate::table::{self, Table, Tone, cell, optional};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the routes that a host or a router needs
    #[command(visible_alias = "ls")]
    List {
        /// Point of view: host:NAME, router (above all groups), or group:CIDR (the group's router)
        #[arg(value_name = "FOR", default_value = "router")]
        target: String,
    },
    /// Explain by which route an address is reached
    Explain {
        /// The address
        ip: std::net::IpAddr,
        /// Point of view, as in `romana route list`
        #[arg(long = "from", value_name = "FOR", default_value = "router")]
        target: String,
    },
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::List { target } => ctx.out.show(&ctx.get(query(&target)).await?, table),
            Self::Explain { ip, target } => {
                let found: Answer<RoutesAt> = ctx.get(query(&target)).await?;
                let routes = &found.value.routes.routes;
                let best = longest_match(routes, ip).and_then(|at| Some((at, routes.get(at)?)));
                let (at, route) = best.ok_or_else(|| no_route(ip, &target))?;
                let json = found.json["routes"][at].clone();
                ctx.out.done(&Answer { json, value: () }, explain(ip, &target, route))
            }
        }
    }
}

fn query(target: &str) -> Query {
    Query::new("/v1/routes").with("for", Some(target))
}

/// The next hop of a route.
fn via(route: &Route) -> String {
    match &route.via {
        Via::Local => String::from("local"),
        Via::Host { name, ip } => format!("host {} ({ip})", cell(name)),
        Via::Group { name, hosts } => {
            format!("group {} [{}]", optional(name.as_ref()), table::list(hosts))
        }
    }
}

fn table(answer: &RoutesAt) -> Table {
    let mut table = Table::new(&["PREFIX", "NETWORK", "VIA"], "no routes");
    let routes = &answer.routes;
    for route in &routes.routes {
        table.row(vec![cell(route.prefix), cell(&route.network), via(route)]);
    }
    for exception in &routes.exceptions {
        let prefix = format!("{} (exception)", exception.prefix);
        table.toned(Tone::Warning, vec![prefix, String::from("-"), cell(&exception.reason)]);
    }
    let count = plural(routes.routes.len(), "route");
    table.note(format!("{count}; prefix groups that take hosts: {}", routes.groups));
    table
}

/// The index of the route with the longest prefix that contains the address.
fn longest_match(routes: &[Route], ip: std::net::IpAddr) -> Option<usize> {
    let prefixes = routes.iter().map(|route| route.prefix).enumerate();
    let holding = prefixes.filter(|(_, prefix)| prefix.contains(&ip));
    holding.max_by_key(|(_, prefix)| prefix.prefix_len()).map(|(at, _)| at)
}

fn no_route(ip: std::net::IpAddr, target: &str) -> Failure {
    let message = format!("{target} has no route to {ip}: it is in no assigned block or group");
    Failure::not_found("RouteNotFound", message, "romana route list FOR shows the routes.")
}

fn explain(ip: std::net::IpAddr, target: &str, route: &Route) -> String {
    let (prefix, network) = (route.prefix, cell(&route.network));
    format!("{target} reaches {ip} by {prefix} (network {network}) via {}", via(route))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let route =
            |prefix: &str, via| Route { prefix: prefix.parse().unwrap(), network: "n".into(), via };
        let host = Via::Host { name: "h".into(), ip: [1, 2, 3, 4].into() };
        let routes = [route("10.0.0.0/8", Via::Local), route("10.1.0.0/16", host)];
        let ip = "10.1.2.3".parse().unwrap();
        let best = longest_match(&routes, ip).unwrap();
        let line = explain(ip, "router", &routes[best]);
        assert_eq!(line, "router reaches 10.1.2.3 by 10.1.0.0/16 (network n) via host h (1.2.3.4)");
        assert_eq!(longest_match(&routes, "11.0.0.1".parse().unwrap()), None);
    }
}

//! `romana route`.

use clap::Subcommand;
use romana_client::Query;
use romana_statemachine::plural;
use serde_json::Value;

use crate::context::Context;
use crate::failure::Failure;
use crate::shape::{Kind, Shape};
use crate::table::{Table, Tone, cell, items};

/// The routes from one point of view.
const ROUTES: Shape = Shape::new(&[("routes", Kind::List)]);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the routes that somebody needs
    #[command(visible_alias = "ls")]
    List {
        /// Whose: host:NAME, router, or group:CIDR
        #[arg(value_name = "FOR", default_value = "router")]
        target: String,
    },
    /// Explain how an address is reached
    Explain {
        /// The address
        ip: std::net::IpAddr,
        /// From where: host:NAME, router, or group:CIDR
        #[arg(long = "from", value_name = "FOR", default_value = "router")]
        target: String,
    },
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::List { target } => {
                let routes = ctx.get(query(&target), ROUTES).await?;
                ctx.out.show(&routes, || table(&routes))
            }
            Self::Explain { ip, target } => {
                let routes = ctx.get(query(&target), ROUTES).await?;
                let best = longest_match(&routes, ip);
                let value = best.cloned().unwrap_or(Value::Null);
                ctx.out.done(&value, explain(ip, &target, best))
            }
        }
    }
}

fn query(target: &str) -> Query {
    Query::new("/v1/routes").with("for", Some(target))
}

fn routes(answer: &Value) -> &[Value] {
    items(answer.get("routes").unwrap_or(answer))
}

/// The next hop of a route: `via` is a word, or an object with the kind as its key.
fn via(route: &Value) -> String {
    let Some(via) = route.get("via") else { return String::from("-") };
    if let Some(host) = via.get("host") {
        return format!("host {} ({})", cell(host, "/name"), cell(host, "/ip"));
    }
    if let Some(group) = via.get("group") {
        let name = cell(group, "/name");
        let hosts = cell(group, "/hosts");
        return format!("group {name} [{hosts}]");
    }
    crate::table::text(via)
}

fn table(answer: &Value) -> Table {
    let mut table = Table::new(&["PREFIX", "NETWORK", "VIA"], "no routes");
    for route in routes(answer) {
        table.row(vec![cell(route, "/prefix"), cell(route, "/network"), via(route)]);
    }
    for exception in answer.get("exceptions").map(items).unwrap_or_default() {
        let prefix = format!("{} (exception)", cell(exception, "/prefix"));
        table.toned(Tone::Warning, vec![prefix, String::from("-"), cell(exception, "/reason")]);
    }
    if let Some(groups) = answer.get("groups").and_then(Value::as_u64) {
        table.note(format!(
            "{}; prefix groups that take hosts: {groups}",
            plural(routes(answer).len(), "route")
        ));
    }
    table
}

/// The route with the longest prefix that contains the address.
fn longest_match(answer: &Value, ip: std::net::IpAddr) -> Option<&Value> {
    let prefix = |route: &Value| cell(route, "/prefix").parse::<ipnet::IpNet>().ok();
    let holding = routes(answer).iter().filter_map(|route| Some((prefix(route)?, route)));
    let holding = holding.filter(|(prefix, _)| prefix.contains(&ip));
    holding.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, route)| route)
}

fn explain(ip: std::net::IpAddr, target: &str, route: Option<&Value>) -> String {
    match route {
        None => format!("{target} has no route to {ip}: it is in no assigned block or group"),
        Some(route) => {
            let (prefix, network) = (cell(route, "/prefix"), cell(route, "/network"));
            format!("{target} reaches {ip} by {prefix} (network {network}) via {}", via(route))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let answer = json!({"routes": [
            {"prefix": "10.0.0.0/8", "network": "n", "via": "local"},
            {"prefix": "10.1.0.0/16", "network": "n", "via": {"host": {"name": "h", "ip": "1.2.3.4"}}},
            {"prefix": "bad"},
        ]});
        let ip = "10.1.2.3".parse().unwrap();
        let line = explain(ip, "router", longest_match(&answer, ip));
        assert_eq!(line, "router reaches 10.1.2.3 by 10.1.0.0/16 (network n) via host h (1.2.3.4)");
        assert!(longest_match(&answer, "11.0.0.1".parse().unwrap()).is_none());
    }
}

//! `romana network`.

use clap::Subcommand;
use romana_client::Query;
use serde_json::Value;

use crate::context::Context;
use crate::failure::Failure;
use crate::shape::NAMED;
use crate::table::{Table, Tone, cell, items, one_or_list, text};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the networks
    #[command(visible_alias = "ls")]
    List,
    /// Show networks with their prefix groups and how full they are
    Show {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::List => {
                let list = ctx.list(Query::new("/v1/networks"), NAMED).await?;
                ctx.out.show(&list, || table(items(&list)))
            }
            Self::Show { names } => {
                let found = ctx.get_each("/v1/networks", &names, NAMED).await?;
                ctx.out.show(&one_or_list(found.clone()), || usage(&found))
            }
        }
    }
}

fn table(networks: &[Value]) -> Table {
    let mut table = Table::new(
        &["NAME", "CIDR", "BLOCK MASK", "TENANTS", "GROUPS", "ADDRESSES"],
        "no networks yet: romana topology update FILE",
    );
    for network in networks {
        let groups = groups(network);
        let addresses: u64 = groups.iter().map(|group| number(group, "addresses")).sum();
        let tenants = match network.get("tenants") {
            Some(Value::Array(tenants)) if !tenants.is_empty() => text(&tenants.clone().into()),
            _ => String::from("all"),
        };
        table.row(vec![
            cell(network, "/name"),
            cell(network, "/cidr"),
            cell(network, "/block_mask"),
            tenants,
            groups.len().to_string(),
            addresses.to_string(),
        ]);
    }
    table
}

/// The leaf groups of a network.
pub(crate) fn groups(network: &Value) -> &[Value] {
    network.get("groups").map(items).unwrap_or_default()
}

/// A count; 0 if it is missing.
pub(crate) fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or(0)
}

/// Percentage of a group's addresses that cannot be allocated now.
pub(crate) fn percent_used(group: &Value) -> u64 {
    let used = number(group, "addresses").saturating_add(number(group, "cooling"));
    match number(group, "capacity") {
        0 => 0,
        capacity => u64::try_from(u128::from(used) * 100 / u128::from(capacity)).unwrap_or(100),
    }
}

/// The number of addresses in a group. Large ones are printed as powers of two; the API's value is capped at 2^64 -
/// 1.
fn capacity(group: &Value) -> String {
    match number(group, "capacity") {
        u64::MAX => {
            let cidr = cell(group, "/cidr").parse::<ipnet::IpNet>();
            let bits = cidr.map_or(64, |cidr| cidr.max_prefix_len() - cidr.prefix_len());
            format!("2^{}", bits.max(64))
        }
        large if large >= 1 << 32 && large.is_power_of_two() => {
            format!("2^{}", large.trailing_zeros())
        }
        capacity => capacity.to_string(),
    }
}

/// The usage of the groups of networks.
pub(crate) fn usage(networks: &[Value]) -> Table {
    let mut table = Table::new(
        &[
            "NETWORK",
            "GROUP",
            "NAME",
            "HOSTS",
            "BLOCKS",
            "ADDRESSES",
            "COOLING",
            "CAPACITY",
            "USED",
        ],
        "no networks yet: romana topology update FILE",
    );
    for network in networks {
        for group in groups(network) {
            let used = percent_used(group);
            let tone = match used {
                0..80 => Tone::Plain,
                80..95 => Tone::Warning,
                _ => Tone::Bad,
            };
            let mut cells = vec![cell(network, "/name")];
            for key in ["/cidr", "/name", "/hosts", "/blocks", "/addresses", "/cooling"] {
                cells.push(cell(group, key));
            }
            cells.push(capacity(group));
            cells.push(format!("{used}%"));
            table.toned(tone, cells);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn use_is_counted_without_overflow() {
        let group = json!({"addresses": 10, "cooling": 2, "capacity": 16});
        assert_eq!(percent_used(&group), 75);
        let group = json!({"addresses": u64::MAX, "cooling": 2, "capacity": u64::MAX});
        assert_eq!(percent_used(&group), 100);
        assert_eq!(percent_used(&json!({})), 0);
        for (cidr, addresses, shown) in [
            ("10.0.0.0/16", 1 << 16, "65536"),
            ("fd00::/90", 1 << 38, "2^38"),
            ("fd00::/64", u64::MAX, "2^64"),
            ("fd00::/48", u64::MAX, "2^80"),
        ] {
            assert_eq!(capacity(&json!({"cidr": cidr, "capacity": addresses})), shown);
        }
    }
}

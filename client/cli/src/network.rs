//! `romana network`.

use clap::Subcommand;
use romana_api::network::Network;
use romana_client::Query;
use romana_statemachine::GroupUsage;

use crate::context::Context;
use crate::failure::Failure;
use crate::table::{self, Table, Tone, cell, optional};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the networks
    #[command(visible_alias = "ls")]
    List,
    /// Show networks with their prefix groups and their utilization
    Show {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

pub(crate) const PATH: &str = "/v1/networks";

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::List => ctx.show_list(Query::new(PATH), table).await,
            Self::Show { names } => ctx.show_each(PATH, &names, usage).await,
        }
    }
}

fn table(networks: &[Network]) -> Table {
    let mut table = Table::new(
        &["NAME", "CIDR", "BLOCK MASK", "TENANTS", "GROUPS", "ADDRESSES"],
        "no networks yet: romana topology update FILE",
    );
    for Network { name, cidr, block_mask, tenants, groups, .. } in networks {
        let addresses: u64 = groups.iter().map(|group| group.usage.addresses).sum();
        let tenants = match tenants.is_empty() {
            true => String::from("all"),
            false => table::list(tenants),
        };
        let (groups, addresses) = (cell(groups.len()), cell(addresses));
        table.row(vec![cell(name), cell(cidr), cell(block_mask), tenants, groups, addresses]);
    }
    table
}

/// Percentage of a group's addresses that cannot be allocated now.
pub(crate) fn percent_used(group: &GroupUsage) -> u64 {
    let used = group.addresses.saturating_add(group.cooling);
    match group.capacity {
        0 => 0,
        capacity => u64::try_from(u128::from(used) * 100 / u128::from(capacity)).unwrap_or(100),
    }
}

/// The number of addresses in a group. Large ones are printed as powers of two; the API's value is capped at 2^64 -
/// 1.
fn capacity(group: &GroupUsage) -> String {
    match group.capacity {
        u64::MAX => {
            let bits = group.cidr.max_prefix_len() - group.cidr.prefix_len();
            format!("2^{}", bits.max(64))
        }
        large if large >= 1 << 32 && large.is_power_of_two() => {
            format!("2^{}", large.trailing_zeros())
        }
        capacity => capacity.to_string(),
    }
}

/// The usage of the groups of networks.
pub(crate) fn usage(networks: &[Network]) -> Table {
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
        for group in &network.groups {
            let GroupUsage { cidr, hosts, blocks, addresses, cooling, .. } = &group.usage;
            let used = percent_used(&group.usage);
            let tone = match used {
                0..80 => Tone::Plain,
                80..95 => Tone::Warning,
                _ => Tone::Bad,
            };
            let mut cells = vec![cell(&network.name), cell(cidr), optional(group.name.as_ref())];
            cells.extend([hosts, blocks, addresses, cooling].map(cell));
            cells.extend([capacity(&group.usage), format!("{used}%")]);
            table.toned(tone, cells);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_is_counted_without_overflow() {
        let group = |cidr: &str, addresses, cooling, capacity| GroupUsage {
            cidr: cidr.parse().unwrap(),
            hosts: 0,
            blocks: 0,
            addresses,
            cooling,
            capacity,
        };
        assert_eq!(percent_used(&group("10.0.0.0/28", 10, 2, 16)), 75);
        assert_eq!(percent_used(&group("fd00::/48", u64::MAX, 2, u64::MAX)), 100);
        assert_eq!(percent_used(&group("10.0.0.0/28", 0, 0, 0)), 0);
        for (cidr, addresses, shown) in [
            ("10.0.0.0/16", 1 << 16, "65536"),
            ("fd00::/90", 1 << 38, "2^38"),
            ("fd00::/64", u64::MAX, "2^64"),
            ("fd00::/48", u64::MAX, "2^80"),
        ] {
            assert_eq!(capacity(&group(cidr, 0, 0, addresses)), shown);
        }
    }
}

//! How full networks are, for `/metrics`.

use romana_statemachine::{GroupUsage, State};

/// The addresses of a network, added up over its leaf groups.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetworkReading {
    pub network: String,
    /// Live addresses.
    pub addresses: u64,
    /// Released addresses that are not given out again yet.
    pub cooling: u64,
    /// All addresses of its groups.
    pub capacity: u64,
    /// Part of the fullest group's addresses that cannot be allocated now, 0 to 1.
    pub fullest_group: f64,
}

/// The networks of the topology. Reads every block once.
#[must_use]
pub fn networks(state: &State) -> Vec<NetworkReading> {
    let networks = state.topology().into_iter().flat_map(|topology| topology.networks());
    let reading = |network: &romana_statemachine::topology::Network| {
        let usages = network.leaves().map(|group| state.ipam().usage(group.cidr));
        sum(network.name.to_string(), usages)
    };
    networks.map(reading).collect()
}

fn sum(network: String, usages: impl Iterator<Item = GroupUsage>) -> NetworkReading {
    let mut reading = NetworkReading { network, ..NetworkReading::default() };
    for GroupUsage { addresses, cooling, capacity, .. } in usages {
        reading.addresses = reading.addresses.saturating_add(addresses);
        reading.cooling = reading.cooling.saturating_add(cooling);
        reading.capacity = reading.capacity.saturating_add(capacity);
        let used = addresses.saturating_add(cooling) as f64 / capacity.max(1) as f64;
        reading.fullest_group = reading.fullest_group.max(used);
    }
    reading
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(addresses: u64, cooling: u64, capacity: u64) -> GroupUsage {
        let cidr = "10.0.0.0/24".parse().unwrap();
        GroupUsage { cidr, hosts: 1, blocks: 1, addresses, cooling, capacity }
    }

    #[test]
    fn groups_are_added_up_and_the_fullest_is_told() {
        let usages = [usage(10, 2, 100), usage(60, 15, 100), usage(0, 0, u64::MAX)];
        let reading = sum("n".into(), usages.into_iter());
        let wanted = NetworkReading {
            network: "n".into(),
            addresses: 70,
            cooling: 17,
            capacity: u64::MAX,
            fullest_group: 0.75,
        };
        assert_eq!(reading, wanted);
        assert_eq!(sum("n".into(), std::iter::empty()).capacity, 0);
    }
}

//! Findings of `ipam check`, each with its remedy: conflicts that older versions of the checks let into a cluster.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;

use super::{SPECIAL, User, check, users};
use crate::finding::{Finding, Severity};
use crate::host::{Host, in_dns};
use crate::name::AddressName;
use crate::prefix;
use crate::state::State;
use crate::topology::Network;

impl State {
    /// Addresses with two users, unusable addresses, and ambiguous names.
    #[must_use]
    pub fn address_findings(&self) -> Vec<Finding> {
        let networks = self.topology().into_iter().flat_map(|topology| topology.networks());
        let mut found: Vec<Finding> = networks.flat_map(|network| self.network(network)).collect();
        found.extend(self.hosts().flat_map(|host| self.host_finding(host)));
        found.extend(self.hosts_alike());
        let vips = self.vips().map(|vip| (vip.ip, format!("VIP {}", vip.name)));
        let endpoints = self.endpoints().map(|e| (e.ip, format!("endpoint {}", e.ip)));
        found.extend(vips.chain(endpoints).filter_map(|(ip, user)| unusable(ip, &user)));
        found.extend(self.vips().filter_map(|vip| self.shared(vip.ip)));
        found.extend(self.hosts().flat_map(Host::ips).filter_map(|ip| self.shared(ip)));
        let in_services = self.service_ranges().flat_map(|range| self.ipam.addresses_in(range));
        found.extend(in_services.filter_map(|address| self.shared(address.ip)));
        let names =
            self.ipam.addresses_after(None).filter_map(|address| self.two_meanings(&address.name));
        found.extend(names);
        found.sort();
        found.dedup();
        found
    }

    /// A network that overlaps a special-purpose range or a service range.
    fn network<'a>(&'a self, network: &'a Network) -> impl Iterator<Item = Finding> + 'a {
        let (name, cidr) = (&network.name, network.cidr);
        let special = SPECIAL.iter().find(|(range, _)| prefix::overlap(*range, cidr));
        let special = special.map(|(range, what)| {
            format!(
                "{cidr} shares addresses with {range} ({what}), where no endpoint can be reached"
            )
        });
        let services = self.service_ranges().find(|range| prefix::overlap(*range, cidr));
        let services = services.map(|range| {
            format!("{cidr} shares addresses with services ({range}); they are not given out")
        });
        special.into_iter().chain(services).map(move |why| Finding {
            severity: Severity::Error,
            code: "NetworkMisplaced".into(),
            subject: format!("network {name}"),
            why,
            remedy: "move its endpoints to a network with another range, and take it out of the topology".into(),
        })
    }

    /// A host whose address lies in a network or in a special-purpose range.
    fn host_finding<'a>(&'a self, host: &'a Host) -> impl Iterator<Item = Finding> + 'a {
        host.ips().filter_map(move |ip| {
            let network = self.topology()?.network_around(ip.into())?;
            let excluded = self.ipam.blackout_of(ip).is_some();
            (!excluded).then(|| Finding {
                severity: Severity::Warning,
                code: "HostInsideNetwork".into(),
                subject: format!("host {}", host.name),
                why: format!(
                    "{ip} lies in network {} ({}), whose addresses are for endpoints; it is not given out",
                    network.name, network.cidr
                ),
                remedy: format!(
                    "exclude the range that hosts are in: romana blackout add {ip}/{}",
                    if ip.is_ipv4() { 32 } else { 128 }
                ),
            })
        })
        .chain(host.ips().filter_map(|ip| unusable(ip, &format!("host {}", host.name))))
    }

    /// Hosts whose names are equal in DNS.
    fn hosts_alike(&self) -> impl Iterator<Item = Finding> {
        let mut spellings: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for host in self.hosts() {
            let name = host.name.as_str();
            spellings.entry(in_dns(name).collect()).or_default().push(name);
        }
        spellings.into_values().filter(|names| names.len() > 1).map(|names| Finding {
            severity: Severity::Warning,
            code: "HostsDifferInCase".into(),
            subject: format!("host {}", names.first().unwrap_or(&"")),
            why: format!(
                "{} differ in upper and lower case or a last dot only, which DNS does not tell apart",
                names.join(" and ")
            ),
            remedy: "drain and remove all but one: romana host remove".into(),
        })
    }

    /// An address with several users. An endpoint and the allocation of its address count as one.
    fn shared(&self, ip: IpAddr) -> Option<Finding> {
        let mut all: Vec<User> = users(self, ip).collect();
        if all.iter().any(|user| matches!(user, User::Address(_))) {
            all.retain(|user| !matches!(user, User::Endpoint(..)));
        }
        let users: Vec<String> = all.iter().map(ToString::to_string).collect();
        (users.len() > 1).then(|| Finding {
            severity: Severity::Error,
            code: "AddressShared".into(),
            subject: format!("address {ip}"),
            why: format!("it belongs to {}", users.join(" and ")),
            remedy: "give one of them another address: restart what runs with it, or change the host or VIP".into(),
        })
    }

    fn two_meanings(&self, name: &AddressName) -> Option<Finding> {
        let refusal = self.ipam.check_unambiguous(name).err()?;
        Some(Finding {
            severity: Severity::Warning,
            code: refusal.code().into(),
            subject: format!("address {name}"),
            why: refusal.to_string(),
            remedy: "release the one that is named like an address, by the address that it has"
                .into(),
        })
    }
}

fn unusable(ip: IpAddr, user: &str) -> Option<Finding> {
    check(ip).err().map(|refusal| Finding {
        severity: Severity::Error,
        code: "AddressUnusable".into(),
        subject: user.to_string(),
        why: refusal.to_string(),
        remedy: "give it an address at which others can reach it".into(),
    })
}

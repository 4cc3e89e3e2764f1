//! Which addresses of VIPs this host has on which links: pure.
//!
//! A VIP is put on the link that has its subnet; of several, on the one with the longest prefix. What is in the kernel
//! already under another program's hand is left alone, and said.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::frames::Mac;
use crate::kernel::addresses::{VipFacts, VipLink};

/// A VIP's address is on this host by another program's hand.
pub const FOREIGN: &str = "VipAddressForeign";
/// No link of this host can have the VIP.
pub const NO_LINK: &str = "VipWithoutLink";
/// Several links of this host are in the VIP's subnet, and each would answer for it.
pub const SEVERAL_LINKS: &str = "VipOnSeveralLinks";

/// A lifetime in the kernel is over up to this much later than it says: the kernel looks once a second.
const LATE: Duration = Duration::from_millis(250);

/// What is wanted in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub hold: Vec<Place>,
    /// Ours that are not wanted where they are, with the index of the link.
    pub remove: Vec<(IpAddr, u32)>,
    /// Other links in a VIP's subnet, by name, with the IPv4 VIPs.
    pub beside: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Code and text.
    pub problems: Vec<(&'static str, String)>,
}

/// Where an address is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub ip: IpAddr,
    pub link: u32,
    pub mac: Mac,
    /// Until when the host may have it.
    pub until: Duration,
    /// Whether the link has it already.
    pub known: bool,
}

/// The subnets in which this host can have VIPs. `only`: the link for VIPs, by name.
#[must_use]
pub fn subnets(facts: &VipFacts, only: Option<&str>) -> Vec<IpNet> {
    let usable = facts.links.iter().filter(|link| is_usable(link, only));
    let all: BTreeSet<IpNet> = usable.flat_map(|link| link.subnets.iter().copied()).collect();
    all.into_iter().collect()
}

fn is_usable(link: &VipLink, only: Option<&str>) -> bool {
    link.carrier && link.mac.is_some() && only.is_none_or(|name| name == link.name)
}

/// What to have in the kernel. `held`: granted addresses, and until when; `vips`: all addresses of VIPs; `spared`: ours
/// from an earlier run that may stay until it is known whether they are granted.
#[must_use]
pub fn plan(
    held: &BTreeMap<IpAddr, Duration>,
    vips: &BTreeSet<IpAddr>,
    spared: &BTreeSet<IpAddr>,
    facts: &VipFacts,
    only: Option<&str>,
) -> Plan {
    let mut plan = Plan::default();
    for (ip, until) in held {
        plan.place(*ip, *until, facts, only);
    }
    for found in &facts.addresses {
        let wanted = plan.hold.iter().any(|place| (place.ip, place.link) == (found.ip, found.link));
        if found.ours && (found.failed || !wanted && !spared.contains(&found.ip)) {
            plan.remove.push((found.ip, found.link));
        } else if !found.ours && vips.contains(&found.ip) {
            let link = facts.links.iter().find(|link| link.index == found.link);
            let link = link.map_or("a link", |link| link.name.as_str());
            let why = format!(
                "{} is the address of a VIP, and {link} has it from another program, so this host answers for it \
                 whoever holds the VIP: remove it from the host's network configuration",
                found.ip
            );
            plan.problems.push((FOREIGN, why));
        }
    }
    plan
}

impl Plan {
    fn place(&mut self, ip: IpAddr, until: Duration, facts: &VipFacts, only: Option<&str>) {
        let mut found = facts.addresses.iter().filter(|found| found.ip == ip);
        if found.clone().any(|found| !found.ours) {
            return;
        }
        let fits = facts.links.iter().filter(|link| is_usable(link, only));
        let fits = fits.filter_map(|link| Some((longest(link, ip)?, link)));
        // Of equal ones, the first.
        let best = fits.min_by_key(|(length, link)| (u8::MAX - length, link.index));
        let Some((link, mac)) = best.and_then(|(_, link)| Some((link, link.mac?))) else {
            let why = format!(
                "no link that is up has the subnet of VIP {ip}: this host cannot answer for it"
            );
            self.problems.push((NO_LINK, why));
            return;
        };
        let others = facts.links.iter().filter(|other| is_usable(other, None));
        let others = others.filter(|other| other.index != link.index && ip.is_ipv4());
        for other in others.filter(|other| longest(other, ip).is_some()) {
            self.beside.entry(other.name.clone()).or_default().insert(ip);
        }
        let known = found.any(|found| found.link == link.index && !found.failed);
        self.hold.push(Place { ip, link: link.index, mac, until, known });
    }
}

fn longest(link: &VipLink, ip: IpAddr) -> Option<u8> {
    let containing = link.subnets.iter().filter(|subnet| subnet.contains(&ip));
    containing.map(IpNet::prefix_len).max()
}

/// The lifetime of an address in the kernel, seconds, whose grant is over after `left`: the kernel has removed it
/// [`REMOVAL`](romana_statemachine::lease::REMOVAL) after the end of the grant, if nobody does before. `None`: even the
/// shortest is too long, so the kernel's lifetime stays as it is.
#[must_use]
pub fn lifetime(left: Duration) -> Option<u32> {
    let allowed = left + romana_statemachine::lease::REMOVAL;
    if allowed < Duration::from_secs(1) + LATE {
        return None;
    }
    // The kernel may look a second later than it should.
    let seconds = (allowed - LATE).as_secs().saturating_sub(1).max(1);
    Some(u32::try_from(seconds).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use romana_statemachine::lease::REMOVAL;

    use super::*;

    #[test]
    fn the_kernel_ends_an_address_in_time() {
        for left_ms in 0..12_000 {
            let left = Duration::from_millis(left_ms);
            let Some(seconds) = lifetime(left) else {
                assert!(left + REMOVAL < Duration::from_millis(1_250));
                continue;
            };
            let usual = Duration::from_secs(seconds.into()) + LATE;
            assert!(usual <= left + REMOVAL, "{left_ms} ms left: {seconds} s");
            // Also if the kernel looks a second late, for grants of which 1.5 s are left.
            if left >= Duration::from_millis(1_500) {
                assert!(usual + Duration::from_secs(1) <= left + REMOVAL, "{left_ms} ms left");
            }
        }
        assert_eq!(lifetime(Duration::from_millis(499)), None);
        assert_eq!(lifetime(Duration::from_millis(500)), Some(1));
        assert_eq!(lifetime(Duration::from_secs(10)), Some(9));
    }
}

//! Links beside that of a VIP, in the same subnet: Linux answers ARP for any of its addresses on every link, so the
//! VIP would have several Ethernet addresses. `arp_ignore` and `arp_announce` of those links prevent it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::sysctl::Sysctls;

/// Answer only for addresses of the link that was asked.
const IGNORE: u8 = 1;
/// Ask only with addresses of the link's subnets.
const ANNOUNCE: u8 = 2;

/// Sets the sysctls of the links beside VIPs, or only checks them. Returns what is wrong.
#[must_use]
pub fn guard(
    sysctls: &Sysctls,
    beside: &BTreeMap<String, BTreeSet<IpAddr>>,
    set: bool,
) -> Vec<String> {
    let each = beside.iter().filter_map(|(link, vips)| {
        let settings = [("arp_ignore", IGNORE), ("arp_announce", ANNOUNCE)];
        let wrong = settings.into_iter().find_map(|(name, least)| {
            let why = provide(sysctls, link, name, least, set)?;
            Some(format!("net.ipv4.conf.{link}.{name} {why}"))
        })?;
        let vips: Vec<String> = vips.iter().map(IpAddr::to_string).collect();
        let vips = vips.join(", ");
        Some(format!("{link} is in the subnet of VIP {vips}, which is on another link: {wrong}"))
    });
    each.collect()
}

/// The kernel uses the larger one of the link's value and that of `all`.
fn provide(sysctls: &Sysctls, link: &str, name: &str, least: u8, set: bool) -> Option<String> {
    let values = ["all", link].map(|conf| sysctls.read(&format!("net/ipv4/conf/{conf}/{name}")));
    let has = |value: &std::io::Result<String>| {
        let value = value.as_ref().ok().and_then(|value| value.parse::<u8>().ok());
        value.is_some_and(|value| value >= least)
    };
    if values.iter().any(has) {
        return None;
    }
    if !set {
        return Some(format!(
            "is less than {least}: set it, or start the agent with --set-sysctls"
        ));
    }
    let written = sysctls.write(&format!("net/ipv4/conf/{link}/{name}"), &least.to_string());
    written.err().map(|error| format!("cannot be set to {least}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_beside_are_silent_about_a_vip() {
        let dir = tempfile::tempdir().unwrap();
        let sysctls = Sysctls::at(dir.path().to_owned());
        for conf in ["all", "eth1"] {
            std::fs::create_dir_all(sysctls.path(&format!("net/ipv4/conf/{conf}"))).unwrap();
            for name in ["arp_ignore", "arp_announce"] {
                sysctls.write(&format!("net/ipv4/conf/{conf}/{name}"), "0\n").unwrap();
            }
        }
        let vips = BTreeSet::from(["10.0.0.100".parse().unwrap()]);
        let beside = BTreeMap::from([(String::from("eth1"), vips)]);
        let wrong = guard(&sysctls, &beside, false);
        assert!(wrong.len() == 1 && wrong[0].contains("arp_ignore is less than 1"), "{wrong:?}");
        // Setting one of them is not enough.
        sysctls.write("net/ipv4/conf/all/arp_ignore", "1\n").unwrap();
        let wrong = guard(&sysctls, &beside, false);
        assert!(wrong.len() == 1 && wrong[0].contains("arp_announce is less than 2"), "{wrong:?}");
        assert_eq!(guard(&sysctls, &beside, true), [""; 0]);
        assert_eq!(sysctls.read("net/ipv4/conf/eth1/arp_announce").unwrap(), "2");
        assert_eq!(sysctls.read("net/ipv4/conf/eth1/arp_ignore").unwrap(), "0", "all has it");
        assert_eq!(guard(&sysctls, &BTreeMap::new(), true), [""; 0]);
    }
}

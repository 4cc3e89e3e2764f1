//! Masquerading of packets that leave the Romana networks.

use crate::lab::{Lab, until};
use crate::routes::flat;

#[test]
fn only_what_leaves_is_masqueraded_in_namespaces() {
    let mut lab = Lab::one_link();
    lab.unfiltered();
    lab.topology(&flat());
    // Another program's rule, which must survive.
    lab.nat("h1", &["-A", "POSTROUTING", "-s", "192.0.2.1", "-j", "ACCEPT"]).expect("iptables");
    let register = ["--register", "--host-ip", "10.77.0.1,fd77::1"];
    lab.start_agent("h1", &[&register[..], &["--nat"]].concat());
    lab.start_agent("h2", &["--register", "--host-ip", "10.77.0.2,fd77::2"]);
    until("both are registered", || {
        lab.romana(&["host", "list"])["items"].as_array().is_some_and(|hosts| hosts.len() == 2)
    });
    let here = lab.pod("a", "h1", "v4");
    let there = lab.pod("b", "h2", "v4");
    lab.reaches("a", there);
    // h3 has no route back to a container: it answers the host.
    until("the outside answers", || lab.is_answered("a", "10.77.0.3"));
    // b has a route back to a only: packets from a must not be masqueraded.
    lab.ip("b", &["route", "add", &here.to_string(), "via", "169.254.1.1"]);
    lab.ip("b", &["route", "del", "default"]);
    lab.reaches("a", there);
    let rules = lab.nat("h1", &["-S"]).expect("iptables");
    assert_eq!(rules.matches("-j ROMANA-MASQ").count(), 1, "{rules}");
    // Another program flushes the chain: a restart restores it, and a start without --nat removes it.
    lab.nat("h1", &["-F", "ROMANA-MASQ"]).expect("iptables");
    lab.kill_agent("h1");
    lab.start_agent("h1", &["--nat"]);
    until("the chain is as it was", || lab.nat("h1", &["-S"]).as_ref() == Some(&rules));
    lab.kill_agent("h1");
    lab.start_agent("h1", &[]);
    until("the chain is gone", || lab.nat("h1", &["-S", "ROMANA-MASQ"]).is_none());
    let left = lab.nat("h1", &["-S", "POSTROUTING"]).expect("iptables");
    assert_eq!(left.lines().filter(|line| line.starts_with("-A")).count(), 1, "{left}");
    assert!(left.contains("192.0.2.1"));
    // A tracked connection stays masqueraded, but a new one is not.
    assert!(!lab.is_answered("a", "10.77.0.3"), "it is still masqueraded");
}

//! Routes between hosts.

use serde_json::{Value, json};

use crate::lab::{Lab, until};

/// One group for all hosts, both families.
pub(crate) fn flat() -> Value {
    json!({
        "networks": [
            {"name": "v4", "cidr": "10.112.0.0/16", "block_mask": 29},
            {"name": "v6", "cidr": "fd11::/64", "block_mask": 122},
        ],
        "topologies": [{"networks": ["v4", "v6"], "map": [{"groups": []}]}],
    })
}

const REGISTER: &[&str] = &["--register", "--host-ip"];

pub(crate) fn start_all(lab: &mut Lab) {
    for n in 1..=3 {
        let ips = format!("10.77.0.{n},fd77::{n}");
        lab.start_agent(&format!("h{n}"), &[REGISTER, &[&ips]].concat());
    }
    until("all hosts are registered", || {
        lab.romana(&["host", "list"])["items"].as_array().is_some_and(|hosts| hosts.len() == 3)
    });
}

#[test]
fn pods_reach_each_other_in_namespaces() {
    let mut lab = Lab::one_link();
    lab.unfiltered();
    lab.topology(&flat());
    start_all(&mut lab);
    let mut pods = Vec::new();
    for n in 1..=3 {
        for (network, letter) in [("v4", 'a'), ("v4", 'b'), ("v6", 'c')] {
            let name = format!("p{n}{letter}");
            pods.push((name.clone(), lab.pod(&name, &format!("h{n}"), network)));
        }
    }
    for (from, ip) in &pods {
        for (_, to) in pods.iter().filter(|(_, to)| to != ip && to.is_ipv4() == ip.is_ipv4()) {
            lab.reaches(from, *to);
        }
    }
    // One block per host and family; the second address is in the first one's block.
    let v4 = |n: u8| format!("10.112.0.{}/29", (n - 1) * 8);
    let v6 =
        |n: u8| if n == 1 { "fd11::/122".into() } else { format!("fd11::{:x}/122", (n - 1) * 64) };
    for n in 1..=3 {
        let others = (1..=3).filter(|other| *other != n);
        let mut wanted: Vec<String> = others
            .flat_map(|o| [format!("{} 10.77.0.{o}", v4(o)), format!("{} fd77::{o}", v6(o))])
            .collect();
        wanted.extend([format!("{} unreachable", v4(n)), format!("{} unreachable", v6(n))]);
        lab.expect_routes(&format!("h{n}"), &wanted);
    }
}

#[test]
fn nothing_is_lost_and_nothing_rewritten_in_namespaces() {
    let mut lab = Lab::one_link();
    lab.unfiltered();
    lab.topology(&flat());
    start_all(&mut lab);
    lab.pod("a", "h1", "v4");
    let to = lab.pod("b", "h2", "v4");
    // A route of another program: another protocol, to another range.
    lab.ip("h1", &["route", "add", "192.168.7.0/24", "via", "10.77.0.2", "proto", "4"]);
    lab.reaches("a", to);
    let before = lab.ip_json("h1", &["route", "show"]);
    let ping = lab.start_ping("a", to);
    for host in ["h1", "h2"] {
        lab.kill_agent(host);
    }
    lab.kill_replicas();
    // Without any replica, an agent starts from its saved view and finds nothing to change.
    lab.start_agent("h1", &[]);
    let status = lab.status("h1").expect("a status");
    assert_eq!(status.writes, 0, "{status:#?}");
    assert_eq!(status.stale_ms, None, "it heard a replica that is dead");
    assert_eq!(lab.ip_json("h1", &["route", "show"]), before);
    lab.start_replicas();
    lab.start_agent("h2", &[]);
    until("the agent hears replicas again", || {
        lab.status("h1").is_some_and(|status| status.stale_ms.is_some())
    });
    assert_eq!(lab.status("h2").expect("a status").writes, 0);
    let (sent, received) = ping.end();
    assert!(sent > 50 && sent == received, "{received} of {sent}");
    assert_eq!(lab.ip_json("h1", &["route", "show"]), before);
}

#[test]
fn what_is_taken_away_comes_back_and_what_is_gone_goes_in_namespaces() {
    let mut lab = Lab::one_link();
    lab.topology(&flat());
    start_all(&mut lab);
    for n in 1..=3 {
        lab.romana(&["address", "allocate", "--host", &format!("h{n}"), &format!("a{n}")]);
    }
    let route = |n: u8| format!("10.112.0.{}/29 10.77.0.{n}", (n - 1) * 8);
    let own = "10.112.0.0/29 unreachable".to_owned();
    lab.expect_routes("h1", &[own.clone(), route(2), route(3)]);
    lab.ip("h1", &["route", "del", "10.112.0.8/29", "proto", "57"]);
    lab.expect_routes("h1", &[own.clone(), route(2), route(3)]);
    // A second block adjacent to the first, with the same next hop: both are merged into one route.
    for n in 0..8 {
        lab.romana(&["address", "allocate", "--host", "h3", &format!("more{n}")]);
    }
    let merged = "10.112.0.16/28 10.77.0.3".to_owned();
    lab.expect_routes("h1", &[own.clone(), route(2), merged.clone()]);
    lab.romana(&["host", "remove", "--force", "h2"]);
    lab.expect_routes("h1", &[own, merged]);
    lab.expect_routes(
        "h3",
        &["10.112.0.0/29 10.77.0.1".into(), "10.112.0.16/28 unreachable".into()],
    );
}

#[test]
fn hosts_behind_a_gateway_in_namespaces() {
    let mut lab = Lab::two_racks();
    lab.unfiltered();
    lab.topology(&json!({
        "networks": [{"name": "net", "cidr": "10.112.0.0/16", "block_mask": 29}],
        "topologies": [{"networks": ["net"], "map": [
            {"name": "rack-1", "assignment": {"rack": "1"}, "groups": []},
            {"name": "rack-2", "assignment": {"rack": "2"}, "groups": []},
        ]}],
    }));
    for (n, subnet, last) in [(1, 77, 1), (2, 77, 2), (3, 78, 1), (4, 78, 2)] {
        let (ip, rack) = (format!("10.{subnet}.0.{last}"), format!("rack={}", (n + 1) / 2));
        let host = format!("h{n}");
        let more = [REGISTER, &[&ip, "--host-labels", &rack]].concat();
        lab.start_agent(&host, &more);
        until("it is registered", || lab.try_romana(&["host", "show", &host]).is_some());
    }
    let pods: Vec<_> = (1..=4)
        .map(|n| (format!("p{n}"), lab.pod(&format!("p{n}"), &format!("h{n}"), "net")))
        .collect();
    // The router sends each rack's prefix to a host of the rack, as the publisher will announce it.
    for (prefix, via) in [("10.112.0.0/29", "10.77.0.1"), ("10.112.0.8/29", "10.77.0.2")] {
        lab.ip("rt", &["route", "add", prefix, "via", via]);
    }
    for (prefix, via) in [("10.112.128.0/29", "10.78.0.1"), ("10.112.128.8/29", "10.78.0.2")] {
        lab.ip("rt", &["route", "add", prefix, "via", via]);
    }
    for (from, ip) in &pods {
        for (_, to) in pods.iter().filter(|(_, to)| to != ip) {
            lab.reaches(from, *to);
        }
    }
    let near = ["10.112.0.0/29 unreachable".to_owned(), "10.112.0.8/29 10.77.0.2".to_owned()];
    lab.expect_routes("h1", &near);
    let skipped = lab.status("h1").expect("a status").skipped;
    assert_eq!(skipped.len(), 2);
    assert!(skipped.values().all(|why| why.contains("behind a gateway")), "{skipped:?}");
    // Routes through the gateway only with --multihop-blocks.
    lab.kill_agent("h1");
    lab.start_agent("h1", &["--multihop-blocks"]);
    let far = "10.112.128.0/28 10.77.0.254".to_owned();
    lab.expect_routes("h1", &[&near[..], &[far]].concat());
    lab.reaches("p1", pods[3].1);
}

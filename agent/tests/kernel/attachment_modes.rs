//! Other ways to attach and reach containers: IPAM only, after another plugin, IPv6 only, several links, a
//! host that changes its address, and very many blocks.

use std::net::UdpSocket;

use serde_json::json;

use crate::lab::{Lab, addresses, in_namespace_thread, until};
use crate::routes::{flat, start_all};

fn lab() -> Lab {
    let mut lab = Lab::one_link();
    lab.topology(&flat());
    start_all(&mut lab);
    lab
}

#[test]
fn as_an_ipam_delegate_it_gives_addresses_only_in_namespaces() {
    let mut lab = lab();
    let netns = lab.container("c1");
    // As the bridge plugin calls its IPAM delegate: the main plugin's configuration, with `ipam`.
    let delegate = |lab: &Lab, command: &str| {
        let mut call = lab.cni("h1", command, "c1", &netns);
        let ipam = json!({"type": "romana-cni", "socket": call.config["socket"], "stateDir": call.config["stateDir"]});
        call.config["type"] = "bridge".into();
        call.config["ipam"] = ipam;
        for member in ["socket", "stateDir", "mtu"] {
            call.config.as_object_mut().expect("an object").remove(member);
        }
        call
    };
    let result = delegate(&lab, "ADD").ok();
    assert_eq!(addresses(&result).len(), 2);
    assert!(result.get("interfaces").is_none(), "IPAM results have none: {result}");
    assert!(result["ips"].as_array().expect("ips").iter().all(|ip| ip.get("interface").is_none()));
    assert_eq!(lab.links("h1"), [""; 0], "the main plugin makes the link");
    assert_eq!(lab.allocated("h1").len(), 2);
    delegate(&lab, "DEL").ok();
    delegate(&lab, "DEL").ok();
    until("they are back", || lab.allocated("h1").is_empty() && lab.attachment_count("h1") == 0);
}

#[test]
fn after_another_plugin_its_result_is_kept_in_namespaces() {
    let mut lab = lab();
    let netns = lab.container("c1");
    let mut add = lab.cni("h1", "ADD", "c1", &netns);
    add.config["prevResult"] = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "net0", "mac": "02:00:00:00:00:01", "sandbox": netns}],
        "ips": [{"address": "172.16.0.2/24", "interface": 0}],
        "dns": {"nameservers": ["10.0.0.53"]},
    });
    let result = add.ok();
    let names: Vec<_> = result["interfaces"].as_array().expect("a list").iter().collect();
    assert_eq!((names.len(), &names[0]["name"]), (3, &json!("net0")));
    assert_eq!(result["dns"]["nameservers"][0], "10.0.0.53");
    let ips = result["ips"].as_array().expect("a list");
    assert_eq!((ips.len(), &ips[0]["interface"]), (3, &json!(0)));
    for ip in &ips[1..] {
        let interface =
            ip["interface"].as_u64().and_then(|at| names.get(usize::try_from(at).ok()?));
        assert_eq!(interface.map(|link| &link["name"]), Some(&json!("eth0")), "{result}");
    }
    let mut check = lab.cni("h1", "CHECK", "c1", &netns);
    check.config["prevResult"] = result;
    check.ok();
}

#[test]
fn ipv6_alone_is_enough_in_namespaces() {
    let mut lab = Lab::one_link();
    lab.topology(&json!({
        "networks": [{"name": "v6", "cidr": "fd11::/64", "block_mask": 122}],
        "topologies": [{"networks": ["v6"], "map": [{"groups": []}]}],
    }));
    start_all(&mut lab);
    let mut found = Vec::new();
    for host in ["h1", "h2"] {
        let netns = lab.container(&format!("{host}-c"));
        let ips = addresses(&lab.cni(host, "ADD", &format!("{host}-c"), &netns).ok());
        assert!(ips.len() == 1 && ips[0].is_ipv6(), "{ips:?}");
        found.push(ips[0]);
    }
    lab.reaches("h1-c", found[1]);
    lab.reaches("h2-c", found[0]);
}

#[test]
fn a_host_that_gets_another_address_is_followed_in_namespaces() {
    let mut lab = lab();
    let netns = lab.container("c3");
    let ip = addresses(&lab.cni("h3", "ADD", "c3", &netns).ok())[0];
    let via = |lab: &Lab, gateway: &str| {
        lab.routes("h1").iter().any(|route| route.ends_with(&format!(" {gateway}")))
    };
    until("there is a route", || via(&lab, "10.77.0.3"));
    // The new address is added first; then the host registers it, and the old one is removed.
    lab.ip("h3", &["addr", "add", "10.77.0.33/24", "dev", "eth0"]);
    lab.kill_agent("h3");
    lab.start_agent("h3", &["--register", "--host-ip", "10.77.0.33,fd77::3"]);
    until("the route follows", || via(&lab, "10.77.0.33") && !via(&lab, "10.77.0.3"));
    // The kernel removes the other one as well, and all routes of the link: the agent restores its own.
    lab.ip("h3", &["addr", "del", "10.77.0.3/24", "dev", "eth0"]);
    lab.ip("h3", &["addr", "replace", "10.77.0.33/24", "dev", "eth0"]);
    let netns = lab.container("c1");
    lab.cni("h1", "ADD", "c1", &netns).ok();
    lab.reaches("c1", ip);
}

#[test]
fn a_host_on_two_links_is_reached_by_both_in_namespaces() {
    let mut lab = Lab::one_link();
    lab.second_link();
    lab.topology(&flat());
    for n in 1..=3 {
        let ips = format!("10.77.0.{n},fd77::{n},10.88.0.{n}");
        lab.start_agent(&format!("h{n}"), &["--ecmp", "--register", "--host-ip", &ips]);
    }
    until("h3 is registered", || lab.try_romana(&["host", "show", "h3"]).is_some());
    let netns = lab.container("c3");
    let ip = addresses(&lab.cni("h3", "ADD", "c3", &netns).ok())[0];
    let hops = |lab: &Lab| {
        let all = lab.ip_json("h1", &["-4", "route", "show", "proto", "57"]);
        let hops = all
            .as_array()
            .and_then(|all| all.iter().find_map(|one| one["nexthops"].as_array().cloned()));
        let hops = hops.unwrap_or_default().into_iter();
        let mut hops: Vec<_> =
            hops.filter_map(|hop| hop["gateway"].as_str().map(str::to_owned)).collect();
        hops.sort();
        hops
    };
    until("it goes by both links", || hops(&lab) == ["10.77.0.3", "10.88.0.3"]);
    let before = lab.status("h1").expect("its status").writes;
    let netns = lab.container("c1");
    lab.cni("h1", "ADD", "c1", &netns).ok();
    lab.reaches("c1", ip);
    // The kernel reports the routes as they were requested, so they are not rewritten.
    lab.kill_agent("h1");
    lab.start_agent("h1", &["--ecmp"]);
    assert!(before > 0);
    assert_eq!(lab.status("h1").expect("its status").writes, 0);
}

#[test]
fn ten_thousand_routes_are_written_once_in_namespaces() {
    let mut lab = Lab::one_link();
    lab.topology(&json!({
        "networks": [{"name": "v4", "cidr": "10.112.0.0/12", "block_mask": 30}],
        "topologies": [{"networks": ["v4"], "map": [{"groups": []}]}],
    }));
    for host in ["h2", "h3"] {
        lab.romana(&["host", "add", host, &format!("10.77.0.{}", &host[1..])]);
    }
    // Blocks of two hosts alternate: no two adjacent blocks have the same next hop.
    lab.allocate_by_turns(10_000, ["h2", "h3"]);
    lab.start_agent("h1", &["--register", "--host-ip", "10.77.0.1"]);
    let status = |lab: &Lab| lab.status("h1").expect("its status");
    until("all routes are there", || lab.routes("h1").len() == 10_000);
    until("the agent knows", || {
        status(&lab).applied == status(&lab).revision && status(&lab).routes == 10_000
    });
    assert_eq!(status(&lab).writes, 10_000);
    lab.kill_agent("h1");
    lab.start_agent("h1", &[]);
    until("it has looked", || status(&lab).routes == 10_000);
    assert_eq!(status(&lab).writes, 0, "a route that is right is not written again");
}

/// A management network with the default route and another MTU does not affect the traffic to other hosts.
#[test]
fn mtu_and_registered_address_are_those_of_the_way_to_the_others_in_namespaces() {
    let mut lab = Lab::one_link();
    lab.topology(&flat());
    lab.ip("h1", &["link", "add", "aside", "type", "veth", "peer", "name", "far"]);
    for link in ["aside", "far"] {
        lab.ip("h1", &["link", "set", link, "mtu", "1280", "up"]);
    }
    lab.ip("h1", &["addr", "add", "10.99.0.1/24", "dev", "aside"]);
    lab.ip("h1", &["route", "add", "default", "via", "10.99.0.2"]);
    lab.ip("h1", &["link", "set", "eth0", "mtu", "1450"]);
    lab.start_agent("h2", &["--register", "--host-ip", "10.77.0.2,fd77::2"]);
    lab.start_agent("h1", &["--register"]);
    until("it is registered", || lab.try_romana(&["host", "show", "h1"]).is_some());
    let host = lab.romana(&["host", "show", "h1"]);
    assert_eq!((&host["ip"], &host["addresses"]), (&json!("10.77.0.1"), &json!(["fd77::1"])));
    let netns = lab.container("c1");
    let mut add = lab.cni("h1", "ADD", "c1", &netns);
    add.config["mtu"] = json!(0);
    add.ok();
    assert_eq!(lab.ip_json("c1", &["link", "show", "dev", "eth0"])[0]["mtu"], 1450);
}

/// A kernel has 1024 neighbour entries for all its namespaces by default: thirty containers that talk to thirty others
/// would use them up, if each destination were one.
#[test]
fn all_destinations_of_a_container_are_one_neighbour_in_namespaces() {
    let mut lab = lab();
    let netns = lab.container("c1");
    let result = lab.cni("h1", "ADD", "c1", &netns).ok();
    in_namespace_thread(&lab.ns("c1"), || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        for n in 1..=50 {
            socket.send_to(b"?", (format!("198.51.100.{n}").as_str(), 9)).expect("sent");
        }
    });
    // The host's own address may be one as well.
    let neighbours = lab.ip_json("c1", &["-4", "neigh", "show"]).to_string();
    assert!(
        neighbours.contains("169.254.1.1") && !neighbours.contains("198.51.100"),
        "{neighbours}"
    );
    // The host speaks to it from an address that others know, too.
    let ip = addresses(&result).into_iter().find(|ip| ip.is_ipv4()).expect("an IPv4 address");
    let route = lab.ip_json("h1", &["route", "get", &ip.to_string()]);
    assert_eq!(route[0]["prefsrc"], "10.77.0.1", "{route}");
}

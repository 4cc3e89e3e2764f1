//! Addresses and hosts with a new holder: the earlier holder has no effect on the next one.

use romana_statemachine::Revision;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};

use crate::lab::{Lab, addresses, in_namespace_thread, until};
use crate::probe::serve;
use crate::routes::{flat, start_all};

fn lab() -> Lab {
    let mut lab = Lab::one_link();
    lab.topology(&flat());
    start_all(&mut lab);
    lab
}

fn attach(lab: &mut Lab, host: &str, name: &str) -> Vec<IpAddr> {
    let netns = lab.container(name);
    addresses(&lab.cni(host, "ADD", name, &netns).ok())
}

/// Makes the kernel of a host track an established connection.
fn track(lab: &Lab, host: &str, from: &str, to: &str, answered_by: &str) {
    let tuple = ["-p", "udp", "--sport", "5000", "--dport", "53", "-s", from, "-d", to];
    let reply =
        ["-r", answered_by, "-q", from, "--reply-port-src", "53", "--reply-port-dst", "5000"];
    let state = ["-u", "SEEN_REPLY,ASSURED", "-t", "600"];
    let args = [&["conntrack", "-I"][..], &tuple, &reply, &state].concat();
    assert!(lab.try_exec(host, &args).is_some(), "{args:?}");
}

/// Connections that the kernel of a host tracks.
fn tracked(lab: &Lab, host: &str) -> String {
    let of = |family| {
        let listed = lab.try_exec(host, &["conntrack", "-L", "-f", family, "-p", "udp"]);
        String::from_utf8(listed.expect("a list").stdout).expect("text")
    };
    ["ipv4", "ipv6"].map(of).concat()
}

#[test]
fn connections_of_a_released_address_are_forgotten_on_all_hosts_in_namespaces() {
    let mut lab = lab();
    let ips = attach(&mut lab, "h1", "c1");
    let many: Vec<IpAddr> =
        (0..6).flat_map(|n| attach(&mut lab, "h2", &format!("many{n}"))).collect();
    let (v4, v6) = (ips[0].to_string(), ips[1].to_string());
    for host in ["h1", "h2", "h3"] {
        track(&lab, host, &v4, "10.112.9.9", "10.112.9.9");
        track(&lab, host, "10.112.9.9", &v4, &v4);
        // Initiated towards a service address.
        track(&lab, host, "10.112.9.8", "10.96.0.1", &v4);
        track(&lab, host, "fd11::99", &v6, &v6);
        track(&lab, host, "10.112.9.9", "10.112.9.8", "10.112.9.8");
        for ip in &many {
            let other = if ip.is_ipv4() { "10.112.9.9" } else { "fd11::99" };
            track(&lab, host, &ip.to_string(), other, other);
        }
    }
    // One host is down when it happens, and learns of it later.
    lab.kill_agent("h3");
    lab.cni("h1", "DEL", "c1", "").ok();
    let left = |lab: &Lab, host: &str| {
        let text = tracked(lab, host);
        [&v4, &v6].iter().any(|ip| text.contains(&format!("={ip} ")))
    };
    for host in ["h1", "h2"] {
        until(&format!("{host} has forgotten"), || !left(&lab, host));
    }
    assert!(left(&lab, "h3"), "nobody has told it");
    // In addition it has lost its state directory.
    std::fs::remove_dir_all(lab.dir().join("h3")).expect("removed");
    lab.start_agent("h3", &[]);
    until("h3 has forgotten", || !left(&lab, "h3"));
    // Many at once.
    for n in 0..6 {
        lab.cni("h2", "DEL", &format!("many{n}"), "").ok();
    }
    for host in ["h1", "h2", "h3"] {
        until(&format!("{host} has forgotten many"), || {
            let text = tracked(&lab, host);
            !many.iter().any(|ip| text.contains(&format!("src={ip} ")))
        });
        assert!(tracked(&lab, host).contains("src=10.112.9.9 dst=10.112.9.8"), "others stay");
    }
}

/// Sends a datagram to a port, always from the same source port of the flow. Returns whether it is answered.
fn goes_on(lab: &Lab, from: &str, to: IpAddr) -> bool {
    in_namespace_thread(&lab.ns(from), move || {
        let any: SocketAddr =
            if to.is_ipv4() { ([0, 0, 0, 0], 5_000).into() } else { ([0; 16], 5_000).into() };
        let socket = UdpSocket::bind(any).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(400))).expect("a timeout");
        socket.connect((to, 53)).expect("a peer");
        socket.send(&[1]).is_ok() && socket.recv(&mut [0]).is_ok()
    })
}

#[test]
fn who_has_an_address_next_is_not_who_had_it_in_namespaces() {
    let mut lab = Lab::one_link();
    lab.closed_topology(&flat());
    start_all(&mut lab);
    until("the settings are set", || {
        lab.try_romana(&["settings", "set", "address_reuse_delay_ms=0"]).is_some()
    });
    for direction in ["ingress", "egress"] {
        let web = json!([{"tenant": "old", "selector": {"matchLabels": {"app": "web"}}}]);
        lab.policy(&json!({"name": direction, "direction": direction, "applied_to": web,
            "peers": [{"peer": "any"}], "rules": [{"protocol": "udp", "ports": [53]}]}));
    }
    let attach_as = |lab: &mut Lab, name: &str, tenant: &str| {
        let netns = lab.container(name);
        serve(&lab.ns(name), &[53]);
        let mut add = lab.cni("h1", "ADD", name, &netns);
        add.set("CNI_ARGS", &format!("ROMANA_TENANT={tenant}"));
        add.config["args"] = json!({"cni": {"labels": [{"key": "app", "value": "web"}]}});
        addresses(&add.ok())
    };
    let client = attach(&mut lab, "h2", "client");
    let old = attach_as(&mut lab, "first", "old");
    for ip in &old {
        until("the flow is there", || goes_on(&lab, "client", *ip));
    }
    lab.cni("h1", "DEL", "first", "").ok();
    until("it is given back", || lab.allocated("h1").is_empty());
    lab.delete_container("first");
    let new = attach_as(&mut lab, "second", "new");
    assert_eq!(new, old, "the block is given to the next owner");
    for (ip, own) in new.iter().zip(&client) {
        until("the old flow has ended", || !goes_on(&lab, "client", *ip));
        assert!(!goes_on(&lab, "client", *ip));
        let (from, to) = (own.to_string(), ip.to_string());
        let verdict = lab.romana(&["policy", "explain", &from, &to, "udp/53"]);
        assert_eq!(verdict["allowed"], false, "{verdict}");
    }
}

#[test]
fn a_host_has_one_agent_in_namespaces() {
    let mut lab = lab();
    let ips = attach(&mut lab, "h1", "c1");
    lab.kill_agent("h3");
    lab.spawn_agent_as("h3", "h1", &["--takeover-after", "4"], None);
    let problem = |lab: &Lab, host: &str| {
        let problems = lab.status(host).map(|status| status.problems).unwrap_or_default();
        problems.iter().any(|problem| problem.contains("speaks for this host"))
    };
    until("the second one says that it is refused", || problem(&lab, "h3"));
    until("people are told of both", || {
        let found = lab.findings(&["doctor"]);
        found.contains("says that it is h1")
            && lab.findings(&["ipam", "check"]).contains("HostHasTwoAgents")
    });
    let netns = lab.container("c2");
    let mut add = lab.cni("h3", "ADD", "c2", &netns);
    add.config["socket"] = json!(lab.socket("h3-as-h1"));
    let (success, error) = add.call();
    assert!(!success && error["code"] == 11, "{error}");
    // The first agent is not disturbed.
    let before = lab.romana(&["cluster", "status"])["revision"].clone();
    attach(&mut lab, "h1", "c3");
    let now = |lab: &Lab| lab.allocated("h1").iter().map(|(_, ip)| *ip).collect::<Vec<_>>();
    assert!(now(&lab).contains(&ips[0]) && before.is_u64());
    assert!(!problem(&lab, "h1"));

    // A new leader has not received any heartbeats: that does not count as silence of the first agent.
    lab.kill_replicas();
    lab.start_replicas();
    until("the log is served", || lab.try_romana(&["cluster", "status"]).is_some());
    attach(&mut lab, "h1", "c4");
    assert!(!problem(&lab, "h1"));
    // Once the first agent is gone, the second takes over; the first does not take over again.
    lab.kill_agent("h1");
    until("the second one speaks for the host", || !problem(&lab, "h3"));
    lab.spawn_agent("h1", &[], None);
    until("the first one is refused", || problem(&lab, "h1"));
    assert!(add.call().0);
}

#[test]
fn a_pod_of_an_unknown_namespace_waits_for_its_labels_in_namespaces() {
    let mut lab = lab();
    let there = attach(&mut lab, "h2", "there");
    let attach_in = |lab: &mut Lab, name: &str, namespace: &str| {
        let netns = lab.container(name);
        let mut add = lab.cni("h1", "ADD", name, &netns);
        add.set(
            "CNI_ARGS",
            &format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}"),
        );
        addresses(&add.ok())
    };
    let deny: Value = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "deny", "namespace": "late"},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"]}});
    lab.policy(&deny);
    let revision = lab.romana(&["cluster", "status"])["revision"].as_u64().expect("a revision");
    lab.settled(Revision(revision));
    let ips = attach_in(&mut lab, "late", "late");
    attach_in(&mut lab, "free", "elsewhere");
    lab.reaches("free", there[0]);
    for ip in &there {
        assert!(!lab.is_answered("late", &ip.to_string()), "nobody knows whether it may");
    }
    let verdict = |lab: &Lab| {
        let (from, to) = (ips[0].to_string(), there[0].to_string());
        lab.romana(&["policy", "explain", &from, &to, "icmp"])["allowed"].clone()
    };
    assert_eq!(verdict(&lab), false);
    let labels = json!({"kubernetes.io/metadata.name": "late"});
    let known = |labels: Value| {
        serde_json::from_value(json!({"CreateTenant": {"id": "late", "labels": labels}}))
            .expect("a command")
    };
    lab.settled(lab.submit(vec![known(labels)]));
    assert!(!lab.is_answered("late", &there[0].to_string()), "its labels are still unknown");
    let endpoint = |app: &str| {
        let endpoints = ips.iter().map(|ip| {
            serde_json::from_value(
                json!({"SetEndpoint": {"ip": ip, "tenant": "late", "segment": "default",
                "host": "h1", "labels": {"app": app}}}),
            )
            .expect("a command")
        });
        endpoints.collect()
    };
    lab.settled(lab.submit(endpoint("db")));
    lab.reaches("late", there[0]);
    lab.settled(lab.submit(endpoint("web")));
    assert!(!lab.is_answered("late", &there[0].to_string()), "the policy means it");
    assert_eq!(verdict(&lab), false);
}

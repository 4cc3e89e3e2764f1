//! Acknowledged attachments keep their network while other things change, and foreign objects are left alone.

use std::net::IpAddr;

use romana_agent::ownership::host_link;

use crate::lab::{Lab, addresses, until};
use crate::routes::{flat, start_all};

fn lab() -> Lab {
    let mut lab = Lab::one_link();
    lab.topology(&flat());
    start_all(&mut lab);
    lab
}

fn attach(lab: &mut Lab, name: &str) -> Vec<IpAddr> {
    let netns = lab.container(name);
    addresses(&lab.cni("h1", "ADD", name, &netns).ok())
}

/// Whether the host routes of these addresses use links of containers.
fn has_routes(lab: &Lab, ips: &[IpAddr]) -> bool {
    let routes = ["-4", "-6"]
        .map(|family| lab.ip_json("h1", &[family, "route", "show", "proto", "57"]).to_string());
    ips.iter().all(|ip| routes.iter().any(|text| text.contains(&format!("\"dst\":\"{ip}\""))))
}

#[test]
fn host_routes_that_are_taken_away_come_back_in_namespaces() {
    let mut lab = lab();
    let (one, two) = (attach(&mut lab, "c1"), attach(&mut lab, "c2"));
    let all = [&one[..], &two[..]].concat();
    assert!(has_routes(&lab, &all));
    lab.ip("h1", &["route", "del", &one[0].to_string(), "proto", "57"]);
    until("the route is back", || has_routes(&lab, &all));
    lab.ip("h1", &["route", "flush", "proto", "57"]);
    until("all routes are back", || has_routes(&lab, &all));
    for link in lab.links("h1") {
        lab.ip("h1", &["link", "set", &link, "down"]);
        let named = |lab: &Lab| {
            let problems = lab.status("h1").map(|status| status.problems).unwrap_or_default();
            problems.iter().any(|problem| problem.contains(&link) && problem.contains("is down"))
        };
        until("the agent names the link", || named(&lab));
        lab.ip("h1", &["link", "set", &link, "up"]);
        until("the agent is content", || !named(&lab));
    }
    until("all routes are back", || has_routes(&lab, &all));
    for (from, to) in [("c1", two[0]), ("c1", two[1]), ("c2", one[0]), ("c2", one[1])] {
        lab.reaches(from, to);
    }
    // A route of another program that replaces ours or takes precedence is left alone and
    // reported; CHECK reports it, too.
    let result = serde_json::json!({"interfaces": [{"name": "eth0", "sandbox": "x"}], "ips": []});
    let mut check = lab.cni("h1", "CHECK", "c1", &format!("/run/netns/{}", lab.ns("c1")));
    check.config["prevResult"] = result;
    until("CHECK is content", || check.call().0);
    let (four, six) = (one[0].to_string(), one[1].to_string());
    let foreign: [(&[&str], &[&str]); 2] = [
        (
            &["route", "replace", &four, "dev", "lo", "proto", "4"],
            &["route", "del", &four, "dev", "lo"],
        ),
        (
            &["-6", "route", "add", "blackhole", &six, "metric", "1", "proto", "4"],
            &["-6", "route", "del", "blackhole", &six, "metric", "1"],
        ),
    ];
    for (add, del) in foreign {
        lab.ip("h1", add);
        let named = |lab: &Lab| {
            let problems = lab.status("h1").map(|status| status.problems).unwrap_or_default();
            problems.iter().any(|problem| problem.contains("c1") && problem.contains("route"))
        };
        until("the agent names it", || named(&lab));
        let (success, error) = check.call();
        assert!(!success && error["code"] == 104, "{error}");
        lab.ip("h1", del);
        until("the agent is content", || !named(&lab));
        until("CHECK is content", || check.call().0);
    }
    for ip in &one {
        lab.reaches("c2", *ip);
    }
    // A missing link cannot be restored, and is reported.
    let link = lab.links("h1").remove(0);
    lab.ip("h1", &["link", "del", &link]);
    until("the agent says so", || {
        let problems = lab.status("h1").map(|status| status.problems).unwrap_or_default();
        problems.iter().any(|problem| problem.contains(&format!("host link {link} is gone")))
    });
}

#[test]
fn a_del_that_was_left_does_not_reach_a_later_attachment_in_namespaces() {
    let mut lab = lab();
    let names: Vec<String> = (0..20).map(|n| format!("c{n}")).collect();
    for name in &names {
        attach(&mut lab, name);
    }
    lab.kill_agent("h1");
    for name in &names {
        lab.delete_container(name);
        lab.cni("h1", "DEL", name, "").ok();
    }
    // A damaged file among them is set aside.
    std::fs::write(lab.dir().join("h1/spool/damaged"), "nonsense").expect("written");
    lab.spawn_agent("h1", &[], None);
    until("it serves the plugin", || lab.cni("h1", "STATUS", "", "").call().0);
    let mut ips = Vec::new();
    for name in &names {
        ips.extend(attach(&mut lab, name));
    }
    until("the spool is empty", || {
        let files = std::fs::read_dir(lab.dir().join("h1/spool")).expect("the spool");
        let names = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
        names.collect::<Vec<_>>() == ["damaged.damaged"]
    });
    let problems = lab.status("h1").expect("it runs").problems;
    assert!(problems.iter().any(|one| one.contains("1 damaged file set aside")), "{problems:?}");
    std::fs::remove_file(lab.dir().join("h1/spool/damaged.damaged")).expect("removed");
    assert!(!lab.status("h1").expect("it runs").problems.iter().any(|one| one.contains("damaged")));
    until("all are attached", || lab.links("h1").len() == names.len() && has_routes(&lab, &ips));
    for name in &names[1..] {
        lab.reaches(name, ips[0]);
    }
}

#[test]
fn a_del_that_is_left_late_is_older_than_the_next_add_in_namespaces() {
    let mut lab = lab();
    for name in ["c1", "other"] {
        attach(&mut lab, name);
    }
    // This plugin call found no agent, although one is running now.
    let mut del = lab.cni("h1", "DEL", "c1", "");
    del.config["socket"] = "/nonexistent/agent.sock".into();
    del.ok();
    lab.delete_container("c1");
    let ips = attach(&mut lab, "c1");
    // A DEL makes the agent process the spool.
    lab.cni("h1", "DEL", "other", "").ok();
    until("the spool is empty, and the other one gone", || lab.attachment_count("h1") == 1);
    assert_eq!(lab.links("h1").len(), 1);
    assert!(has_routes(&lab, &ips));
}

#[test]
fn another_networks_del_leaves_the_attachment_alone_in_namespaces() {
    let mut lab = lab();
    let ips = attach(&mut lab, "c1");
    let mut del = lab.cni("h1", "DEL", "c1", "");
    del.config["name"] = "another".into();
    del.ok();
    assert_eq!(lab.links("h1").len(), 1);
    assert!(has_routes(&lab, &ips));
}

#[test]
fn foreign_routes_are_never_replaced_in_namespaces() {
    let mut lab = Lab::one_link();
    lab.topology(&flat());
    // Routes of another program, at a future block of h2 and at a future address of a container.
    lab.ip("h1", &["route", "add", "10.112.0.8/29", "via", "10.77.0.3", "proto", "4"]);
    lab.ip("h1", &["route", "add", "10.112.0.1/32", "dev", "lo", "proto", "4"]);
    start_all(&mut lab);
    lab.romana(&[
        "address",
        "allocate",
        "--host",
        "h1",
        "--tenant",
        "other",
        "--segment",
        "default",
        "a1",
    ]);
    lab.romana(&["address", "allocate", "--host", "h2", "a2"]);
    until("the agent names the conflict", || {
        let problems = lab.status("h1").map(|status| status.problems).unwrap_or_default();
        problems.iter().any(|problem| problem.contains("another program has a route"))
    });
    let netns = lab.container("c1");
    let mut add = lab.cni("h1", "ADD", "c1", &netns);
    add.config["args"] = serde_json::json!({"cni": {"ips": ["10.112.0.1"]}});
    add.set("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=other");
    let (success, error) = add.call();
    let msg = error["msg"].as_str().unwrap_or_default();
    assert!(!success && msg.contains("another program has a route to 10.112.0.1/32"), "{error}");
    let foreign = lab.ip_json("h1", &["-4", "route", "show", "proto", "4"]).to_string();
    assert!(foreign.contains("10.112.0.8/29") && foreign.contains("10.112.0.1"), "{foreign}");
}

#[test]
fn foreign_damage_to_policy_is_restored_also_while_policies_change_in_namespaces() {
    let mut lab = lab();
    let ruleset: &[&str] = &["nft", "flush", "ruleset"];
    damage(&mut lab, "iptables-nft", &[ruleset]);
}

/// The kernel does not announce changes of x_tables.
#[test]
fn foreign_damage_to_legacy_rules_is_restored_in_namespaces() {
    let mut lab = Lab::one_link();
    lab.options(&["--iptables", "legacy"]);
    lab.topology(&flat());
    start_all(&mut lab);
    damage(&mut lab, "iptables-legacy", &[]);
}

/// Damages the policy state in several ways, and waits each time until it is repaired and counted.
fn damage(lab: &mut Lab, iptables: &str, more: &[&[&str]]) {
    let ips = attach(lab, "c1");
    let sets = lab.text("h1", &["ipset", "list", "-n"]).expect("sets");
    let links = sets.lines().find(|set| set.starts_with("ROMANA-links")).expect("links").to_owned();
    let flush: [&[&str]; 3] = [
        &[iptables, "-F", "FORWARD"],
        &[iptables, "-I", "FORWARD", "1", "-j", "ACCEPT"],
        &["ipset", "flush", &links],
    ];
    let whole = |lab: &Lab| {
        let rules = lab.text("h1", &[iptables, "-S", "FORWARD"]).unwrap_or_default();
        let first = rules.lines().find(|line| line.starts_with("-A")).map(str::to_owned);
        let members = lab.text("h1", &["ipset", "list", &links]).unwrap_or_default();
        first.as_deref() == Some("-A FORWARD -j ROMANA-FORWARD")
            && members.contains(&ips[0].to_string())
    };
    let drifts = |lab: &Lab| lab.status("h1").and_then(|status| status.policy).map(|p| p.drifts);
    until("all is in place", || whole(lab));
    assert_eq!(drifts(lab), Some(0), "our own changes are no drift");
    for (n, damage) in flush.iter().chain(more).enumerate() {
        let before = drifts(lab);
        assert!(lab.try_exec("h1", damage).is_some(), "{damage:?}");
        let mut change = 0;
        until(&format!("{damage:?} is restored and counted"), || {
            // Constant policy changes do not prevent the repair.
            change += 1;
            lab.policy(&serde_json::json!({
                "name": "busy", "applied_to": [{"dest": "local"}], "description": format!("{n} {change}"),
                "peers": [{"peer": "any"}], "rules": [{"protocol": "tcp", "ports": [change]}]}));
            whole(lab) && drifts(lab) > before
        });
    }
}

#[test]
fn lost_files_close_nothing_that_works_in_namespaces() {
    let mut lab = lab();
    let (one, two) = (attach(&mut lab, "c1"), attach(&mut lab, "c2"));
    lab.reaches("c1", two[0]);
    let ping = lab.start_ping("c1", two[0]);
    lab.kill_agent("h1");
    // Flip one byte in each file of the attachment store.
    for file in std::fs::read_dir(lab.dir().join("h1/attachments")).expect("the attachment store") {
        let path = file.expect("a file").path();
        let mut bytes = std::fs::read(&path).expect("its content");
        bytes[40] ^= 1;
        std::fs::write(&path, bytes).expect("written");
    }
    lab.start_agent("h1", &[]);
    lab.kill_agent("h1");
    // Then remove the whole state directory.
    std::fs::remove_dir_all(lab.dir().join("h1")).expect("removed");
    lab.start_agent("h1", &[]);
    until("it has heard a replica", || {
        lab.status("h1").is_some_and(|status| status.stale_ms.is_some() && status.is_ready())
    });
    until("both attachments are counted again", || lab.attachment_count("h1") == 2);
    let third = attach(&mut lab, "c3");
    lab.reaches("c3", one[0]);
    let (sent, received) = ping.end();
    assert!(sent > 50 && sent == received, "{received} of {sent}");
    assert!(third.iter().all(|ip| !one.contains(ip) && !two.contains(ip)));
    for container in ["c1", "c2", "c3"] {
        lab.cni("h1", "DEL", container, "").ok();
    }
    until("all is given back", || {
        lab.allocated("h1").is_empty() && lab.attachment_count("h1") == 0
    });
}

/// Thirty concurrent operations with reused ids, and the agent is killed in between: every acknowledged
/// attachment that was not deleted has its link and host routes, and the log agrees.
#[test]
fn what_was_acknowledged_keeps_its_network_under_churn_in_namespaces() {
    const ROUNDS: usize = 6;
    let mut lab = lab();
    let names: Vec<String> = (0..30).map(|n| format!("c{n}")).collect();
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        let calls: Vec<_> = names
            .iter()
            .map(|name| {
                let netns = lab.container(name);
                lab.cni("h1", "ADD", name, &netns)
            })
            .collect();
        let running: Vec<_> =
            calls.into_iter().map(|call| std::thread::spawn(move || call.call())).collect();
        let is_killed = round % 2 == 1;
        if is_killed {
            until("some are attached", || lab.links("h1").len() > 5);
            lab.kill_agent("h1");
            lab.spawn_agent("h1", &[], None);
        }
        let done: Vec<_> =
            running.into_iter().map(|thread| thread.join().expect("it ends")).collect();
        until("it serves the plugin", || lab.cni("h1", "STATUS", "", "").call().0);
        // A killed call may have attached the container: the runtime sends a DEL for it.
        let attached: Vec<(&String, Vec<IpAddr>)> = names
            .iter()
            .zip(&done)
            .filter(|(_, (success, _))| *success)
            .map(|(name, (_, result))| (name, addresses(result)))
            .collect();
        assert!(is_killed || attached.len() == names.len(), "{done:?}");
        acknowledged += attached.len();
        let links = lab.links("h1");
        for (name, ips) in &attached {
            let link = host_link(name, "eth0");
            assert!(links.contains(&link) && has_routes(&lab, ips), "{name} in round {round}");
        }
        let ips: Vec<IpAddr> = attached.into_iter().flat_map(|(_, ips)| ips).collect();
        let logged: Vec<IpAddr> = lab.allocated("h1").into_iter().map(|(_, ip)| ip).collect();
        assert!(ips.iter().all(|ip| logged.contains(ip)), "round {round}");
        for name in &names {
            lab.delete_container(name);
            lab.cni("h1", "DEL", name, "").ok();
        }
    }
    until("all is given back", || {
        lab.allocated("h1").is_empty() && lab.attachment_count("h1") == 0
    });
    assert!(acknowledged >= ROUNDS.div_ceil(2) * names.len(), "{acknowledged}");
    assert!(lab.try_romana(&["ipam", "check"]).is_some(), "the check finds nothing");
}

/// As after a reboot, without any DEL.
#[test]
fn what_lost_its_namespace_is_released_after_a_minute_in_namespaces() {
    let mut lab = lab();
    attach(&mut lab, "gone");
    let stays = attach(&mut lab, "stays");
    lab.delete_container("gone");
    let problems = |lab: &Lab| lab.status("h1").map(|status| status.problems).unwrap_or_default();
    let is_named = |lab: &Lab| {
        problems(lab).iter().any(|problem| problem.contains("namespace is gone, without a DEL"))
    };
    until("it is named at once", || is_named(&lab));
    assert_eq!(lab.allocated("h1").len(), 4, "the runtime has a minute for its DEL");
    let start = std::time::Instant::now();
    while is_named(&lab) {
        assert!(start.elapsed().as_secs() < 120, "it is still kept");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    until("it is released", || lab.allocated("h1").len() == 2 && lab.attachment_count("h1") == 1);
    assert!(has_routes(&lab, &stays) && problems(&lab).is_empty(), "{:?}", problems(&lab));
}

//! Attaches containers by calling the plugin as a runtime does.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::json;

use crate::lab::{Lab, addresses, until};
use crate::routes::{flat, start_all};

fn lab() -> Lab {
    let mut lab = Lab::one_link();
    lab.topology(&flat());
    start_all(&mut lab);
    lab
}

#[test]
fn containers_on_three_hosts_reach_each_other_in_namespaces() {
    let mut lab = lab();
    let mut pods: Vec<(String, String, Vec<IpAddr>)> = Vec::new();
    for (host, n) in ["h1", "h2", "h3"].into_iter().flat_map(|host| (0..3).map(move |n| (host, n)))
    {
        let pod = format!("{host}-c{n}");
        let netns = lab.container(&pod);
        let mut add = lab.cni(host, "ADD", &pod, &netns);
        let result = add.ok();
        assert_eq!(result["interfaces"][1]["name"], "eth0");
        assert_eq!(result["interfaces"][1]["sandbox"], netns.as_str());
        assert!(result["interfaces"][0].get("sandbox").is_none());
        assert!(
            result["ips"].as_array().unwrap().iter().all(|ip| ip["interface"] == 1),
            "{result}"
        );
        let ips = addresses(&result);
        assert!(
            ips.len() == 2 && ips[0].is_ipv4() && ips[1].is_ipv6(),
            "one of each family: {result}"
        );
        assert_eq!(lab.ip_json(&pod, &["link", "show", "dev", "eth0"])[0]["mtu"], 1400);
        // CHECK confirms the result of ADD.
        add.config["prevResult"] = result;
        let mut check = lab.cni(host, "CHECK", &pod, &netns);
        check.config = add.config;
        assert_eq!(check.ok(), serde_json::Value::Null);
        pods.push((pod, netns, ips));
    }
    for (from, _, own) in &pods {
        for to in pods.iter().flat_map(|(_, _, ips)| ips).filter(|ip| !own.contains(ip)) {
            lab.reaches(from, *to);
        }
    }
    let (pod, netns, ips) = &pods[0];
    // The host reaches its own containers.
    lab.reaches("h1", ips[0]);
    lab.reaches("h1", ips[1]);
    let add = lab.cni("h1", "ADD", pod, netns);
    let (success, error) = add.call();
    assert!(!success && error["code"] == 102, "{error}");
    let names: Vec<_> = lab.allocated("h1").into_iter().map(|(name, _)| name).collect();
    assert!(names.contains(&"cni:blue.web:h1-c0:eth0".into()), "{names:?}");
    // DEL is idempotent, also without the namespace.
    let del = lab.cni("h1", "DEL", pod, "");
    del.ok();
    del.ok();
    until("the log has them back", || lab.allocated("h1").len() == 4);
    assert_eq!(lab.links("h1").len(), 2);
}

#[test]
fn many_at_once_in_namespaces() {
    let mut lab = lab();
    let containers: Vec<_> =
        (0..100).map(|n| format!("c{n}")).map(|c| (c.clone(), lab.container(&c))).collect();
    let results: Vec<_> = std::thread::scope(|scope| {
        let add = |(c, netns): &(String, String)| {
            let call = lab.cni("h1", "ADD", c, netns);
            scope.spawn(move || call.ok())
        };
        let running: Vec<_> = containers.iter().map(add).collect();
        running.into_iter().map(|thread| thread.join().expect("it ends")).collect()
    });
    let ips: BTreeSet<IpAddr> = results.iter().flat_map(addresses).collect();
    assert_eq!(ips.len(), 200);
    // GC keeps the listed attachments only.
    let mut gc = lab.cni("h1", "GC", "", "");
    gc.config["cni.dev/valid-attachments"] = json!([{"containerID": "c7", "ifname": "eth0"}]);
    gc.ok();
    gc.ok();
    until("the others are back", || lab.allocated("h1").len() == 2);
    assert_eq!(lab.links("h1").len(), 1);
    gc.config["name"] = "another".into();
    gc.config["cni.dev/valid-attachments"] = json!([]);
    gc.ok();
    assert_eq!(lab.links("h1").len(), 1, "attachments of another network are left alone");
}

#[test]
fn a_del_while_the_agent_is_away_is_not_lost_in_namespaces() {
    let mut lab = lab();
    let netns = lab.container("c1");
    lab.cni("h1", "ADD", "c1", &netns).ok();
    lab.cni("h1", "STATUS", "", "").ok();
    lab.kill_agent("h1");
    let (success, error) = lab.cni("h1", "STATUS", "", "").call();
    assert!(!success && error["code"] == 50, "{error}");
    let (success, error) = lab.cni("h1", "ADD", "c2", &netns).call();
    assert!(!success && error["code"] == 11, "{error}");
    lab.delete_container("c1");
    lab.cni("h1", "DEL", "c1", &netns).ok();
    lab.kill_replicas();
    lab.start_agent("h1", &[]);
    lab.start_replicas();
    until("its addresses are back", || {
        lab.allocated("h1").is_empty() && lab.attachment_count("h1") == 0
    });
}

#[test]
fn a_crash_anywhere_leaves_nothing_behind_in_namespaces() {
    let mut lab = lab();
    lab.kill_agent("h1");
    let steps =
        ["intended", "allocated", "linked", "routed", "ready", "removing", "unlinked", "released"];
    for step in steps {
        let netns = lab.container(step);
        lab.spawn_agent("h1", &[], Some(step));
        until("it serves the plugin", || lab.cni("h1", "STATUS", "", "").call().0);
        let added = lab.cni("h1", "ADD", step, &netns).call();
        if added.0 {
            // This step is reached only by a later command.
            lab.cni("h1", "DEL", step, &netns).call();
        }
        until("it crashes", || lab.status("h1").is_none());
        lab.kill_agent("h1");
        lab.start_agent("h1", &[]);
        let mut gc = lab.cni("h1", "GC", "", "");
        gc.config["cni.dev/valid-attachments"] = json!([]);
        gc.ok();
        until(&format!("nothing is left after a crash at {step}"), || {
            lab.allocated("h1").is_empty()
                && lab.links("h1").is_empty()
                && lab.attachment_count("h1") == 0
                && !lab.ip_json("h1", &["route", "show"]).to_string().contains("romana-")
        });
        lab.kill_agent("h1");
    }
}

#[test]
fn a_failed_add_leaves_nothing_behind_in_namespaces() {
    let mut lab = lab();
    let netns = lab.container("c1");
    // The interface name exists in the container already: creating the pair fails
    // after the addresses were allocated.
    lab.ip("c1", &["link", "add", "eth0", "type", "bridge"]);
    let (success, error) = lab.cni("h1", "ADD", "c1", &netns).call();
    assert!(!success && error["code"] == 101, "{error}");
    until("nothing is left", || {
        lab.allocated("h1").is_empty()
            && lab.links("h1").is_empty()
            && lab.attachment_count("h1") == 0
    });
    assert_eq!(lab.ip_json("c1", &["link", "show", "dev", "eth0"])[0]["ifname"], "eth0");
    for (path, code) in [("/nope", 3), ("/proc/self/ns/net", 8)] {
        let (success, error) = lab.cni("h1", "ADD", "c2", path).call();
        assert!(!success && error["code"] == code, "{path}: {error}");
    }
    assert_eq!((lab.allocated("h1").len(), lab.attachment_count("h1")), (0, 0));
}

#[test]
fn what_is_not_attached_is_given_up_by_report_in_namespaces() {
    let mut lab = lab();
    let (gone, there) = (lab.container("gone"), lab.container("there"));
    lab.cni("h1", "ADD", "gone", &gone).ok();
    let before: BTreeSet<_> = lab.links("h1").into_iter().collect();
    lab.cni("h1", "ADD", "there", &there).ok();
    // An operator's address, such as that of a VM: not managed by the agent.
    lab.romana(&["address", "allocate", "--host", "h1", "vm-1"]);
    lab.kill_agent("h1");
    std::fs::remove_dir_all(lab.dir().join("h1/attachments"))
        .expect("the attachment store is lost");
    let link = before.first().expect("a link");
    lab.ip("h1", &["link", "del", link]);
    lab.start_agent("h1", &[]);
    let names = || lab.allocated("h1").into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    until("what is gone is given up", || !names().iter().any(|name| name.contains(":gone:")));
    // Its route exists, so it may be in use whatever the attachment store says.
    let kept = ["cni6:blue.web:there:eth0", "cni:blue.web:there:eth0", "vm-1"];
    assert_eq!(names().into_iter().collect::<BTreeSet<_>>(), kept.map(String::from).into());
    let log = lab.romana_text(&["audit", "log", "--type", "AddressReleased"]).expect("the log");
    assert!(log.contains("reported"), "{log}");
    // A DEL recovers an attachment that the attachment store has lost.
    lab.cni("h1", "DEL", "there", &there).ok();
    until("it is given back", || names() == ["vm-1"]);
    assert!(lab.links("h1").is_empty());
}

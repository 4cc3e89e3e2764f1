//! Errors and problems reported to runtimes and operators when containers cannot be
//! attached, or have lost something.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::lab::{Lab, addresses, run, until};
use crate::routes::{flat, start_all};

fn lab() -> Lab {
    let mut lab = Lab::one_link();
    lab.topology(&flat());
    start_all(&mut lab);
    until("containers can be attached", || status(&lab).is_none());
    lab
}

/// The error of STATUS; `None`: success.
fn status(lab: &Lab) -> Option<Value> {
    let (success, error) = lab.cni("h1", "STATUS", "", "").call();
    (!success).then_some(error)
}

fn says(lab: &Lab, what: &str) -> bool {
    let error = status(lab).unwrap_or_default();
    let said = error["code"] == 50 && error["msg"].as_str().is_some_and(|msg| msg.contains(what));
    // Readiness and the list of problems agree.
    said && lab.status("h1").is_some_and(|status| {
        !status.is_ready() && status.problems.iter().any(|problem| problem.contains(what))
    })
}

/// A small disk mounted on a directory.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: PathBuf) -> Self {
        std::fs::create_dir_all(&path).expect("a directory");
        run("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs", path.to_str().expect("text")]);
        Self(path)
    }

    fn fill(&self) {
        let file = self.0.join("filler");
        // The write fails when the disk is full.
        _ = std::fs::write(file, vec![0; 2 << 20]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_container_may_have_two_interfaces_in_namespaces() {
    let mut lab = lab();
    let (two, other) = (lab.container("two"), lab.container("other"));
    let first = addresses(&lab.cni("h1", "ADD", "two", &two).ok());
    let mut add = lab.cni("h1", "ADD", "two", &two);
    add.set("CNI_IFNAME", "eth1");
    let result = add.ok();
    let second = addresses(&result);
    assert!(second.len() == 2 && second.iter().all(|ip| !first.contains(ip)));
    lab.cni("h2", "ADD", "other", &other).ok();
    for ip in first.iter().chain(&second) {
        lab.reaches("other", *ip);
    }
    let mut check = lab.cni("h1", "CHECK", "two", &two);
    check.set("CNI_IFNAME", "eth1");
    check.config["prevResult"] = result;
    check.ok();
    let mut del = lab.cni("h1", "DEL", "two", &two);
    del.set("CNI_IFNAME", "eth1");
    for _ in 0..3 {
        del.ok();
        until("the second one is gone", || lab.links("h1").len() == 1);
        lab.reaches("other", first[0]);
        lab.reaches("other", first[1]);
        add.ok();
    }
    let rules = lab.text("two", &["ip", "rule", "show"]).unwrap_or_default();
    assert_eq!(
        rules.matches("lookup 57").count(),
        1,
        "none is left of those that are gone: {rules}"
    );
    // Without the first interface, the second provides the default route.
    lab.cni("h1", "DEL", "two", &two).ok();
    until("the first one is gone", || lab.links("h1").len() == 1);
    let there = lab.romana(&["address", "list", "--host", "h2"])["items"][0]["ip"].clone();
    until("others are reached by the second one", || {
        lab.is_answered("two", there.as_str().expect("an address"))
    });
}

#[test]
fn status_says_what_stands_in_the_way_in_namespaces() {
    let mut lab = lab();
    for (name, what) in
        [("ipv4.ip_forward", "ip_forward"), ("ipv6.conf.all.forwarding", "forwarding")]
    {
        let set = |lab: &Lab, value: &str| {
            let setting = format!("net.{name}={value}");
            assert!(lab.try_exec("h1", &["sysctl", "-qw", &setting]).is_some());
        };
        set(&lab, "0");
        until("it does not forward", || says(&lab, what));
        set(&lab, "1");
        until("it forwards again", || status(&lab).is_none());
        let problems = lab.status("h1").map(|status| status.problems).unwrap_or_default();
        assert!(!problems.iter().any(|problem| problem.contains(what)), "{problems:?}");
    }
    lab.kill_replicas();
    until("it is cut off", || says(&lab, "no replica answers, and nothing is in reserve"));
    lab.start_replicas();
    until("it is not", || status(&lab).is_none());
}

#[test]
fn an_exhausted_network_is_said_in_namespaces() {
    let mut lab = Lab::one_link();
    lab.topology(&json!({
        "networks": [{"name": "v4", "cidr": "10.112.0.0/30", "block_mask": 32}],
        "topologies": [{"networks": ["v4"], "map": [{}]}]}));
    start_all(&mut lab);
    let nets: Vec<String> = (0..5).map(|n| lab.container(&format!("c{n}"))).collect();
    for (n, netns) in nets.iter().enumerate().take(4) {
        lab.cni("h1", "ADD", &format!("c{n}"), netns).ok();
    }
    let (success, error) = lab.cni("h1", "ADD", "c4", &nets[4]).call();
    assert!(!success && error["code"] == 100, "{error}");
    until("nothing is free", || says(&lab, "no address is left"));
    lab.romana(&["settings", "set", "address_reuse_delay_ms=0"]);
    lab.cni("h1", "DEL", "c0", &nets[0]).ok();
    until("an address is free", || lab.cni("h1", "ADD", "c4", &nets[4]).call().0);
    assert_eq!(status(&lab), None);
}

#[test]
fn a_full_disk_keeps_nobody_from_leaving_in_namespaces() {
    let mut lab = Lab::one_link();
    let disk = Disk::mount(lab.dir().join("h1"));
    lab.topology(&flat());
    start_all(&mut lab);
    let nets: Vec<String> = (0..3).map(|n| lab.container(&format!("c{n}"))).collect();
    for n in [0, 1] {
        lab.cni("h1", "ADD", &format!("c{n}"), &nets[n]).ok();
    }
    disk.fill();
    until("the disk is full", || says(&lab, "is full"));
    let (success, error) = lab.cni("h1", "ADD", "c2", &nets[2]).call();
    assert!(!success && error["code"] == 5, "{error}");
    // It is detached although the control plane is unreachable, and the release is not lost.
    lab.kill_replicas();
    lab.cni("h1", "DEL", "c0", &nets[0]).ok();
    assert_eq!(lab.links("h1").len(), 1);
    lab.kill_agent("h1");
    lab.spawn_agent("h1", &[], None);
    lab.start_replicas();
    until("its addresses are back", || lab.allocated("h1").len() == 2);
    std::fs::remove_file(disk.0.join("filler")).expect("removed");
    until("containers can be attached", || status(&lab).is_none());
    lab.cni("h1", "ADD", "c2", &nets[2]).ok();
    let left = std::fs::read_dir(disk.0.join("attachments")).expect("the attachment store");
    assert_eq!(left.count(), 2);
}

#[test]
fn check_sees_settings_and_chains_in_namespaces() {
    let mut lab = lab();
    let netns = lab.container("c1");
    let result = lab.cni("h1", "ADD", "c1", &netns).ok();
    let mut check = lab.cni("h1", "CHECK", "c1", &netns);
    check.config["prevResult"] = result;
    check.ok();
    let link = lab.links("h1").remove(0);
    for (name, good, bad) in
        [("ipv4/conf/LINK/proxy_arp", "1", "0"), ("ipv6/conf/LINK/disable_ipv6", "0", "1")]
    {
        let set = |value: &str| {
            let setting = format!("net/{}={value}", name.replace("LINK", &link));
            assert!(lab.try_exec("h1", &["sysctl", "-qw", &setting]).is_some());
        };
        set(bad);
        let (success, error) = check.call();
        assert!(!success && error["code"] == 104, "{name}: {error}");
        set(good);
    }
    until("all is as it was", || {
        let (success, error) = check.call();
        if !success {
            eprintln!("CHECK: {error}");
        }
        success
    });
    // The enforcer may repair it first.
    until("a flushed chain is seen", || {
        assert!(lab.try_exec("h1", &["iptables", "-F", "ROMANA-FORWARD"]).is_some());
        let (success, error) = check.call();
        !success && error["code"] == 104
    });
    until("all is as it was", || check.call().0);
}

#[test]
fn what_is_no_network_namespace_gets_no_interface_in_namespaces() {
    let lab = lab();
    for netns in ["/proc/self/ns/pid", "/proc/self/ns/mnt", "/etc/hostname", "/nonexistent"] {
        let (success, error) = lab.cni("h1", "ADD", "c1", netns).call();
        assert!(!success && error["code"] == 3, "{netns}: {error}");
    }
    assert!(lab.allocated("h1").is_empty(), "nothing is kept for them");
}

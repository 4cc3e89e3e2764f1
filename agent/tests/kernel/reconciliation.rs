//! Differences between the log and the running containers: adoption, release, conflicts;
//! and operation without a quorum.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::lab::{Lab, addresses, until};
use crate::routes::{flat, start_all};

fn lab(settings: &[&str]) -> Lab {
    let mut lab = Lab::one_link();
    lab.topology(&flat());
    start_all(&mut lab);
    // The version that supports these settings is raised soon after the start.
    let set = [&["settings", "set"], settings].concat();
    until("the settings are set", || lab.try_romana(&set).is_some());
    lab
}

fn named(lab: &Lab, host: &str, part: &str) -> Vec<IpAddr> {
    let all = lab.allocated(host).into_iter();
    all.filter(|(name, _)| name.contains(part)).map(|(_, ip)| ip).collect()
}

#[test]
fn containers_start_from_the_reserve_while_cut_off_in_namespaces() {
    let mut lab = lab(&["reserve_per_owner=2"]);
    let nets: Vec<String> = (1..=5).map(|n| lab.container(&format!("c{n}"))).collect();
    let there = lab.container("there");
    let far = addresses(&lab.cni("h2", "ADD", "there", &there).ok())[0];
    lab.cni("h1", "ADD", "c1", &nets[0]).ok();
    until("two of each family are in reserve", || named(&lab, "h1", "reserve:").len() == 4);
    lab.reaches("c1", far);
    let ping = lab.start_ping("c1", far);
    lab.kill_replicas();
    let second = addresses(&lab.cni("h1", "ADD", "c2", &nets[1]).ok());
    // A restart without quorum neither lends an address twice nor loses a borrowed one.
    lab.kill_agent("h1");
    lab.start_agent("h1", &[]);
    let third = addresses(&lab.cni("h1", "ADD", "c3", &nets[2]).ok());
    assert!(second.len() == 2 && third.len() == 2 && second.iter().all(|ip| !third.contains(ip)));
    let (success, error) = lab.cni("h1", "ADD", "c4", &nets[3]).call();
    assert!(!success && error["code"] == 11, "the reserve is used up: {error}");
    lab.reaches("c2", far);
    lab.reaches("there", second[0]);
    lab.cni("h1", "DEL", "c3", &nets[2]).ok();
    let (sent, received) = ping.end();
    assert_eq!(sent, received, "nobody noticed");

    lab.start_replicas();
    until("what was lent has its name", || named(&lab, "h1", ":c2:eth0").len() == 2);
    assert_eq!(named(&lab, "h1", "cni:blue.web:c2:"), [second[0]]);
    until("what was deleted is given back", || named(&lab, "h1", ":c3:").is_empty());
    until("the reserve is filled again", || named(&lab, "h1", "reserve:").len() == 4);
    // The audit has both holders of each, and marks the late ones.
    for (ip, container) in [(second[0], "c2"), (third[1], "c3")] {
        let who = lab.romana(&["audit", "who", &ip.to_string()]);
        let (reserve, user) = (&who["items"][0], &who["items"][1]);
        assert!(reserve["name"].as_str().is_some_and(|name| name.starts_with("reserve:h1:blue.")));
        assert_eq!((&reserve["reason"], &reserve["to"]), (&json!("claimed"), &user["from"]));
        assert!(user["name"].as_str().is_some_and(|name| name.contains(container)), "{who}");
        let claimed = user["late"]["claimed"].as_u64().expect("since when");
        assert!(claimed < user["from"]["at"].as_u64().unwrap_or(u64::MAX), "{who}");
    }
    lab.cni("h1", "ADD", "c5", &nets[4]).ok();
    lab.romana(&["settings", "set", "reserve_per_owner=0"]);
    until("nothing is in reserve any more", || named(&lab, "h1", "reserve:").is_empty());
}

#[test]
fn what_runs_is_adopted_or_a_conflict_in_namespaces() {
    let mut lab = lab(&["address_reuse_delay=30s"]);
    let netns = lab.container("c1");
    let ip = addresses(&lab.cni("h1", "ADD", "c1", &netns).ok())[0];
    let name = "cni:blue.web:c1:eth0";
    // A client releases an address in use: it cools down, and is adopted.
    lab.romana(&["address", "release", name]);
    until("it is adopted", || named(&lab, "h1", name) == [ip]);
    let who = lab.romana(&["audit", "who", &ip.to_string()]);
    assert!(who["items"][1]["late"]["adopted"].is_u64(), "{who}");
    // Until all hosts have reported and its endpoint is restored, the check reports differences.
    until("nothing is wrong", || lab.try_romana(&["ipam", "check"]).is_some());

    // While the agent is down, the address is allocated to another name.
    lab.kill_agent("h1");
    lab.romana(&["settings", "set", "address_reuse_delay_ms=0"]);
    lab.romana(&["address", "release", name]);
    let args = ["address", "allocate", "--host", "h1", "--tenant", "blue", "--segment", "default"];
    let taken = lab.romana(&[&args[..], &["--network", "v4", "thief"]].concat());
    assert_eq!(taken["ip"], ip.to_string());
    lab.start_agent("h1", &[]);
    let said = || lab.romana_text(&["ipam", "check"]);
    until("the conflict is found, and fails the check", || said().is_none());
    until("the agent says so", || {
        let problems = lab.status("h1").map(|status| status.problems).unwrap_or_default();
        problems.iter().any(|problem| problem.contains(&format!("{ip} is used for {name}")))
    });
    // Neither loses the address; when the container is removed, the conflict ends.
    assert_eq!(named(&lab, "h1", "thief"), [ip]);
    lab.cni("h1", "DEL", "c1", &netns).ok();
    until("all is well again", || said().is_some());
    assert_eq!(named(&lab, "h1", "thief"), [ip]);
}

#[test]
fn a_silent_host_is_down_and_one_that_is_heard_is_up_in_namespaces() {
    let mut lab = lab(&["host_down_after=2s"]);
    let state = |lab: &Lab, host: &str| lab.romana(&["host", "show", host])["state"].clone();
    let netns = lab.container("c3");
    lab.cni("h3", "ADD", "c3", &netns).ok();
    let has_route = |lab: &Lab| lab.routes("h1").iter().any(|route| route.ends_with(" 10.77.0.3"));
    until("there is a route to its block", || has_route(&lab));
    // Its agent is dead, but its kernel forwards: the log says down, and the route stays.
    lab.kill_agent("h3");
    until("it is down", || state(&lab, "h3") == "down");
    assert_eq!((state(&lab, "h1"), state(&lab, "h2")), (json!("up"), json!("up")));
    assert!(has_route(&lab), "its agent is dead, not its kernel");
    lab.ip("h3", &["link", "set", "eth0", "down"]);
    until("the route is withdrawn", || !has_route(&lab));
    lab.ip("h3", &["link", "set", "eth0", "up"]);
    lab.start_agent("h3", &[]);
    until("it is up again", || state(&lab, "h3") == "up");
    until("the route is back", || has_route(&lab));
    // Most hosts are silent: then the fault is probably not theirs.
    lab.kill_agent("h2");
    lab.kill_agent("h3");
    let silent = |lab: &Lab| {
        let said = lab.romana(&["doctor"]);
        let items = said["items"].as_array().cloned().unwrap_or_default();
        let silent =
            |item: &&Value| item["what"].as_str().is_some_and(|s| s.contains("silent for"));
        items.iter().filter(silent).count()
    };
    until("both are silent", || silent(&lab) == 2);
    assert_eq!((state(&lab, "h2"), state(&lab, "h3")), (json!("up"), json!("up")));
}

#[test]
fn labels_of_a_container_become_its_endpoint_in_namespaces() {
    let mut lab = lab(&["address_reuse_delay_ms=0"]);
    let netns = lab.container("c1");
    let mut add = lab.cni("h1", "ADD", "c1", &netns);
    add.config["args"] = json!({"cni": {"labels": [{"key": "app", "value": "web"}]}});
    let ips = addresses(&add.ok());
    for ip in &ips {
        let list = lab.endpoints();
        let mut all = list.as_array().expect("a list").iter();
        let mine = all.find(|endpoint| endpoint["ip"] == ip.to_string()).expect("its endpoint");
        assert_eq!((&mine["labels"]["app"], &mine["tenant"]), (&json!("web"), &json!("blue")));
    }
    lab.cni("h1", "DEL", "c1", &netns).ok();
    until("it is gone", || lab.endpoints() == json!([]));
}

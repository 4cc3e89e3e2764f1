//! `romana-agent cleanup` removes all our objects, and no others.

use std::path::Path;
use std::process::Output;

use crate::lab::{Lab, addresses, until};
use crate::routes::{flat, start_all};

fn cleanup(lab: &Lab, host: &str, more: &[&str]) -> Output {
    let state = lab.dir().join(host);
    let agent = env!("CARGO_BIN_EXE_romana-agent");
    let mut args = vec!["netns", "exec"];
    let (ns, state) = (lab.ns(host), state.display().to_string());
    args.extend([&*ns, agent, "--state-dir", &state, "cleanup"]);
    args.extend(more);
    std::process::Command::new("ip").args(args).output().expect("it runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Everything in the kernel of a host that a cleanup may touch.
fn kernel(lab: &Lab, host: &str) -> String {
    let ask = |args: &[&str]| lab.text(host, args).unwrap_or_default();
    let mut text = String::new();
    for program in ["iptables", "ip6tables"] {
        for table in ["filter", "nat"] {
            text += &ask(&[program, "-t", table, "-S"]);
        }
    }
    text += &ask(&["ipset", "list", "-name"]);
    for family in ["-4", "-6"] {
        text += &ask(&["ip", family, "route", "show", "table", "all", "proto", "57"]);
        text += &ask(&["ip", family, "route", "show", "proto", "static"]);
    }
    text += &lab.links(host).join("\n");
    text
}

#[test]
fn a_host_leaves_romana_without_a_trace_in_namespaces() {
    let mut lab = Lab::one_link();
    lab.topology(&flat());
    // Objects of other programs, some with the same numbers.
    lab.nat("h1", &["-A", "POSTROUTING", "-s", "192.0.2.1", "-j", "ACCEPT"]).expect("iptables");
    lab.ip("h1", &["route", "add", "198.51.100.0/24", "dev", "lo", "proto", "static"]);
    for args in [
        &["iptables", "-A", "INPUT", "-s", "192.0.2.1", "-j", "ACCEPT"][..],
        &["ipset", "create", "others", "hash:ip"],
        &["ip", "link", "add", "others-0", "type", "veth", "peer", "name", "others-1"],
    ] {
        lab.text("h1", args).expect("it is made");
    }
    let before = kernel(&lab, "h1");
    start_all(&mut lab);
    lab.kill_agent("h1");
    lab.start_agent("h1", &["--nat"]);
    let net = lab.container("c");
    let own = addresses(&lab.cni("h1", "ADD", "c", &net).ok())[0];
    until("it has a chain for nat", || lab.nat("h1", &["-S", "ROMANA-MASQ"]).is_some());
    let running = cleanup(&lab, "h1", &[]);
    assert!(!running.status.success() && said(&running).contains("stop it first"), "{running:?}");
    lab.kill_agent("h1");

    let with = kernel(&lab, "h1");
    let dry = cleanup(&lab, "h1", &["--dry-run", "--force"]);
    assert!(dry.status.success() && said(&dry).contains("would remove"), "{}", said(&dry));
    assert_eq!(kernel(&lab, "h1"), with, "a dry run changes nothing");

    // The container keeps its link and the route to it.
    let kept = cleanup(&lab, "h1", &[]);
    assert_eq!(kept.status.code(), Some(1), "{}", said(&kept));
    assert!(said(&kept).contains("a container uses it"), "{}", said(&kept));
    assert_eq!(lab.links("h1").iter().filter(|name| name.starts_with("romana-")).count(), 1);
    let routes = lab.text("h1", &["ip", "route", "show", "proto", "57"]).expect("routes");
    assert!(routes.lines().count() == 1 && routes.contains(&own.to_string()), "{routes}");
    let rest = kernel(&lab, "h1");
    assert!(!rest.contains("ROMANA-"), "{rest}");

    let forced = cleanup(&lab, "h1", &["--force"]);
    assert!(forced.status.success(), "{}", said(&forced));
    assert_eq!(kernel(&lab, "h1"), before, "others' things are as they were");
    let again = cleanup(&lab, "h1", &[]);
    assert!(again.status.success() && said(&again).contains("nothing of Romana's"), "{again:?}");
    assert!(Path::new(&lab.dir().join("h1")).is_dir(), "its state is the operator's to remove");
}

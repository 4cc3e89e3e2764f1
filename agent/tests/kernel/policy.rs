//! Policy on a real kernel: documents as in Romana's documentation, hosts and ranges, new endpoints,
//! established connections, foreign rules.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use romana_statemachine::policy::party::Transport::{self, Tcp, Udp};
use romana_statemachine::{Command, Revision};
use serde_json::{Value, json};

use crate::lab::{Cni, Lab, addresses, in_namespace_thread, until};
use crate::probe::{reached, serve};
use crate::routes::{flat, start_all};

const PORTS: &[u16] = &[22, 67, 68, 80, 81];

fn lab() -> Lab {
    let mut lab = Lab::one_link();
    lab.closed_topology(&flat());
    start_all(&mut lab);
    lab
}

fn call(lab: &Lab, host: &str, verb: &str, pod: &str, tenant: &str) -> Cni {
    let mut call = lab.cni(host, verb, pod, &format!("/run/netns/{}", lab.ns(pod)));
    call.set("CNI_ARGS", &format!("K8S_POD_NAMESPACE={tenant};K8S_POD_NAME={pod}"));
    call
}

/// Attaches a container that runs servers.
fn pod(lab: &mut Lab, name: &str, host: &str, tenant: &str) -> Vec<IpAddr> {
    lab.container(name);
    serve(&lab.ns(name), PORTS);
    addresses(&call(lab, host, "ADD", name, tenant).ok())
}

fn reaches(lab: &Lab, from: &str, to: IpAddr, transport: Transport) -> bool {
    reached(&lab.ns(from), &[(to, transport)])[0]
}

/// Probes all of these, and compares the results.
fn expect(lab: &Lab, from: &str, expected: &[(IpAddr, Transport, bool)]) {
    let asked: Vec<(IpAddr, Transport)> = expected.iter().map(|(ip, t, _)| (*ip, *t)).collect();
    let found = reached(&lab.ns(from), &asked);
    for ((ip, transport, wanted), found) in expected.iter().zip(found) {
        assert_eq!(found, *wanted, "{from} -> {ip} {transport:?}");
    }
}

fn submit(lab: &Lab, commands: Vec<Value>) {
    let commands = commands.into_iter().map(|one| serde_json::from_value(one).expect("a command"));
    let revision = lab.submit(commands.collect());
    lab.settled(revision);
}

fn set(lab: &Lab, document: &Value) {
    lab.policy(document);
    let revision = lab.romana(&["cluster", "status"])["revision"].as_u64().expect("a revision");
    lab.settled(Revision(revision));
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The example of Romana's documentation, and connections that no policy allows.
fn seeds_example(lab: &mut Lab) {
    let web = pod(lab, "web", "h1", "admin");
    pod(lab, "other", "h2", "guests");
    pod(lab, "near", "h1", "guests");
    for from in ["other", "near", "h3", "h1"] {
        for to in &web {
            expect(lab, from, &[(*to, Tcp(80), false), (*to, Udp(80), false)]);
            assert!(!lab.is_answered(from, &to.to_string()), "{from} pings {to}");
        }
    }
    set(
        lab,
        &json!({"securitypolicies": [{
        "name": "policy1",
        "description": "Opening SSH, HTTP and HTTPS ports as well as ICMP",
        "direction": "ingress",
        "applied_to": [{"tenant": "admin", "segment": "default"}],
        "peers": [{"peer": "any"}],
        "rules": [{"protocol": "tcp", "ports": [22, 80, 443]}, {"protocol": "icmp"}]}]}),
    );
    for from in ["other", "near", "h3", "h1"] {
        for to in &web {
            // Hosts can reach IPv6 containers of other hosts only by their routes here.
            expect(
                lab,
                from,
                &[
                    (*to, Tcp(80), true),
                    (*to, Tcp(22), true),
                    (*to, Tcp(81), false),
                    (*to, Udp(80), false),
                ],
            );
            assert!(lab.is_answered(from, &to.to_string()), "{from} pings {to}");
        }
    }
}

#[test]
fn the_seeds_example_and_what_nobody_opens_in_namespaces() {
    let mut lab = lab();
    seeds_example(&mut lab);
    // Romana 2.0's format, and an explanation that agrees with the kernel.
    let web =
        lab.allocated("h1").into_iter().find(|(name, ip)| name.contains("web") && ip.is_ipv4());
    let (name, web) = web.expect("it has an address");
    set(
        &lab,
        &json!({"id": "more", "direction": "ingress", "applied_to": [{"tenant_id": "admin"}],
        "ingress": [{"peers": [{"tenant_id": "guests"}],
            "rules": [{"protocol": "TCP", "port_ranges": [[81, 90]], "is_stateful": true}]}]}),
    );
    assert!(reaches(&lab, "other", web, Tcp(81)) && !reaches(&lab, "h3", web, Tcp(81)));
    let explained = lab.romana(&["policy", "explain", "h3", &name, "tcp/81"]);
    assert_eq!(
        (&explained["allowed"], &explained["ingress"]["isolating"]),
        (&json!(false), &json!(["more", "policy1"]))
    );
    let checked = lab.file(
        "check.json",
        &json!({"name": "more", "applied_to": [{"tenant": "admin"}],
        "peers": [{"tenant": "guests"}], "rules": [{"protocol": "tcp", "ports": [82]}]}),
    );
    let checked = lab.romana(&["policy", "check", &checked]);
    let of_web = |change: &&Value| change["destination"] == web.to_string();
    let change =
        checked["changes"].as_array().and_then(|all| all.iter().find(of_web)).expect("a change");
    assert_eq!(change["closes"], json!(["tcp/81", "tcp/83-90"]), "{change}");
}

#[test]
fn the_legacy_back_end_does_the_same_in_namespaces() {
    let mut lab = Lab::one_link();
    lab.closed_topology(&flat());
    lab.options(&["--iptables", "legacy"]);
    start_all(&mut lab);
    seeds_example(&mut lab);
    assert!(lab.text("h1", &["iptables-nft-save"]).is_some_and(|rules| !rules.contains("ROMANA")));
    assert!(
        lab.text("h1", &["iptables-legacy-save"])
            .is_some_and(|rules| rules.contains("ROMANA-I-policy1-"))
    );
    writes_nothing_again(&mut lab);
}

/// The four infrastructure policies of Romana (reference §5.2) and a host given by address; no host may be
/// cut off from the control plane.
#[test]
fn hosts_and_ranges_are_targets_in_namespaces() {
    let mut lab = lab();
    let vm = pod(&mut lab, "vm", "h1", "vms")[0];
    for host in ["h1", "h3"] {
        serve(&lab.ns(host), PORTS);
    }
    let (h1, h3) = (ip("10.77.0.1"), ip("10.77.0.3"));
    expect(&lab, "vm", &[(h1, Udp(67), true), (h1, Tcp(80), true), (h3, Tcp(80), true)]);
    set(
        &lab,
        &json!([
        {"name": "dhcp-host", "applied_to": [{"dest": "host"}], "peers": [{"peer": "local"}],
            "rules": [{"protocol": "udp", "ports": [67]}]},
        {"name": "dhcp-vm", "applied_to": [{"dest": "local"}], "peers": [{"peer": "host"}],
            "rules": [{"protocol": "udp", "ports": [68]}]},
        {"name": "icmp-vm", "applied_to": [{"dest": "local"}], "peers": [{"peer": "host"}],
            "rules": [{"protocol": "icmp", "icmp_type": 8}]},
        {"name": "ssh-vm", "applied_to": [{"dest": "local"}], "peers": [{"peer": "host"}],
            "rules": [{"protocol": "tcp", "ports": [22]}]}]),
    );
    expect(
        &lab,
        "vm",
        &[(h1, Udp(67), true), (h1, Udp(68), false), (h1, Tcp(80), false), (h3, Udp(67), false)],
    );
    expect(
        &lab,
        "h1",
        &[(vm, Udp(68), true), (vm, Tcp(22), true), (vm, Udp(67), false), (vm, Tcp(80), false)],
    );
    expect(&lab, "h3", &[(vm, Tcp(22), false), (h1, Tcp(22), false)]);
    assert!(lab.is_answered("h1", &vm.to_string()) && !lab.is_answered("h3", &vm.to_string()));
    // The host still follows the log, also over new connections.
    lab.kill_agent("h1");
    lab.start_agent("h1", &[]);
    set(
        &lab,
        &json!({"name": "metal", "applied_to": [{"cidr": "10.77.0.3/32"}],
        "peers": [{"cidr": "10.77.0.0/24", "except": ["10.77.0.2/32"]}],
        "rules": [{"protocol": "tcp", "ports": ["80-81"]}]}),
    );
    expect(&lab, "h1", &[(h3, Tcp(80), true), (h3, Tcp(22), false)]);
    expect(&lab, "h2", &[(h3, Tcp(80), false)]);
}

/// Law 5: a server that listens before it has an address, and a client that probes continuously.
#[test]
fn nothing_passes_before_the_policy_does_in_namespaces() {
    let mut lab = lab();
    let kube = json!({"id": "kube", "labels": {"kubernetes.io/metadata.name": "kube"}});
    submit(
        &lab,
        vec![
            json!({"CreateTenant": kube}),
            json!({"SetPolicy": {
        "name": "closed", "applied_to": [{"Endpoints": ["kube", {"labels": {"app": "secret"}}]}],
        "isolates_ingress": true, "isolates_egress": false}}),
        ],
    );
    pod(&mut lab, "client", "h2", "guests");
    let wanted = ip("10.112.9.9");
    let done = AtomicBool::new(false);
    for (name, labels) in [("open", "app=public"), ("secret", "app=secret"), ("unknown", "")] {
        lab.container(name);
        serve(&lab.ns(name), PORTS);
        let mut add = call(&lab, "h1", "ADD", name, "kube");
        add.config["runtimeConfig"] = json!({"ips": [wanted.to_string() + "/32"]});
        if let Some((key, value)) = labels.split_once('=') {
            add.config["args"] = json!({"cni": {"labels": [{"key": key, "value": value}]}});
        }
        done.store(false, Ordering::Relaxed);
        let client = lab.ns("client");
        let got_through = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let mut got_through = false;
                loop {
                    // Read before the probe: the last one starts after what ended the wait.
                    let last = done.load(Ordering::Relaxed);
                    got_through |=
                        reached(&client, &[(wanted, Tcp(80)), (wanted, Udp(80))]).contains(&true);
                    if last {
                        return got_through;
                    }
                }
            });
            add.ok();
            // After ADD the policy is in place: allowed ports are reached (once the client's host has the
            // route), others are not, however often they are probed.
            let open = || reaches(&lab, "client", wanted, Tcp(80));
            let end = Instant::now() + Duration::from_secs(20);
            let mut tries = std::iter::repeat_with(open).take_while(|_| Instant::now() < end);
            let found = match name {
                "open" => tries.any(|reached| reached),
                _ => tries.take(3).any(|reached| reached),
            };
            done.store(true, Ordering::Relaxed);
            let got_through = asking.join().expect("it ends");
            assert_eq!(found, name == "open", "{name}");
            got_through
        });
        assert_eq!(got_through, name == "open", "{name}");
        if name == "unknown" {
            // A pod that is not an endpoint yet, until it becomes one.
            assert!(!reaches(&lab, name, ip("10.77.0.3"), Tcp(80)));
            submit(
                &lab,
                vec![json!({"SetEndpoint": {"ip": wanted, "tenant": "kube",
                "segment": "default", "host": "h1", "labels": {"app": "public"}}})],
            );
            until("it is reached", || reaches(&lab, "client", wanted, Tcp(80)));
        }
        lab.romana(&["settings", "set", "address_reuse_delay=0"]);
        call(&lab, "h1", "DEL", name, "kube").ok();
        until("its address is given back", || {
            !lab.allocated("h1").iter().any(|(_, ip)| *ip == wanted)
        });
    }
}

/// Established connections continue when a policy starts to forbid them; those of a
/// removed container are deleted.
#[test]
fn connections_stay_until_their_end_in_namespaces() {
    let mut lab = lab();
    lab.romana(&["settings", "set", "address_reuse_delay=0"]);
    let open = json!({"SetPolicy": {"name": "p", "applied_to": [{"Tenant": "t"}],
        "isolates_ingress": true, "isolates_egress": false,
        "ingress": [{"peers": ["Any"], "traffic": [{"protocol": "any"}]}]}});
    let closed = json!({"SetPolicy": {"name": "p", "applied_to": [{"Tenant": "t"}],
        "isolates_ingress": true, "isolates_egress": false}});
    submit(&lab, vec![open]);
    pod(&mut lab, "client", "h2", "guests");
    let server = pod(&mut lab, "server", "h1", "t")[0];
    let socket = in_namespace_thread(&lab.ns("client"), move || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.connect((server, 80)).expect("connected");
        socket.set_read_timeout(Some(std::time::Duration::from_millis(300))).expect("set");
        socket
    });
    let answers = || socket.send(&[1]).is_ok() && socket.recv(&mut [0]).is_ok();
    assert!(answers());
    submit(&lab, vec![closed]);
    assert!(!reaches(&lab, "client", server, Udp(80)), "a new one is denied");
    assert!(answers(), "the old one stays");
    call(&lab, "h1", "DEL", "server", "t").ok();
    until("its address is given back", || lab.allocated("h1").iter().all(|(_, ip)| *ip != server));
    lab.container("next");
    serve(&lab.ns("next"), PORTS);
    let mut add = call(&lab, "h1", "ADD", "next", "t");
    add.config["runtimeConfig"] = json!({"ips": [format!("{server}/32")]});
    add.ok();
    assert!(!answers(), "who has the address next is not reached by it");
}

/// A restart after a clean stop, with nothing changed, writes nothing.
fn writes_nothing_again(lab: &mut Lab) {
    let before = lab.text("h1", &["ipset", "save"]);
    lab.stop_agent("h1");
    lab.start_agent("h1", &[]);
    let status = lab.status("h1").and_then(|status| status.policy).expect("it enforces policy");
    assert_eq!((status.writes, status.problems.len()), (0, 0), "{status:?}");
    assert_eq!(lab.text("h1", &["ipset", "save"]), before);
}

/// Objects of other programs on the host, and a set with one of our names that is not ours.
fn others(lab: &Lab) {
    for line in [
        &["ipset", "create", "FOREIGN", "hash:ip"][..],
        &["ipset", "add", "FOREIGN", "192.0.2.1"],
        &["iptables", "-N", "FOREIGN"],
        &["iptables", "-A", "FOREIGN", "-m", "set", "--match-set", "FOREIGN", "src", "-j", "DROP"],
        &["iptables", "-A", "FORWARD", "-j", "FOREIGN"],
        &["iptables", "-P", "FORWARD", "DROP"],
        // A set with our name and another type is reported, and creating it is retried.
        &["ipset", "create", "ROMANA-local4", "hash:ip"],
        &[
            "iptables",
            "-A",
            "FOREIGN",
            "-m",
            "set",
            "--match-set",
            "ROMANA-local4",
            "src",
            "-j",
            "DROP",
        ],
    ] {
        lab.text("h1", line).unwrap_or_else(|| panic!("{line:?}"));
    }
}

/// Rules and sets of the first host, without counters.
fn ours(lab: &Lab) -> (Vec<String>, Vec<String>) {
    let rules = lab.text("h1", &["iptables-save"]).expect("rules");
    let rules: Vec<String> =
        rules.lines().filter(|line| line.starts_with("-A")).map(str::to_owned).collect();
    let mut sets: Vec<String> = lab
        .text("h1", &["ipset", "save"])
        .expect("sets")
        .lines()
        .map(|line| line.split(" hashsize").next().unwrap_or_default().to_owned())
        .collect();
    sets.sort();
    (rules, sets)
}

/// Ways to damage rules and sets.
fn damage(lab: &Lab) {
    for line in [
        &["iptables", "-F", "ROMANA-FORWARD"][..],
        &["iptables", "-D", "INPUT", "-j", "ROMANA-INPUT"],
        &["iptables", "-I", "FORWARD", "1", "-s", "192.0.2.9", "-j", "ACCEPT"],
        &["iptables", "-N", "ROMANA-OLD"],
        &["ipset", "create", "ROMANA-OLD4", "hash:ip"],
        &["ipset", "flush", "ROMANA-links4"],
        &["ipset", "add", "ROMANA-closed-in4", "192.0.2.7"],
    ] {
        lab.text("h1", line).unwrap_or_else(|| panic!("{line:?}"));
    }
}

#[test]
fn what_is_others_stays_and_what_is_ours_is_mended_in_namespaces() {
    let mut lab = Lab::one_link();
    lab.closed_topology(&flat());
    others(&lab);
    lab.spawn_agent("h1", &["--register", "--host-ip", "10.77.0.1"], None);
    until("the failure is said", || {
        let said = lab.status("h1").and_then(|status| status.policy);
        said.is_some_and(|policy| {
            policy.applied.is_none() && policy.problems.iter().any(|why| why.contains("ipset"))
        })
    });
    lab.text("h1", &["iptables", "-D", "FOREIGN", "2"]).expect("deleted");
    lab.text("h1", &["ipset", "destroy", "ROMANA-local4"]).expect("destroyed");
    until("it is tried again", || lab.status("h1").is_some_and(|status| status.agrees()));
    lab.start_agent("h2", &["--register", "--host-ip", "10.77.0.2"]);
    let web = pod(&mut lab, "web", "h1", "t")[0];
    pod(&mut lab, "client", "h2", "t");
    set(
        &lab,
        &json!({"name": "web", "applied_to": [{"tenant": "t"}], "peers": [{"tenant": "t"}],
        "rules": [{"protocol": "tcp", "ports": [80]}]}),
    );
    assert!(reaches(&lab, "client", web, Tcp(80)), "also where FORWARD drops what nobody allows");
    writes_nothing_again(&mut lab);
    let before = ours(&lab);
    lab.kill_agent("h1");
    damage(&lab);
    lab.start_agent("h1", &[]);
    until("the rest is as it was", || {
        let (rules, sets) = ours(&lab);
        let rules: Vec<String> =
            rules.into_iter().filter(|line| !line.contains("192.0.2.9")).collect();
        (rules, sets) == before
    });
    assert!(reaches(&lab, "client", web, Tcp(80)) && !reaches(&lab, "client", web, Tcp(81)));
    lab.kill_agent("h1");
    lab.start_agent("h1", &["--policy=false"]);
    until("nothing of ours is left", || {
        let (rules, sets) = ours(&lab);
        !rules.iter().chain(&sets).any(|line| line.contains("ROMANA"))
    });
    let (rules, sets) = ours(&lab);
    assert!(
        rules.iter().any(|line| line.contains("--match-set FOREIGN")) && sets.len() == 2,
        "{rules:?} {sets:?}"
    );
}

/// Denials are counted by policy, and logged with its name and revision.
#[test]
fn denials_are_counted_and_logged_in_namespaces() {
    let mut lab = Lab::one_link();
    lab.closed_topology(&flat());
    lab.options(&["--policy-log"]);
    start_all(&mut lab);
    let web = pod(&mut lab, "web", "h1", "t")[0];
    pod(&mut lab, "client", "h2", "t");
    let policy = json!({"SetPolicy": {"name": "kube.t.web", "applied_to": [{"Tenant": "t"}],
        "isolates_ingress": true, "isolates_egress": false,
        "ingress": [{"peers": [{"Tenant": "t"}], "traffic": [{"protocol": "tcp", "ports": [{"Number": 80}]}]}]}});
    let command: Command = serde_json::from_value(policy).expect("a command");
    let revision = lab.submit(vec![command]);
    lab.settled(revision);
    assert!(reaches(&lab, "client", web, Tcp(80)) && !reaches(&lab, "client", web, Tcp(81)));
    let rules = lab.text("h1", &["iptables-save", "-c"]).expect("rules");
    let logged = format!("--nflog-prefix \"romana deny-in kube.t.web@{revision}\"");
    let line =
        rules.lines().find(|line| line.contains(&logged)).unwrap_or_else(|| panic!("{rules}"));
    assert!(!line.starts_with("[0:0]"), "{line}");
    let metrics = lab.metrics("h1");
    for (verdict, least) in [("allowed", 1), ("denied", 1)] {
        let name = format!("policy=\"kube.t.web\",direction=\"in\",verdict=\"{verdict}\"}}");
        let line =
            metrics.lines().find(|line| line.contains("packets_total") && line.contains(&name));
        let count = line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        assert!(count.is_some_and(|count| count >= least), "{verdict}: {metrics}");
    }
}

//! Virtual IPs on a real kernel: outages that clients see, and captures that show who answered.
//!
//! Bounds are generous, as machines differ; figures are printed. That never two machines answered has no tolerance.

mod capture;
mod prober;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use self::capture::{Answer, Capture, holders};
use self::prober::{Prober, Seen, serve};
use crate::lab::{Lab, run, until};
use crate::routes::{flat, start_all};

/// A failover takes 2 s; a machine that is busy with other tests may take longer.
const OUTAGE_MAX: Duration = Duration::from_secs(8);
/// Length of a grant by default.
const GRANT: Duration = Duration::from_secs(1);
/// A lifetime in the kernel is over by then.
const KERNEL_MAX: Duration = Duration::from_secs(3);

/// Three hosts, a client in their segment and one behind a router, and virtual IPs with a service.
struct Site {
    lab: Lab,
    vips: Vec<IpAddr>,
    macs: BTreeMap<[u8; 6], String>,
}

impl Site {
    fn new(vips: Vec<IpAddr>, variables: impl FnOnce(&Lab) -> Vec<(&'static str, String)>) -> Self {
        let mut lab = Lab::one_link();
        lab.unfiltered();
        let variables = variables(&lab);
        lab.variables(&variables);
        lab.host("near", "sw", &["10.77.0.200/24", "fd77::200/64"]);
        lab.link("sw2");
        lab.host("rt", "sw", &["10.77.0.254/24"]);
        lab.plug("rt", "eth1", "sw2", &["10.78.0.254/24"]);
        lab.host("far", "sw2", &["10.78.0.2/24"]);
        lab.ip("far", &["route", "add", "default", "via", "10.78.0.254"]);
        let mut macs = BTreeMap::new();
        for n in 1..=3 {
            let host = format!("h{n}");
            lab.ip(&host, &["route", "add", "10.78.0.0/24", "via", "10.77.0.254"]);
            serve(&lab.ns(&host), n, vips.clone());
            macs.insert(mac(&lab, &host), host);
        }
        lab.topology(&flat());
        start_all(&mut lab);
        let site = Self { lab, vips, macs };
        for (n, vip) in site.vips.iter().enumerate() {
            let (name, ip) = (format!("v{n}"), vip.to_string());
            // The version that places them is raised soon after the start.
            until("the VIP is requested", || {
                site.lab.try_romana(&["vip", "add", &name, &ip]).is_some()
            });
        }
        until("all VIPs are held", || {
            let have = site.have();
            site.vips.iter().all(|vip| have.get(vip).is_some_and(|hosts| hosts.len() == 1))
        });
        site
    }

    /// One virtual IP.
    fn of_one() -> Self {
        Self::new(vec![vip(100)], |_| Vec::new())
    }

    /// Many virtual IPs, in a subnet that is large enough.
    fn wide(vips: Vec<IpAddr>) -> Self {
        Self::new(vips, |lab| {
            for (host, n) in [("h1", 1), ("h2", 2), ("h3", 3)] {
                lab.ip(host, &["addr", "add", &format!("10.77.9.{n}/16"), "dev", "eth0"]);
            }
            Vec::new()
        })
    }

    /// The hosts that have an address in the kernel.
    fn has(&self, vip: IpAddr) -> Vec<String> {
        self.have().remove(&vip).unwrap_or_default()
    }

    /// The hosts that have each address in the kernel.
    fn have(&self) -> BTreeMap<IpAddr, Vec<String>> {
        let mut have = BTreeMap::<IpAddr, Vec<String>>::new();
        for host in self.macs.values() {
            for ip in self.addresses(host) {
                have.entry(ip).or_default().push(host.clone());
            }
        }
        have
    }

    fn addresses(&self, host: &str) -> Vec<IpAddr> {
        let shown = self.lab.ip_json(host, &["addr", "show", "dev", "eth0"]);
        let infos = shown[0]["addr_info"].as_array().cloned().unwrap_or_default();
        let local = |info: &Value| info["local"].as_str()?.parse().ok();
        infos.iter().filter_map(local).collect()
    }

    /// The host that has an address; there is one.
    fn holder(&self, vip: IpAddr) -> String {
        until("one host has the VIP", || self.has(vip).len() == 1);
        self.has(vip).remove(0)
    }

    /// Takes the cable of a host out of the switch, or puts it in.
    fn cable(&self, host: &str, state: &str) {
        self.lab.ip("sw", &["link", "set", &format!("{host}-eth0"), state]);
    }

    /// Starts the agent of a host again.
    fn start_agent(&mut self, host: &str) {
        let ips = format!("10.77.0.{n},fd77::{n}", n = &host[1..]);
        self.lab.start_agent(host, &["--register", "--host-ip", &ips]);
    }

    /// The host's watchdog: the child of its agent that holds VIPs.
    fn watchdog(&self, host: &str) -> Option<u32> {
        let agent = self.lab.agent_process(host);
        let parent = format!("PPid:\t{agent}\n");
        let all = std::fs::read_dir("/proc")
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let read = |id: &u32, file: &str| {
            std::fs::read_to_string(format!("/proc/{id}/{file}")).unwrap_or_default()
        };
        let mut all = all.filter(|id| read(id, "status").contains(&parent));
        all.find(|id| read(id, "cmdline").contains("vip-watchdog"))
    }

    /// What clients see of a fault: it moves the VIP to another host, and never two hosts answer.
    fn outage(&mut self, what: &str, fault: impl FnOnce(&mut Self, &str)) -> Duration {
        let vip = self.vips[0];
        let holder = self.holder(vip);
        let watch = Watch::start(&self.lab, vip);
        fault(self, &holder);
        let number: u8 = holder[1..].parse().expect("a number");
        watch.until("another host answers", |last| last.is_some_and(|last| last != number));
        let (longest, answers) = watch.end(what);
        let seen = self.names(&answers, vip);
        let once: std::collections::BTreeSet<&String> = seen.iter().collect();
        assert!(seen.len() >= 2, "{what}: it moves: {seen:?}");
        assert_eq!(once.len(), seen.len(), "{what}: nobody answers again: {seen:?}");
        assert_eq!(seen[0], holder, "{what}");
        assert!(longest <= OUTAGE_MAX, "{what}: {longest:?}");
        longest
    }

    /// Who answered for an address, in order.
    fn names(&self, answers: &[Answer], vip: IpAddr) -> Vec<String> {
        let name = |mac: &[u8; 6]| self.macs.get(mac).cloned().unwrap_or_default();
        holders(answers, vip).iter().map(name).collect()
    }
}

/// Clients and a capture.
struct Watch {
    vip: IpAddr,
    near: Prober,
    far: Prober,
    tcp: Prober,
    capture: Capture,
}

impl Watch {
    fn start(lab: &Lab, vip: IpAddr) -> Self {
        let capture = Capture::start(&lab.ns("sw"));
        let [near, far] = ["near", "far"].map(|client| Prober::udp(&lab.ns(client), vec![vip]));
        let tcp = Prober::tcp(&lab.ns("far"), vip);
        let watch = Self { vip, near, far, tcp, capture };
        watch.until("clients are answered", |last| last.is_some());
        watch
    }

    /// Waits until both clients were last answered by a host that fits, and the third again.
    fn until(&self, what: &str, fits: impl Fn(Option<u8>) -> bool) {
        until(what, || [&self.near, &self.far].iter().all(|c| fits(c.seen(self.vip).last())));
        let since = Instant::now();
        until(what, || {
            let seen = self.tcp.seen(self.vip);
            seen.answered.last_key_value().is_some_and(|(at, _)| *at >= since)
        });
    }

    /// Ends it, and prints the outages. Returns the longest one, and the capture.
    fn end(self, what: &str) -> (Duration, Vec<Answer>) {
        let ended = [("UDP", self.near), ("UDP, routed", self.far), ("TCP, routed", self.tcp)];
        let mut longest = Duration::ZERO;
        for (client, prober) in ended {
            let seen = prober.end().remove(&self.vip).unwrap_or_default();
            let outage = seen.outage();
            println!("{what}: {client}: {} ms without an answer", outage.as_millis());
            longest = longest.max(outage);
        }
        (longest, self.capture.end())
    }
}

fn vip(last: u8) -> IpAddr {
    IpAddr::from([10, 77, 0, last])
}

fn mac(lab: &Lab, host: &str) -> [u8; 6] {
    let shown = lab.ip_json(host, &["link", "show", "dev", "eth0"]);
    let text = shown[0]["address"].as_str().expect("a MAC address");
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hex"));
    bytes.collect::<Vec<u8>>().try_into().expect("6 bytes")
}

fn signal(name: &str, process: u32) {
    run("kill", &[name, &process.to_string()]);
}

/// Drops packets between a host and an address, or no longer (`-D`).
fn cut(lab: &Lab, host: &str, action: &str, other: &str) {
    for (chain, which) in [("INPUT", "-s"), ("OUTPUT", "-d")] {
        let rule = ["iptables", "-w", action, chain, which, other, "-j", "DROP"];
        lab.try_exec(host, &rule).expect("iptables runs");
    }
}

#[test]
fn a_vip_leaves_a_host_that_dies_in_namespaces() {
    let mut site = Site::of_one();
    site.outage("agent killed, cable out", |site, holder| {
        site.lab.kill_agent(holder);
        site.cable(holder, "down");
    });
    let dead = ["h1", "h2", "h3"].into_iter().find(|host| site.lab.status(host).is_none());
    let dead = dead.expect("one was killed").to_owned();
    site.cable(&dead, "up");
    site.start_agent(&dead);

    // Out and in again: the first host had removed the VIP before the second one added it, and it does not move back.
    let holder = site.holder(vip(100));
    site.outage("cable out", |site, holder| site.cable(holder, "down"));
    until("the first holder has removed it", || !site.addresses(&holder).contains(&vip(100)));
    let watch = Watch::start(&site.lab, vip(100));
    site.cable(&holder, "up");
    until("it is heard again", || site.lab.status(&holder).is_some_and(|s| s.stale_ms < Some(500)));
    let (longest, answers) = watch.end("cable in");
    assert_eq!(site.names(&answers, vip(100)).len(), 1, "it stays");
    assert!(longest < OUTAGE_MAX);

    site.outage("link down on the host", |site, holder| {
        site.lab.ip(holder, &["link", "set", "eth0", "down"]);
    });
}

#[test]
fn a_vip_leaves_a_host_that_is_stopped_in_namespaces() {
    let mut site = Site::of_one();
    let mut stopped = String::new();
    site.outage("agent stopped", |site, holder| {
        signal("-STOP", site.lab.agent_process(holder));
        holder.clone_into(&mut stopped);
    });
    assert!(!site.addresses(&stopped).contains(&vip(100)), "the watchdog has removed it");
    goes_on(&site, &stopped, &[site.lab.agent_process(&stopped)]);

    let mut all = Vec::new();
    site.outage("agent and watchdog stopped", |site, holder| {
        all = vec![site.watchdog(holder).expect("it runs"), site.lab.agent_process(holder)];
        all.iter().for_each(|process| signal("-STOP", *process));
        holder.clone_into(&mut stopped);
    });
    assert!(!site.addresses(&stopped).contains(&vip(100)), "the kernel has removed it");
    goes_on(&site, &stopped, &all);

    // A watchdog alone: the agent kills it, and starts another one.
    let holder = site.holder(vip(100));
    let first = site.watchdog(&holder).expect("it runs");
    let watch = Watch::start(&site.lab, vip(100));
    signal("-STOP", first);
    until("there is another watchdog", || {
        site.watchdog(&holder).is_some_and(|process| process != first)
    });
    watch.until("clients are answered", |last| last.is_some());
    watch.end("watchdog stopped");
}

/// Lets processes go on, which believe that they hold the VIP: nobody but the present holder answers.
fn goes_on(site: &Site, host: &str, processes: &[u32]) {
    let watch = Watch::start(&site.lab, vip(100));
    processes.iter().for_each(|process| signal("-CONT", *process));
    until("it is heard again", || site.lab.status(host).is_some_and(|s| s.stale_ms < Some(500)));
    watch.until("clients are answered", |last| last.is_some());
    let (_, answers) = watch.end("it goes on");
    assert_eq!(site.names(&answers, vip(100)).len(), 1, "the one that was stopped is silent");
}

#[test]
fn a_vip_leaves_a_host_that_is_cut_off_in_namespaces() {
    let mut site = Site::of_one();
    let mut first = String::new();
    site.outage("cut off from the replicas", |site, holder| {
        cut(&site.lab, holder, "-I", "10.77.0.250");
        holder.clone_into(&mut first);
    });
    cut(&site.lab, &first, "-D", "10.77.0.250");
    until("it is heard again", || site.lab.status(&first).is_some_and(|s| s.stale_ms < Some(500)));

    // Replicas still hear it: the VIP stays.
    let holder = site.holder(vip(100));
    let watch = Watch::start(&site.lab, vip(100));
    cut(&site.lab, &holder, "-I", "10.77.0.200");
    until("the client misses it", || watch.near.seen(vip(100)).is_silent());
    cut(&site.lab, &holder, "-D", "10.77.0.200");
    watch.until("clients are answered", |last| last.is_some());
    let (_, answers) = watch.end("cut off from a client");
    assert_eq!(site.names(&answers, vip(100)), [holder], "it stays");

    site.outage("leader and holder die", |site, holder| {
        let status = site.lab.romana(&["cluster", "status"]);
        let leader = status["leader"].as_u64().expect("a leader");
        site.lab.kill_replica(usize::try_from(leader).expect("small"));
        site.lab.kill_agent(holder);
        site.cable(holder, "down");
    });
}

impl Seen {
    /// Whether the last second of probes was not answered.
    fn is_silent(&self) -> bool {
        let last = self.answered.last_key_value().map(|(at, _)| *at);
        self.sent
            .last()
            .zip(last)
            .is_some_and(|(sent, last)| *sent - last >= Duration::from_secs(1))
    }
}

#[test]
fn a_planned_move_is_short_in_namespaces() {
    let mut site = Site::of_one();
    let lost = site.outage("drained", |site, holder| {
        site.lab.romana(&["host", "drain", holder]);
    });
    println!("planned move: {} ms (budget: 100 ms)", lost.as_millis());
    assert!(lost < Duration::from_secs(2), "{lost:?}");
}

#[test]
fn wall_clocks_play_no_part_in_namespaces() {
    let clock = |lab: &Lab| lab.dir().join("clock");
    let shim = |lab: &Lab| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../chaos/src/powerfail.c");
        let (source, shim) = (source.display().to_string(), lab.dir().join("powerfail.so"));
        let shim = shim.display().to_string();
        run("cc", &["-O2", "-shared", "-fPIC", "-o", &shim, &source, "-ldl", "-lpthread"]);
        std::fs::write(clock(lab), [0; 32]).expect("written");
        let (none, clock) = (lab.dir().join("none"), clock(lab).display().to_string());
        std::fs::create_dir(&none).expect("made");
        let none = none.display().to_string();
        vec![("LD_PRELOAD", shim), ("PF_DIR", none), ("PF_CLOCK", clock)]
    };
    let site = Site::new(vec![vip(100)], shim);
    let holder = site.holder(vip(100));
    let watch = Watch::start(&site.lab, vip(100));
    let file = std::fs::File::options().write(true).open(clock(&site.lab)).expect("the clock");
    for ahead in [3_600_000_000_000_i64, -86_400_000_000_000, 0] {
        file.write_all_at(&ahead.to_ne_bytes(), 0).expect("written in place");
        // Longer than a grant: it was renewed under the wrong clock.
        let jumped = Instant::now();
        until("clients are answered after the grant is over", || {
            let last = watch.near.seen(vip(100)).answered.last_key_value().map(|(at, _)| *at);
            last.is_some_and(|last| last >= jumped + 2 * GRANT)
        });
    }
    watch.until("clients are answered", |last| last.is_some());
    let (longest, answers) = watch.end("clocks of the agents jump");
    assert_eq!(site.names(&answers, vip(100)), [holder], "nothing moves");
    assert!(longest < OUTAGE_MAX, "{longest:?}");
}

#[test]
fn restarts_and_leftovers_of_an_agent_in_namespaces() {
    let both = vec![vip(100), "fd77::100".parse().expect("an address")];
    let mut site = Site::new(both.clone(), |_| Vec::new());
    let holder = site.holder(vip(100));
    let watch = Watch::start(&site.lab, vip(100));
    site.lab.kill_agent(&holder);
    site.start_agent(&holder);
    until("VIPs are held", || both.iter().all(|vip| site.has(*vip).len() == 1));
    watch.until("clients are answered", |last| last.is_some());
    let (_, answers) = watch.end("agent killed and started");
    let names = site.names(&answers, vip(100));
    assert!(names.len() <= 2, "it stays, or moves once: {names:?}");

    // Killed together with its watchdog: the kernel removes both addresses.
    let holder = site.holder(vip(100));
    let watchdog = site.watchdog(&holder).expect("it runs");
    // One that goes on would start another watchdog.
    signal("-STOP", site.lab.agent_process(&holder));
    signal("-KILL", watchdog);
    site.lab.kill_agent(&holder);
    let killed = Instant::now();
    until("the kernel removes the addresses", || {
        both.iter().all(|vip| !site.addresses(&holder).contains(vip))
    });
    println!("left in the kernel: {} ms", killed.elapsed().as_millis());
    assert!(killed.elapsed() < KERNEL_MAX);

    // A second agent of that host, elsewhere: it is refused, and holds nothing.
    let other = site.holder(vip(100));
    site.start_agent(&holder);
    site.lab.kill_agent(&other);
    site.lab.spawn_agent_as(&other, &holder, &[], None);
    until("it is refused", || {
        let problems = site.lab.status(&other).map(|status| status.problems).unwrap_or_default();
        problems.iter().any(|problem| problem.contains("speaks for this host"))
    });
    until("the others hold the VIPs", || {
        both.iter().all(|vip| site.has(*vip).len() == 1 && site.has(*vip)[0] != other)
    });
}

#[test]
fn addresses_of_others_stay_in_namespaces() {
    let site = Site::of_one();
    let holder = site.holder(vip(100));
    let other = site.macs.values().find(|host| **host != holder).expect("three hosts").clone();
    // A host with the address in its own configuration.
    site.lab.ip(&other, &["addr", "add", "10.77.0.100/24", "dev", "eth0"]);
    until("the agent says so", || {
        let problems = site.lab.status(&other).map(|status| status.problems).unwrap_or_default();
        problems.iter().any(|problem| problem.contains("from another program"))
    });
    site.lab.romana(&["host", "drain", &holder]);
    until("the holder gives it up", || !site.addresses(&holder).contains(&vip(100)));
    assert!(site.addresses(&other).contains(&vip(100)), "it is not ours");
    site.lab.ip(&other, &["addr", "del", "10.77.0.100/24", "dev", "eth0"]);
    until("one host has the VIP", || site.has(vip(100)).len() == 1);
    // Somebody removes ours: it comes back with the next renewal.
    let holder = site.holder(vip(100));
    site.lab.ip(&holder, &["addr", "del", "10.77.0.100/32", "dev", "eth0"]);
    until("it is back", || site.addresses(&holder).contains(&vip(100)));
    let metrics = site.lab.metrics(&holder);
    assert!(metrics.contains("romana_agent_vips 1"), "{metrics}");
}

#[test]
fn two_hundred_vips_move_at_once_in_namespaces() {
    let vips: Vec<IpAddr> =
        (0..200).map(|n| IpAddr::from([10, 77, 1 + n / 100, n % 100])).collect();
    let mut site = Site::wide(vips.clone());
    let mut load = BTreeMap::<String, Vec<IpAddr>>::new();
    let have = site.have();
    for vip in &vips {
        load.entry(have[vip][0].clone()).or_default().push(*vip);
    }
    println!("VIPs of each host: {:?}", load.values().map(Vec::len).collect::<Vec<_>>());
    let (holder, moved) = load.iter().max_by_key(|(_, vips)| vips.len()).expect("a holder");
    let capture = Capture::start(&site.lab.ns("sw"));
    site.lab.ip("near", &["addr", "add", "10.77.9.200/16", "dev", "eth0"]);
    let client = Prober::udp(&site.lab.ns("near"), vips.clone());
    until("all are answered", || vips.iter().all(|vip| client.seen(*vip).last().is_some()));
    let number: u8 = holder[1..].parse().expect("a number");
    site.lab.kill_agent(holder);
    site.cable(holder, "down");
    until("others answer", || {
        moved.iter().all(|vip| client.seen(*vip).last().is_some_and(|last| last != number))
    });
    let (seen, answers) = (client.end(), capture.end());
    let outages = moved.iter().filter_map(|vip| Some(seen.get(vip)?.outage()));
    let longest = outages.max().unwrap_or_default();
    println!("{} VIPs moved at once: {} ms without an answer", moved.len(), longest.as_millis());
    assert!(longest <= OUTAGE_MAX, "{longest:?}");
    for vip in &vips {
        let most = if moved.contains(vip) { 2 } else { 1 };
        let names = site.names(&answers, *vip);
        assert!(names.len() <= most, "{vip}: {names:?}");
    }
}

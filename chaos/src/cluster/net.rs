//! Each replica in its own network namespace, connected with the judge by one switch: links can be cut, lossy
//! or slow, each direction separately. Needs root, `ip`, `nft` and `tc`.
//!
//! ```text
//!   judge ── veth ─┐                      a packet filter where it arrives:
//!   replica 1 ─────┤ switch (a bridge,      from whom → drop, or drop some (numgen)
//!   replica 2 ─────┤ in a namespace)       a queue where it leaves (tbf): slow, and late when it is full
//!   replica 3 ─────┘
//! ```

use std::collections::BTreeMap;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

/// A directed link between replicas, by place.
pub type Link = (usize, usize);

/// A fault of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// All packets are dropped.
    Cut,
    /// This percentage of packets is dropped.
    Lossy(u8),
}

/// The switch and its connections. Removed on drop.
#[derive(Debug)]
pub struct Net {
    /// Prefix of the names of all namespaces.
    name: String,
    subnet: u8,
    places: usize,
    /// Faults of links, by the id of the injector: if two affect a link, the worse one applies.
    treated: BTreeMap<u64, Vec<(Link, Treatment)>>,
}

impl Net {
    /// Creates a switch connected to the judge.
    ///
    /// # Errors
    /// Not root, or a program is missing.
    pub fn new() -> Result<Self> {
        // A new name and subnet each time: the kernel removes earlier ones with a delay.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (id, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let subnet = u8::try_from(id.wrapping_add(number) % 250)?;
        let name = format!("rc{id}x{number}");
        let net = Self { name, subnet, places: 0, treated: BTreeMap::new() };
        let switch = net.switch();
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "br0", "up"])?;
        let (judge, address) = (net.name.as_str(), format!("{}/24", net.judge()));
        ip(&["link", "add", judge, "type", "veth", "peer", "name", "judge", "netns", &switch])?;
        ip(&["-n", &switch, "link", "set", "judge", "master", "br0", "up"])?;
        ip(&["addr", "add", &address, "dev", judge])?;
        ip(&["link", "set", judge, "up"])?;
        Ok(net)
    }

    fn switch(&self) -> String {
        format!("{}-sw", self.name)
    }

    fn namespace(&self, place: usize) -> String {
        format!("{}-{}", self.name, place + 1)
    }

    /// Address of a replica.
    #[must_use]
    pub fn ip(&self, place: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, self.subnet, u8::try_from(place + 1).unwrap_or(u8::MAX))
    }

    /// Address of the judge, which is also that of servers on this machine.
    #[must_use]
    pub fn judge(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, self.subnet, 254)
    }

    /// Creates a place for a replica, unless it exists already.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn add_place(&mut self, place: usize) -> Result<()> {
        if place < self.places {
            return Ok(());
        }
        let switch = self.switch();
        let (ns, port) = (self.namespace(place), format!("p{}", place + 1));
        ip(&["netns", "add", &ns])?;
        self.places += 1;
        ip(&["-n", &ns, "link", "set", "lo", "up"])?;
        let peer = ["peer", "name", "eth0", "netns", &ns];
        ip(&[&["-n", &switch, "link", "add", &port, "type", "veth"][..], &peer].concat())?;
        ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"])?;
        ip(&["-n", &ns, "addr", "add", &format!("{}/24", self.ip(place)), "dev", "eth0"])?;
        ip(&["-n", &ns, "link", "set", "eth0", "up"])
    }

    /// A program in a replica's namespace, started with `env`: the variables are for the
    /// program, not for its launcher.
    #[must_use]
    pub fn command(&self, place: usize, vars: &[(&str, String)], program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(place), "env"]);
        command.args(vars.iter().map(|(name, value)| format!("{name}={value}"))).arg(program);
        command
    }

    /// Injects faults of links, replacing those of the same `who`; [`Net::repair`] removes them.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn treat(&mut self, who: u64, links: Vec<(Link, Treatment)>) -> Result<()> {
        self.treated.insert(who, links);
        self.load()
    }

    /// Removes the faults that `who` injected.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn repair(&mut self, who: u64) -> Result<()> {
        if self.treated.remove(&who).is_none() {
            return Ok(());
        }
        self.load()
    }

    /// Limits the bandwidth of a replica's outgoing packets; `None`: no limit.
    ///
    /// # Errors
    /// `tc` refuses.
    pub fn narrow(&self, place: usize, kbit: Option<u32>) -> Result<()> {
        let ns = self.namespace(place);
        match kbit {
            Some(kbit) => {
                let rate = format!("{kbit}kbit");
                let queue = ["rate", &rate, "burst", "3kb", "latency", "400ms"];
                let to = ["-n", &ns, "qdisc", "replace", "dev", "eth0", "root", "tbf"];
                run("tc", &[&to[..], &queue].concat(), None).map(drop)
            }
            None => run("tc", &["-n", &ns, "qdisc", "del", "dev", "eth0", "root"], None).map(drop),
        }
    }

    /// Number of packets that the filters have dropped so far.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn dropped(&self) -> Result<u64> {
        let mut dropped = 0;
        for place in 0..self.places {
            let list = ["netns", "exec", &self.namespace(place), "nft", "list", "counters"];
            let said = run("ip", &list, None)?;
            let mut words = said.split_whitespace();
            while let Some(word) = words.next() {
                if word == "packets" {
                    dropped += words.next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
                }
            }
        }
        Ok(dropped)
    }

    /// Writes the filters of all places, each in one transaction; counters are kept.
    fn load(&self) -> Result<()> {
        for place in 0..self.places {
            let mut script = String::from(
                "add table inet chaos\nadd counter inet chaos dropped\n\
                 add chain inet chaos in { type filter hook input priority 0; }\n\
                 flush chain inet chaos in\n",
            );
            for from in 0..self.places {
                let of = |((a, b), treatment): &(Link, Treatment)| {
                    ((*a, *b) == (from, place)).then_some(*treatment)
                };
                let worst = self.treated.values().flatten().filter_map(of).max_by_key(severity);
                let chance = match worst {
                    None => continue,
                    Some(Treatment::Cut) => String::new(),
                    Some(Treatment::Lossy(percent)) => {
                        format!("numgen random mod 100 < {percent} ")
                    }
                };
                let rule = format!("ip saddr {} {chance}counter name dropped drop", self.ip(from));
                script.push_str(&format!("add rule inet chaos in {rule}\n"));
            }
            let args = ["netns", "exec", &self.namespace(place), "nft", "-f", "-"];
            run("ip", &args, Some(&script))?;
        }
        Ok(())
    }
}

fn severity(treatment: &Treatment) -> u8 {
    match treatment {
        Treatment::Cut => 100,
        Treatment::Lossy(percent) => *percent,
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        _ = ip(&["link", "del", &self.name]);
        let all = (0..self.places).map(|place| self.namespace(place)).chain([self.switch()]);
        for name in all {
            // Its links are deleted with it. The switch may not exist if creating it failed.
            _ = ip(&["netns", "del", &name]);
        }
    }
}

fn ip(args: &[&str]) -> Result<()> {
    run("ip", args, None).map(drop)
}

/// Runs a program. Returns its output.
fn run(program: &str, args: &[&str], input: Option<&str>) -> Result<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {program}"))?;
    let mut stdin = child.stdin.take().context("its input")?;
    stdin.write_all(input.unwrap_or_default().as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", args.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

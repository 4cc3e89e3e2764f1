//! A virtual IP whose holder dies, or is asked to give it up: how long a client in the same segment is not answered.
//! Three hosts with agents and three replicas, beside three hosts with keepalived (VRRP), in turn. The service behind
//! the address is the same: an echo by UDP, asked every 5 ms.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::BenchOptions;
use super::namespaces::{Namespace, Site, enter, ip, plug, quiet, until};
use super::report::{Budget, Machine, print_budgets};
use crate::cluster::find_romanad;

const VIP: &str = "10.77.0.100";
const PORT: u16 = 7777;
const HOSTS: usize = 3;
const CLIENT: &str = "10.77.0.200";
/// Interval of questions.
const PERIOD: Duration = Duration::from_millis(5);
/// Time without faults before and after each, so that every host could take over.
const CALM: Duration = Duration::from_secs(2);
/// A VIP that does not come back within this time is lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// Hosts that hold the address in turn.
trait Cluster {
    /// Kills every process of a host's namespace, and takes its cable out.
    fn kill(&mut self, host: usize) -> Result<()>;
    /// Asks a host to give the address up.
    fn ask_back(&mut self, host: usize) -> Result<()>;
    /// Puts a host back to work, after either.
    fn restore(&mut self, host: usize) -> Result<()>;
}

/// Dropped in this order, so that nothing runs without its files.
struct Romana<'a> {
    hosts: Vec<Namespace>,
    site: Site<'a>,
    romana: PathBuf,
}

/// Agents enforce no policy: they would have to find the packet filter first.
const AGENT: &[&str] = &["--policy=false"];

impl Romana<'_> {
    fn call(&self, args: &[&str]) -> bool {
        let mut command = Command::new(&self.romana);
        command.args(["-r", &self.site.servers()]).args(args);
        command.output().is_ok_and(|output| output.status.success())
    }

    fn must(&self, args: &[&str]) -> Result<()> {
        ensure!(self.call(args), "romana {args:?} failed");
        Ok(())
    }
}

impl Cluster for Romana<'_> {
    fn kill(&mut self, host: usize) -> Result<()> {
        self.site.cable(&format!("h{host}"), "down")?;
        self.hosts[host - 1].kill_all()
    }

    fn ask_back(&mut self, host: usize) -> Result<()> {
        self.must(&["host", "drain", &format!("h{host}")])
    }

    fn restore(&mut self, host: usize) -> Result<()> {
        let name = format!("h{host}");
        self.site.cable(&name, "up")?;
        if self.hosts[host - 1].children.is_empty() {
            self.site.agent(&mut self.hosts[host - 1], host, AGENT)?;
        }
        self.must(&["host", "up", &name])
    }
}

struct Keepalived {
    hosts: Vec<Namespace>,
    switch: Namespace,
    dir: tempfile::TempDir,
    /// Seconds between advertisements.
    interval: f64,
}

impl Keepalived {
    fn start(prefix: &str, interval: f64) -> Result<(Self, Namespace)> {
        let dir = tempfile::Builder::new().prefix("romana-chaos-").tempdir()?;
        let switch = Namespace::new(format!("{prefix}-sw"))?;
        ip(&["-n", &switch.name, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &switch.name, "link", "set", "br0", "up"])?;
        let client = Namespace::new(format!("{prefix}-cl"))?;
        plug(&client, &switch, CLIENT)?;
        let mut started = Self { switch, hosts: Vec::new(), dir, interval };
        for n in 1..=HOSTS {
            let host = Namespace::new(format!("{prefix}-h{n}"))?;
            plug(&host, &started.switch, &format!("10.77.0.{n}"))?;
            started.hosts.push(host);
            started.daemon(n)?;
        }
        Ok((started, client))
    }

    fn daemon(&mut self, n: usize) -> Result<()> {
        let (priority, interval) = (100 + n, self.interval);
        let config = format!(
            "global_defs {{\n  vrrp_version 3\n}}\nvrrp_instance one {{\n  state BACKUP\n  nopreempt\n  \
             interface eth0\n  virtual_router_id 51\n  priority {priority}\n  advert_int {interval}\n  \
             virtual_ipaddress {{\n    {VIP}/32\n  }}\n}}\n"
        );
        let file = |what: &str| self.dir.path().join(format!("h{n}.{what}"));
        std::fs::write(file("conf"), config)?;
        let host = &mut self.hosts[n - 1];
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &host.name, "keepalived", "--dont-fork", "--vrrp"]);
        command.arg("--log-console").arg("--use-file").arg(file("conf"));
        command.arg("--pid").arg(file("pid")).arg("--vrrp_pid").arg(file("vrrp.pid"));
        host.children.push(quiet(command, &file("log"))?);
        Ok(())
    }
}

impl Cluster for Keepalived {
    fn kill(&mut self, host: usize) -> Result<()> {
        ip(&["-n", &self.switch.name, "link", "set", &format!("h{host}"), "down"])?;
        self.hosts[host - 1].kill_all()
    }

    /// It says on the link that it goes.
    fn ask_back(&mut self, host: usize) -> Result<()> {
        for mut child in self.hosts[host - 1].children.drain(..) {
            let process = child.id().to_string();
            let asked = Command::new("kill").args(["-TERM", &process]).status()?;
            ensure!(asked.success(), "kill -TERM {process} failed");
            child.wait()?;
        }
        Ok(())
    }

    fn restore(&mut self, host: usize) -> Result<()> {
        // What a killed daemon left is gone after a reboot.
        let (name, vip) = (self.hosts[host - 1].name.clone(), format!("{VIP}/32"));
        _ = ip(&["-n", &name, "addr", "del", &vip, "dev", "eth0"]);
        ip(&["-n", &self.switch.name, "link", "set", &format!("h{host}"), "up"])?;
        self.daemon(host)
    }
}

/// Runs on a dedicated thread, because a thread cannot leave a namespace.
pub(super) async fn run(options: &BenchOptions, moves: usize) -> Result<Value> {
    let found = Command::new("keepalived").arg("--version").output();
    found.context("keepalived is missing: apt-get install keepalived")?;
    let romanad = find_romanad(options.romanad.as_deref())?;
    let machine = Machine::look();
    let measured = tokio::task::spawn_blocking(move || {
        let thread = std::thread::spawn(move || measure(&romanad, moves));
        thread.join().unwrap_or_else(|_| bail!("the measurement panicked"))
    });
    let [ours, usual, quick] = measured.await??;
    println!(
        "Virtual IP on {HOSTS} hosts: {moves} deaths of the holder (processes killed, cable out) and {moves} planned \
         moves of each, in turn; time without an answer."
    );
    machine.print();
    let mut rows = vec![
        Budget::at_most("holder dies, p99, ms", quantile(&ours.deaths, 99), 2_000.0),
        Budget::note("… p50, ms", quantile(&ours.deaths, 50)),
        Budget::at_most("planned move, p99, ms", quantile(&ours.planned, 99), 100.0),
        Budget::note("… p50, ms", quantile(&ours.planned, 50)),
    ];
    for (name, theirs) in [("keepalived, each 1 s", &usual), ("keepalived, each 0.3 s", &quick)] {
        for (what, figures) in [("holder dies", &theirs.deaths), ("planned move", &theirs.planned)]
        {
            for (shown, at) in [("p99", 99), ("p50", 50)] {
                let what = format!("{name}: {what}, {shown}, ms");
                rows.push(Budget::note(&what, quantile(figures, at)));
            }
        }
    }
    print_budgets(&rows);
    let figures = |of: &Figures| {
        let all = |times: &[Duration]| times.iter().map(ms).collect::<Vec<_>>();
        json!({"deaths_ms": all(&of.deaths), "planned_ms": all(&of.planned)})
    };
    Ok(json!({"bench": "vip", "machine": machine, "ours": figures(&ours),
        "keepalived_1s": figures(&usual), "keepalived_300ms": figures(&quick)}))
}

/// Times without an answer.
#[derive(Default)]
struct Figures {
    deaths: Vec<Duration>,
    planned: Vec<Duration>,
}

fn measure(romanad: &Path, moves: usize) -> Result<[Figures; 3]> {
    let prefix = std::process::id();
    let (mut usual, first) = Keepalived::start(&format!("bk{prefix}"), 1.0)?;
    let (mut quick, second) = Keepalived::start(&format!("bq{prefix}"), 0.3)?;
    let site = Site::start(romanad, "bv")?;
    let client = site.machine("cl", CLIENT)?;
    let mut ours =
        Romana { site, romana: romanad.with_file_name("romana"), hosts: Vec::with_capacity(HOSTS) };
    for n in 1..=HOSTS {
        ours.hosts.push(ours.site.host(n, AGENT)?);
    }
    until("the virtual IP is requested", || ours.call(&["vip", "add", "bench", VIP]))?;
    let serving = [&ours.hosts, &usual.hosts, &quick.hosts].map(|hosts| serve(hosts));
    let [_ours, _usual, _quick] = serving;
    let mut figures = [Figures::default(), Figures::default(), Figures::default()];
    for round in 1..=moves {
        let [a, b, c] = &mut figures;
        one(&mut ours, &client, a)?;
        one(&mut usual, &first, b)?;
        one(&mut quick, &second, c)?;
        let last = |of: &Figures| of.deaths.last().map_or(0.0, ms);
        let (ours, theirs) = (last(&figures[0]), last(&figures[1]));
        eprintln!("round {round} of {moves}: ours {ours:.0} ms, keepalived {theirs:.0} ms");
    }
    Ok(figures)
}

/// One death of the holder, and one planned move.
fn one(cluster: &mut impl Cluster, client: &Namespace, figures: &mut Figures) -> Result<()> {
    let lost = across(client, |holder| cluster.kill(holder))?;
    figures.deaths.push(lost.0);
    cluster.restore(lost.1)?;
    let lost = across(client, |holder| cluster.ask_back(holder))?;
    figures.planned.push(lost.0);
    cluster.restore(lost.1)
}

/// Asks all the time, and does something to the holder. Returns the longest time without an answer, and who
/// was the holder.
fn across(
    client: &Namespace,
    fault: impl FnOnce(usize) -> Result<()>,
) -> Result<(Duration, usize)> {
    let (path, stop) = (client.path(), Arc::new(AtomicBool::new(false)));
    let (tell, told) = std::sync::mpsc::channel();
    let stopped = Arc::clone(&stop);
    let asking = std::thread::spawn(move || -> Result<BTreeMap<Instant, usize>> {
        enter(&path)?;
        ask(&stopped, &tell)
    });
    let calm = Instant::now() + CALM;
    let mut holder = told.recv_timeout(PATIENCE).context("nobody answers")?;
    while Instant::now() < calm {
        holder = told.recv_timeout(PATIENCE).context("nobody answers")?;
    }
    fault(holder)?;
    while told.recv_timeout(PATIENCE).context("no other host answers")? == holder {}
    let calm = Instant::now() + CALM;
    while Instant::now() < calm {
        told.recv_timeout(PATIENCE).context("nobody answers any more")?;
    }
    stop.store(true, Ordering::Relaxed);
    let answers = asking.join().unwrap_or_else(|_| bail!("the client panicked"))?;
    let times: Vec<Instant> = answers.keys().copied().collect();
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max();
    Ok((longest.context("two answers")?, holder))
}

/// Asks until `stop`. Returns when each question that was answered was asked, and by whom it was answered.
fn ask(
    stop: &AtomicBool,
    tell: &std::sync::mpsc::Sender<usize>,
) -> Result<BTreeMap<Instant, usize>> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.set_read_timeout(Some(PERIOD))?;
    let to: SocketAddr = format!("{VIP}:{PORT}").parse()?;
    let (mut asked, mut answered) = (Vec::<Instant>::new(), BTreeMap::new());
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if Instant::now() >= next {
            next = Instant::now() + PERIOD;
            let number = u64::try_from(asked.len())?;
            asked.push(Instant::now());
            // It is unreachable for now, perhaps.
            _ = socket.send_to(&number.to_be_bytes(), to);
        }
        let mut bytes = [0; 16];
        let Ok((9, _)) = socket.recv_from(&mut bytes) else { continue };
        let number = usize::try_from(u64::from_be_bytes(bytes[..8].try_into()?))?;
        let host = usize::from(bytes[8]);
        answered.extend(asked.get(number).map(|at| (*at, host)));
        // The other side may have stopped listening.
        _ = tell.send(host);
    }
    Ok(answered)
}

/// Servers on hosts; they end when this is dropped.
struct Serving(Arc<AtomicBool>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Answers on every host with its number, if the address is there.
fn serve(hosts: &[Namespace]) -> Serving {
    let stop = Arc::new(AtomicBool::new(false));
    for (number, host) in (1_u8..).zip(hosts) {
        let (path, stop) = (host.path(), Arc::clone(&stop));
        std::thread::spawn(move || {
            if let Err(error) = answer(&path, number, &stop) {
                eprintln!("host {number} does not answer: {error:#}");
            }
        });
    }
    Serving(stop)
}

fn answer(path: &str, number: u8, stop: &AtomicBool) -> Result<()> {
    enter(path)?;
    // The address comes later.
    std::fs::write("/proc/sys/net/ipv4/ip_nonlocal_bind", "1")?;
    let socket = UdpSocket::bind((VIP, PORT))?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut bytes = [0; 16];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut bytes) else { continue };
        // It fails if the address has gone since.
        _ = socket.send_to(&[&bytes[..length], &[number]].concat(), from);
    }
    Ok(())
}

/// The time, in milliseconds, that this percentage of times does not exceed.
fn quantile(times: &[Duration], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).map_or(0.0, ms)
}

fn ms(time: &Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_times() {
        let times: Vec<Duration> = (1..=20).rev().map(Duration::from_millis).collect();
        assert_eq!(quantile(&times, 50), 10.0);
        assert_eq!(quantile(&times, 99), 20.0);
        assert_eq!(quantile(&[], 99), 0.0);
    }
}

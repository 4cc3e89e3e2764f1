//! CNI ADD and DEL: our plugin, with an agent and three replicas, compared with Debian's bridge + host-local,
//! in turn. Everything runs in a dedicated network namespace; plugins are executed as by a runtime.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::BenchOptions;
use super::namespaces::{Namespace, quiet, start_replicas, until};
use super::report::{Budget, Machine, print_budgets};
use crate::cluster::find_romanad;

/// Directory of Debian's `containernetworking-plugins`.
const PEER_DIR: &str = "/usr/lib/cni";
/// Concurrent ADDs.
const AT_ONCE: usize = 16;
/// Numbers of existing pods for which the agent's processor time per ADD and DEL is measured.
const CROWDS: [usize; 3] = [100, 500, 1_000];
const MEASURED: usize = 50;
/// `utime` and `stime` in `/proc/PID/stat` are in hundredths of a second (proc(5), USER_HZ).
const TICK_MS: f64 = 10.0;

/// A plugin and its configuration.
#[derive(Clone)]
struct Plugin {
    program: PathBuf,
    config: String,
}

impl Plugin {
    fn call(&self, command: &str, container: &Namespace) -> Result<Duration> {
        let start = Instant::now();
        let mut child = Command::new(&self.program)
            .env_clear()
            .envs([
                ("CNI_COMMAND", command),
                ("CNI_CONTAINERID", &container.name),
                ("CNI_NETNS", &container.path()),
                ("CNI_IFNAME", "eth0"),
                ("CNI_PATH", PEER_DIR),
                ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("its input")?;
        stdin.write_all(self.config.as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        let took = start.elapsed();
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{command} by {}: {said}", self.program.display());
        Ok(took)
    }
}

/// Results of one plugin.
struct Figures {
    name: &'static str,
    plugin: Plugin,
    add: Histogram<u64>,
    del: Histogram<u64>,
    /// Run time of the program without work (the command VERSION).
    version: Histogram<u64>,
    rate: f64,
}

impl Figures {
    fn new(name: &'static str, plugin: Plugin) -> Result<Self> {
        let new = || Histogram::new(3);
        Ok(Self { name, plugin, add: new()?, del: new()?, version: new()?, rate: 0.0 })
    }

    fn one(&mut self, container: &Namespace, count: bool) -> Result<()> {
        let (add, del) = (self.plugin.call("ADD", container)?, self.plugin.call("DEL", container)?);
        let version = self.plugin.call("VERSION", container)?;
        if count {
            self.version.record(u64::try_from(version.as_micros())?)?;
            self.add.record(u64::try_from(add.as_micros())?)?;
            self.del.record(u64::try_from(del.as_micros())?)?;
        }
        Ok(())
    }

    /// ADDs of many containers, some concurrently: rate per second.
    fn many(&mut self, host: &Namespace, containers: &[Namespace]) -> Result<()> {
        let start = Instant::now();
        let results: Vec<Result<()>> = std::thread::scope(|scope| {
            let share = containers.len().div_ceil(AT_ONCE);
            let run = |containers: &[Namespace]| -> Result<()> {
                host.enter()?;
                containers.iter().try_for_each(|c| self.plugin.call("ADD", c).map(|_| ()))
            };
            let threads: Vec<_> =
                containers.chunks(share).map(|some| scope.spawn(move || run(some))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| bail!("a panic")))
                .collect()
        });
        let took = start.elapsed();
        results.into_iter().collect::<Result<Vec<_>>>()?;
        self.rate = self.rate.max(containers.len() as f64 / took.as_secs_f64());
        containers.iter().try_for_each(|c| self.plugin.call("DEL", c).map(|_| ()))
    }
}

/// Runs on a dedicated thread, because a thread cannot leave a namespace.
pub(super) async fn run(options: &BenchOptions, count: usize) -> Result<Value> {
    let romanad = find_romanad(options.romanad.as_deref())?;
    let machine = Machine::look();
    let measured = tokio::task::spawn_blocking(move || {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| measure(&romanad, count));
            thread.join().unwrap_or_else(|_| bail!("the measurement panicked"))
        })
    });
    let ([ours, theirs], crowds) = measured.await??;
    println!(
        "CNI: {count} ADDs and DELs of each in turn, then {AT_ONCE} at once; the plugins are executed as a \
         runtime does."
    );
    machine.print();
    let ms = |figures: &Histogram<u64>, quantile| figures.value_at_quantile(quantile) as f64 / 1e3;
    let mut rows = vec![
        Budget::at_most("our ADD through three replicas, p50, ms", ms(&ours.add, 0.5), 8.0),
        Budget::at_most("… p99, ms", ms(&ours.add, 0.99), 20.0),
        Budget::at_least("16 at once, ADDs per second", ours.rate, 300.0),
        Budget::note("our DEL, p50, ms", ms(&ours.del, 0.5)),
        Budget::note("… p99, ms", ms(&ours.del, 0.99)),
        Budget::note("our VERSION (start and end of the program), p50, ms", ms(&ours.version, 0.5)),
    ];
    for (what, value) in [
        ("ADD, p50, ms", ms(&theirs.add, 0.5)),
        ("ADD, p99, ms", ms(&theirs.add, 0.99)),
        ("DEL, p50, ms", ms(&theirs.del, 0.5)),
        ("VERSION, p50, ms", ms(&theirs.version, 0.5)),
        ("16 at once, ADDs per second", theirs.rate),
    ] {
        rows.push(Budget::note(&format!("{}: {what}", theirs.name), value));
    }
    for (pods, Cost { own, kernel }) in CROWDS.iter().zip(&crowds) {
        let what = format!("agent's own processor time per ADD and DEL among {pods} pods, ms");
        rows.push(Budget::note(&what, *own));
        rows.push(Budget::note("… and in the kernel", *kernel));
    }
    if let [few, .., many] = &crowds[..] {
        let ratio = many.own / few.own.max(0.1);
        rows.push(Budget::at_most("own, among the most over among the fewest", ratio, 1.5));
    }
    print_budgets(&rows);
    let figures = |figures: &Figures| {
        json!({"add_p50_ms": ms(&figures.add, 0.5), "add_p99_ms": ms(&figures.add, 0.99),
            "del_p50_ms": ms(&figures.del, 0.5), "del_p99_ms": ms(&figures.del, 0.99),
            "version_p50_ms": ms(&figures.version, 0.5), "at_once_per_s": figures.rate})
    };
    Ok(
        json!({"ours": figures(&ours), "peer": figures(&theirs), "own_processor_ms": crowds.iter().map(|cost| cost.own).collect::<Vec<_>>()}),
    )
}

/// Processor time of the agent per ADD and DEL, with an increasing number of pods on the host.
fn crowds(plugin: &Plugin, host: &Namespace, prefix: &str) -> Result<Vec<Cost>> {
    let agent = host.children.last().context("the agent")?.id();
    let mut pods = Vec::new();
    let mut costs = Vec::new();
    for crowd in CROWDS {
        while pods.len() < crowd {
            let pod = Namespace::new(format!("{prefix}-p{}", pods.len()))?;
            plugin.call("ADD", &pod)?;
            pods.push(pod);
        }
        let others: Result<Vec<_>> =
            (0..MEASURED).map(|n| Namespace::new(format!("{prefix}-x{n}"))).collect();
        let others = others?;
        let before = Cost::of(agent)?;
        for other in &others {
            plugin.call("ADD", other)?;
        }
        for other in &others {
            plugin.call("DEL", other)?;
        }
        let after = Cost::of(agent)?;
        let each = |after: f64, before: f64| (after - before) / MEASURED as f64;
        let own = each(after.own, before.own);
        costs.push(Cost { own, kernel: each(after.kernel, before.kernel) });
    }
    pods.iter().try_for_each(|pod| plugin.call("DEL", pod).map(|_| ()))?;
    Ok(costs)
}

/// Processor time, milliseconds.
struct Cost {
    own: f64,
    kernel: f64,
}

impl Cost {
    /// Processor time of a process since its start.
    fn of(process: u32) -> Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The name, in parentheses, may contain spaces.
        let (_, rest) = stat.rsplit_once(')').context("a name")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ms = |at: usize| -> Result<f64> {
            let ticks: f64 = fields.get(at).context("a field")?.parse()?;
            Ok(ticks * TICK_MS)
        };
        Ok(Self { own: ms(11)?, kernel: ms(12)? })
    }
}

fn measure(romanad: &Path, count: usize) -> Result<([Figures; 2], Vec<Cost>)> {
    let bridge = Path::new(PEER_DIR).join("bridge");
    ensure!(
        bridge.is_file(),
        "{} is missing: apt-get install containernetworking-plugins",
        bridge.display()
    );
    let dir = tempfile::Builder::new().prefix("romana-chaos-").tempdir()?;
    let prefix = format!("bc{}", std::process::id());
    let mut host = Namespace::new(format!("{prefix}-host"))?;
    host.enter()?;
    let ours = start(romanad, dir.path(), &mut host)?;
    let alone = ours.clone();
    let theirs = json!({"cniVersion": "1.0.0", "name": "peer", "type": "bridge", "bridge": "peer0",
        "ipam": {"type": "host-local", "subnet": "10.200.0.0/16", "dataDir": dir.path().join("peer")}});
    let theirs = Plugin { program: bridge, config: theirs.to_string() };
    let mut both = [Figures::new("romana", ours)?, Figures::new("bridge + host-local", theirs)?];
    for number in 0..count + 5 {
        for figures in &mut both {
            let container = Namespace::new(format!("{prefix}-{number}"))?;
            // The first ones are warm-up.
            figures.one(&container, number >= 5)?;
        }
    }
    for round in 0..3 {
        for figures in &mut both {
            let name = |n| format!("{prefix}-m{round}-{n}");
            let containers: Result<Vec<_>> =
                (0..AT_ONCE * 6).map(|n| Namespace::new(name(n))).collect();
            figures.many(&host, &containers?)?;
        }
    }
    let crowds = crowds(&alone, &host, &prefix)?;
    Ok((both, crowds))
}

/// Starts three replicas and an agent in this thread's namespace.
fn start(romanad: &Path, dir: &Path, host: &mut Namespace) -> Result<Plugin> {
    let servers = start_replicas(romanad, dir, "127.0.0.1", 26, host)?;
    let (socket, state) = (dir.join("agent.sock"), dir.join("agent"));
    let mut agent = Command::new(romanad.with_file_name("romana-agent"));
    agent.args(["--server", &servers.join(","), "--hostname", "h1", "--register"]);
    agent.args(["--host-ip", "10.9.0.1", "--mtu", "1500", "--set-sysctls"]);
    agent.arg("--socket").arg(&socket).arg("--state-dir").arg(&state);
    host.children.push(quiet(agent, &dir.join("agent.log"))?);
    let config = json!({"cniVersion": "1.1.0", "name": "romana", "type": "romana-cni",
        "socket": socket, "stateDir": state});
    let program = romanad.with_file_name("romana-cni");
    let plugin = Plugin { program, config: config.to_string() };
    let container = Namespace::new(format!("{}-probe", host.name))?;
    until("the agent is ready", || plugin.call("STATUS", &container).is_ok())?;
    Ok(plugin)
}

//! Time from a policy change until its rules are in a host's kernel, compared with writing a whole
//! table by `iptables-restore`: with a hundred, a thousand and ten thousand rules, all on one host; and
//! with ten thousand in the cluster, a thousand of them on that host. The time of arrival is the
//! kernel's notification (nfnetlink).
//!
//! Changes are measured separately (the agent has finished the previous one) and back to back (the kernel has
//! the previous one, but its `iptables-restore` has not exited yet, which takes another ten milliseconds).

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use romana_client::Client;
use romana_statemachine::command::AllocateAddress;
use romana_statemachine::policy::{Peer, Policy, Port, Protocol, Rule, Target, Traffic};
use serde_json::{Value, json};

use super::BenchOptions;
use super::crowd;
use super::lean::Lean;
use super::namespaces::{Namespace, Site, enter};
use super::report::{Budget, Machine, print_budgets};
use crate::cluster::find_romanad;

const PATIENCE: Duration = Duration::from_secs(60);
/// Poll interval.
const LOOK: Duration = Duration::from_millis(200);
/// Poll interval of the agent's status.
const GLANCE: Duration = Duration::from_millis(2);
/// Address of the agent's status.
const AGENT: &str = "10.77.0.1:9607";
/// Rules of a policy.
const RULES: usize = 10;
/// Endpoints on the host, each of its own tenant.
const ENDPOINTS: usize = 100;
/// Warm-up changes, not counted.
const WARM_UP: usize = 10;
/// Number of whole-table writes.
const RESTORES: usize = 5;

/// Results for a number of rules.
struct Measured {
    /// Rules on the host.
    rules: usize,
    /// Rules on other hosts.
    elsewhere: usize,
    /// From the acknowledgement, separate changes.
    answered: Histogram<u64>,
    /// From the request, separate changes.
    asked: Histogram<u64>,
    /// From the acknowledgement, back to back.
    in_a_row: Histogram<u64>,
    /// Writing the whole table, median.
    whole: Duration,
}

/// Runs on a dedicated thread, because a thread cannot leave a namespace.
pub(super) async fn run(options: &BenchOptions, changes: usize) -> Result<Value> {
    let romanad = find_romanad(options.romanad.as_deref())?;
    let machine = Machine::look();
    let measured = tokio::task::spawn_blocking(move || {
        let of = romanad.clone();
        let thread = std::thread::spawn(move || measure(&of, changes));
        let measured = thread.join().unwrap_or_else(|_| bail!("the measurement panicked"))?;
        let thread = std::thread::spawn(move || measure_crowd(&romanad, changes));
        let crowd = thread.join().unwrap_or_else(|_| bail!("the measurement panicked"))?;
        anyhow::Ok((measured, crowd))
    });
    let (measured, crowd) = measured.await??;
    println!(
        "Policy: {changes} changes of one policy, a host with {ENDPOINTS} endpoints, three replicas."
    );
    machine.print();
    let ms = |figures: &Histogram<u64>, quantile| figures.value_at_quantile(quantile) as f64 / 1e3;
    let mut rows = Vec::new();
    for Measured { rules, elsewhere, answered, asked, in_a_row, whole } in &measured {
        let whole = whole.as_secs_f64() * 1e3;
        let both = |figures| format!("p50 {:.2} p99 {:.2} ms", ms(figures, 0.5), ms(figures, 0.99));
        println!(
            "{rules:>6} rules, {elsewhere} elsewhere: acknowledged → kernel {}, in a row {}; asked → kernel {}; \
             whole table by iptables-restore {whole:.1} ms",
            both(answered),
            both(in_a_row),
            both(asked),
        );
        rows.push(
            json!({"rules": rules, "elsewhere": elsewhere, "answered_p50_ms": ms(answered, 0.5),
            "answered_p99_ms": ms(answered, 0.99), "asked_p50_ms": ms(asked, 0.5),
            "asked_p99_ms": ms(asked, 0.99), "row_p50_ms": ms(in_a_row, 0.5),
            "row_p99_ms": ms(in_a_row, 0.99), "whole_table_ms": whole}),
        );
    }
    if let (Some(first), Some(last)) = (measured.first(), measured.last()) {
        let growth = ms(&last.answered, 0.5) / ms(&first.answered, 0.5).max(1e-3);
        let spread = match &measured[..] {
            [_, alone, among, ..] => ms(&among.answered, 0.5) / ms(&alone.answered, 0.5).max(1e-3),
            _ => 1.0,
        };
        print_budgets(&[
            Budget::at_most(
                "one change among the most rules → kernel, p99, ms",
                ms(&last.answered, 0.99),
                30.0,
            ),
            Budget::note("p50 at the most rules over p50 at the fewest", growth),
            Budget::note("p50 with ten times the rules, nine tenths of them elsewhere", spread),
        ]);
    }
    let crowd = print_crowd(&crowd);
    Ok(json!({"rows": rows, "crowd": crowd}))
}

fn print_crowd(crowd: &Measured) -> Value {
    let ms = |figures: &Histogram<u64>, quantile| figures.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "{} endpoints and {} policies with labels: {} rules on the host, acknowledged → kernel p50 {:.2} p99 {:.2} \
         ms, in a row p50 {:.2} p99 {:.2} ms; whole table by iptables-restore {:.1} ms",
        crowd::ENDPOINTS,
        crowd::POLICIES,
        crowd.rules,
        ms(&crowd.answered, 0.5),
        ms(&crowd.answered, 0.99),
        ms(&crowd.in_a_row, 0.5),
        ms(&crowd.in_a_row, 0.99),
        crowd.whole.as_secs_f64() * 1e3,
    );
    print_budgets(&[
        Budget::at_most("one change in a crowd → kernel, p99, ms", ms(&crowd.answered, 0.99), 50.0),
        Budget::at_most("… in a row, p99, ms", ms(&crowd.in_a_row, 0.99), 50.0),
    ]);
    json!({"answered_p50_ms": ms(&crowd.answered, 0.5),
        "answered_p99_ms": ms(&crowd.answered, 0.99), "row_p99_ms": ms(&crowd.in_a_row, 0.99)})
}

fn measure(romanad: &Path, changes: usize) -> Result<Vec<Measured>> {
    let site = Site::start(romanad, "bp")?;
    let host = site.host(1, &["--iptables", "nft", "--metrics", AGENT])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = site.client(1).await?;
        let agent = Lean::open(AGENT.parse()?).await?;
        let mut run = Run { client, agent, port: 20_000, policies: 0, elsewhere: 0 };
        run.endpoints().await?;
        let mut measured = Vec::new();
        for (rules, elsewhere) in [(100, 0), (1_000, 0), (1_000, 9_000), (10_000, 9_000)] {
            run.spread(elsewhere / RULES).await?;
            run.grow(rules / RULES, &host).await?;
            let news = monitor(&host)?;
            let [asked, answered] = run.change(changes, &news, true).await?;
            let [_, in_a_row] = run.change(changes, &news, false).await?;
            drop(news);
            let whole = whole_table(&host)?;
            measured.push(Measured { rules, elsewhere, answered, asked, in_a_row, whole });
        }
        Ok(measured)
    })
}

/// The same on a host with a hundred rules, with labelled endpoints here and on other hosts, and
/// policies that select them by labels.
fn measure_crowd(romanad: &Path, changes: usize) -> Result<Measured> {
    let site = Site::start(romanad, "bq")?;
    let host = site.host(1, &["--iptables", "nft", "--metrics", AGENT])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = site.client(1).await?;
        let agent = Lean::open(AGENT.parse()?).await?;
        let mut run = Run { client, agent, port: 20_000, policies: 0, elsewhere: 0 };
        crowd::gather(&run.client).await?;
        run.endpoints().await?;
        run.grow(100 / RULES, &host).await?;
        let news = monitor(&host)?;
        let [asked, answered] = run.change(changes, &news, true).await?;
        let [_, in_a_row] = run.change(changes, &news, false).await?;
        drop(news);
        let whole = whole_table(&host)?;
        let (rules, elsewhere) = (100, crowd::POLICIES);
        Ok(Measured { rules, elsewhere, answered, asked, in_a_row, whole })
    })
}

/// The kernel's notifications of rules, with their times.
type News = Receiver<(Vec<u8>, Instant)>;

/// The nfnetlink group that announces nf_tables changes (`NFNLGRP_NFTABLES`).
const GROUP: u32 = 7;
/// Larger than any message.
const MESSAGE: usize = 1 << 20;
/// Receive buffer for the notifications of a whole table.
const ROOM: usize = 64 << 20;

/// Sends a notification for every rule that the host's kernel gets. Runs on a dedicated
/// thread in the host's namespace.
fn monitor(host: &Namespace) -> Result<News> {
    let (tell, news) = channel();
    let (ready, wait) = channel();
    let path = host.path();
    std::thread::spawn(move || {
        let opened = enter(&path).and_then(|()| {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.set_rx_buf_sz(ROOM)?;
            socket.add_membership(GROUP)?;
            Ok(socket)
        });
        let socket = match opened {
            Ok(socket) => socket,
            Err(error) => return drop(ready.send(Err(error))),
        };
        drop(ready.send(Ok(())));
        // Lost notifications show as a timeout of the receiver.
        loop {
            let mut said = Vec::with_capacity(MESSAGE);
            match socket.recv(&mut said, 0) {
                Ok(_) if tell.send((said, Instant::now())).is_ok() => {}
                Err(error) => eprintln!("chaos: the monitor lost something: {error}"),
                Ok(_) => return,
            }
        }
    });
    wait.recv().context("the monitor")??;
    Ok(news)
}

struct Run {
    client: Client,
    agent: Lean,
    /// Unique for every version of a policy.
    port: u16,
    policies: usize,
    elsewhere: usize,
}

impl Run {
    /// Creates one endpoint of each tenant on the host.
    async fn endpoints(&self) -> Result<()> {
        let asked = (0..ENDPOINTS).map(|n| {
            self.client.allocate(AllocateAddress {
                name: format!("a{n}").into(),
                host: "h1".into(),
                tenant: format!("t{n}").into(),
                segment: "default".into(),
                network: None,
                ip: None,
            })
        });
        try_join_all(asked).await?;
        Ok(())
    }

    /// Adds policies for tenants without endpoints on this host, up to this many.
    async fn spread(&mut self, policies: usize) -> Result<()> {
        for number in self.elsewhere..policies {
            let policy = self.policy(number);
            let name = format!("elsewhere-{number}").as_str().into();
            let applied_to = vec![Target::Tenant(name)];
            let name = format!("elsewhere-{number}").into();
            self.client.set_policy(Policy { name, applied_to, ..policy }).await?;
        }
        self.elsewhere = policies;
        Ok(())
    }

    /// A policy for one endpoint, from some tenants, to some ports.
    fn policy(&mut self, number: usize) -> Policy {
        self.port += 1;
        let tcp =
            |port| Traffic { protocol: Protocol::Tcp, ports: vec![Port::Number(port)], icmp: None };
        let tenant = |n: usize| format!("t{}", n % ENDPOINTS).as_str().into();
        let mut ingress: Vec<Rule> = (1..RULES)
            .map(|n| Rule {
                peers: vec![Peer::Tenant(tenant(number + n))],
                traffic: vec![tcp(u16::try_from(n).unwrap_or(1))],
            })
            .collect();
        ingress.push(Rule { peers: vec![Peer::Any], traffic: vec![tcp(self.port)] });
        Policy {
            name: format!("p{number}").into(),
            description: String::new(),
            applied_to: vec![Target::Tenant(tenant(number))],
            isolates_ingress: true,
            isolates_egress: false,
            ingress,
            egress: Vec::new(),
        }
    }

    /// Adds policies up to this many, and waits until the kernel has them.
    async fn grow(&mut self, policies: usize, host: &Namespace) -> Result<()> {
        if self.policies == policies {
            return Ok(());
        }
        for number in self.policies..policies {
            let policy = self.policy(number);
            self.client.set_policy(policy).await?;
        }
        self.policies = policies;
        // Poll instead: the monitor cannot keep up with so many rules at once.
        let last = format!("--dport {} ", self.port);
        let deadline = Instant::now() + PATIENCE;
        while !saved(host)?.contains(&last) {
            ensure!(Instant::now() < deadline, "the kernel did not get the rules");
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Times from request and from acknowledgement. `alone`: wait until the agent has finished the
    /// previous change, not only the kernel.
    async fn change(
        &mut self,
        changes: usize,
        news: &News,
        alone: bool,
    ) -> Result<[Histogram<u64>; 2]> {
        let mut figures = [Histogram::new(3)?, Histogram::new(3)?];
        for change in 0..WARM_UP + changes {
            let policy = self.policy(change * 7 % self.policies);
            let name = policy.name.clone();
            let asked = Instant::now();
            let done = self.client.set_policy(policy).await?;
            let answered = Instant::now();
            let there = seen(news, &format!("policy {name}, revision {}", done.revision))?;
            while alone && self.applied().await? < Some(done.revision.get()) {
                tokio::time::sleep(GLANCE).await;
            }
            if change < WARM_UP {
                continue;
            }
            for (figures, since) in figures.iter_mut().zip([asked, answered]) {
                let took = there.saturating_duration_since(since).as_micros();
                figures.record(u64::try_from(took)?.max(1))?;
            }
        }
        Ok(figures)
    }

    /// The revision whose policies are in the kernel, as reported by the agent.
    async fn applied(&mut self) -> Result<Option<u64>> {
        self.agent.call("GET", "/status", "").await?;
        let status: Value = serde_json::from_slice(self.agent.body())?;
        Ok(status["policy"]["applied"].as_u64())
    }
}

/// When the kernel got the rule with a comment.
fn seen(news: &News, comment: &str) -> Result<Instant> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let (said, at) = news.recv_timeout(left).context("the kernel did not get a rule")?;
        if said.windows(comment.len()).any(|part| part == comment.as_bytes()) {
            return Ok(at);
        }
    }
}

fn in_host(host: &Namespace, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &host.name, program]);
    command
}

/// The current table.
fn saved(host: &Namespace) -> Result<String> {
    let output = in_host(host, "iptables-nft-save").args(["-t", "filter"]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Writes the same table as a whole. Returns the median time.
fn whole_table(host: &Namespace) -> Result<Duration> {
    let saved = saved(host)?;
    let mut took = Vec::new();
    for _ in 0..RESTORES {
        let start = Instant::now();
        let mut child = in_host(host, "iptables-nft-restore").stdin(Stdio::piped()).spawn()?;
        child.stdin.take().context("its input")?.write_all(saved.as_bytes())?;
        ensure!(child.wait()?.success(), "iptables-restore failed");
        took.push(start.elapsed());
    }
    took.sort();
    took.get(RESTORES / 2).copied().context("no restore")
}

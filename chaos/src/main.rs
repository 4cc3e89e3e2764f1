//! `chaos`: tests a cluster under faults, or benchmarks it against etcd.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use romana_chaos::bench::{self, BenchOptions};
use romana_chaos::cluster::find_romanad;
use romana_chaos::nemesis::{Fault, KINDS, plan, possible};
use romana_chaos::oracle::LAWS;
use romana_chaos::report::{html, text};
use romana_chaos::run::{RunOptions, run};
use romana_chaos::soak::{SoakOptions, soak};
use romana_chaos::world;
use romana_statemachine::plural;

/// The judge: faults on real processes, laws, benchmarks beside etcd.
#[derive(Debug, Parser)]
#[command(name = "chaos", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Break a cluster under load and check every law. Exit code 1 if one was broken.
    Run(RunArgs),
    /// Run after run, each with other faults and sizes, all drawn from one seed. Exit code 1 if a law was broken.
    Soak(SoakArgs),
    /// Thousands of schedules in one process: the state machine, agents, kernels that are maps. Exit code 1 if a law
    /// was broken.
    World(WorldArgs),
    /// List the faults there are.
    Faults,
    /// List the laws that every run is judged by.
    Laws,
    /// Measure. Prints a table; asserts nothing.
    Bench(BenchArgs),
}

#[derive(Args, Debug)]
struct RunArgs {
    /// Seed of all dice; a random one if absent.
    #[arg(long)]
    seed: Option<u64>,
    /// How long to inject faults, seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Clients.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Replicas.
    #[arg(long, default_value_t = 3)]
    replicas: usize,
    /// Faults, separated by commas: kinds, sorts of them (process, network, disk, clock, kubernetes, members), all (but
    /// those of kubernetes), or none. `chaos faults` lists them. Absent: kill-leader; with --kubernetes
    /// kubernetes,kill-leader,pause.
    #[arg(long)]
    nemesis: Option<String>,
    /// From one fault to the next, milliseconds. Absent: 2000; with --kubernetes 15000, as it takes that long to notice
    /// that an API server is silent, and to start one.
    #[arg(long)]
    interval_ms: Option<u64>,
    /// Follow a real Kubernetes API server, whose objects change all the time: $KUBE_APISERVER, or what
    /// deploy/test-kubernetes.sh has built.
    #[arg(long)]
    kubernetes: bool,
    /// A disk whose fsync lies (with power faults): the run must fail. Shows that the judge sees.
    #[arg(long)]
    lying_disk: bool,
    /// The romanad program; found beside this one if absent.
    #[arg(long)]
    romanad: Option<PathBuf>,
    /// An older romanad, with which all replicas begin: the fault `upgrade` replaces it.
    #[arg(long)]
    previous: Option<PathBuf>,
    /// Directory for data and logs; the system's temporary directory if absent.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keep data and logs even when all is well.
    #[arg(long)]
    keep: bool,
    /// Print what was done and broken over time.
    #[arg(long)]
    timeline: bool,
    /// Write a report with plots to this file: one HTML page that needs nothing else.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Print the plan of faults, and run nothing.
    #[arg(long)]
    plan: bool,
}

#[derive(Args, Debug)]
struct SoakArgs {
    /// Seed of all rounds; a random one if absent.
    #[arg(long)]
    seed: Option<u64>,
    /// How long, seconds.
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// How long faults are injected in a round, seconds.
    #[arg(long, default_value_t = 30)]
    round: u64,
    /// Faults that may come; each round draws some of them. With `all,kubernetes` some rounds follow an API server.
    #[arg(long, default_value = "all")]
    nemesis: String,
    /// Go on after a broken law.
    #[arg(long)]
    keep_going: bool,
    /// Directory for reports of rounds that broke a law.
    #[arg(long)]
    reports: Option<PathBuf>,
    /// The romanad program; found beside this one if absent.
    #[arg(long)]
    romanad: Option<PathBuf>,
    /// Directory for data and logs; the system's temporary directory if absent.
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct WorldArgs {
    /// The first seed; a random one if absent.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds, one schedule each.
    #[arg(long, default_value_t = 2_000)]
    schedules: u64,
    /// Steps of a schedule.
    #[arg(long, default_value_t = 250)]
    steps: usize,
}

#[derive(Args, Debug)]
struct BenchArgs {
    #[command(subcommand)]
    what: bench::What,
    /// The romanad program; found beside this one if absent.
    #[arg(long, global = true)]
    romanad: Option<PathBuf>,
    /// Directory for the data of both; the system's temporary directory if absent.
    #[arg(long, global = true)]
    dir: Option<PathBuf>,
    /// Also write the figures to this file, as JSON.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

fn options(args: RunArgs) -> Result<RunOptions> {
    let (nemesis, interval_ms) = match args.kubernetes {
        true => ("kubernetes,kill-leader,pause", 15_000),
        false => ("kill-leader", 2_000),
    };
    let nemesis = args.nemesis.as_deref().unwrap_or(nemesis);
    let faults = Fault::list(nemesis).map_err(anyhow::Error::msg)?;
    Ok(RunOptions {
        seed: args.seed.unwrap_or_else(rand::random),
        seconds: args.seconds,
        clients: args.clients,
        replicas: args.replicas,
        faults,
        interval: Duration::from_millis(args.interval_ms.unwrap_or(interval_ms)),
        kubernetes: args.kubernetes,
        lying_disk: args.lying_disk,
        romanad: find_romanad(args.romanad.as_deref())?,
        previous: args.previous,
        parent: args.dir,
        keep: args.keep,
    })
}

async fn judge(args: RunArgs) -> Result<ExitCode> {
    let (timeline, page, plan_only) = (args.timeline, args.report.clone(), args.plan);
    let options = options(args)?;
    println!("{}", options.reproduce());
    if plan_only {
        for part in options.parts() {
            for strike in plan(&part) {
                println!("{:>9.2?} to {:>9.2?}  {}", strike.from, strike.until, strike.fault);
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let report = run(&options).await?;
    if timeline {
        print!("{}", text(&report.story));
    }
    for (name, value) in &report.story.facts {
        println!("{name:10} {value}");
    }
    let (gap, at) = report.story.gap;
    let ms = |nanos: u64| nanos / 1_000_000;
    println!(
        "longest time without an acknowledged write: {} ms, {} ms after the start",
        ms(gap),
        ms(at)
    );
    if let Some(page) = &page {
        std::fs::write(page, html(&report.story)).context("write the report")?;
        println!("report:    {}", page.display());
    }
    if let Some(kept) = &report.kept {
        println!("data and logs: {}", kept.display());
    }
    if report.violations.is_empty() {
        println!("verdict:   every law held");
        return Ok(ExitCode::SUCCESS);
    }
    for violation in &report.violations {
        println!("BROKEN {violation}");
    }
    println!(
        "verdict:   {}; again with\n{}",
        plural(report.violations.len(), "violation"),
        options.reproduce()
    );
    Ok(ExitCode::FAILURE)
}

async fn soaking(args: SoakArgs) -> Result<ExitCode> {
    let faults = Fault::list(&args.nemesis).map_err(anyhow::Error::msg)?;
    let options = SoakOptions {
        seed: args.seed.unwrap_or_else(rand::random),
        duration: Duration::from_secs(args.seconds),
        round: args.round,
        faults: possible(&faults),
        keep_going: args.keep_going,
        reports: args.reports,
        romanad: find_romanad(args.romanad.as_deref())?,
        parent: args.dir,
    };
    println!(
        "chaos soak --seed {} --seconds {} --round {}",
        options.seed, args.seconds, args.round
    );
    let total = soak(&options).await?;
    println!(
        "verdict:   a law was broken in {} of {}; {}, {}",
        total.broken,
        plural(total.rounds, "round"),
        plural(total.calls, "call"),
        plural(total.faults, "fault")
    );
    Ok(if total.broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn play_world(args: &WorldArgs) -> ExitCode {
    let first = args.seed.unwrap_or_else(|| rand::random::<u64>() >> 1);
    let started = std::time::Instant::now();
    for seed in first..first + args.schedules {
        let Err((steps, broken)) = world::run(seed, args.steps, None) else { continue };
        println!("BROKEN {broken}\nmade shorter:");
        let (steps, broken) = world::shrink(steps, broken, None);
        for (number, step) in steps.iter().enumerate() {
            println!("{number:>4}  {step:?}");
        }
        println!("BROKEN {broken}");
        println!("again with\nchaos world --seed {seed} --schedules 1 --steps {}", args.steps);
        return ExitCode::FAILURE;
    }
    let rate = args.schedules as f64 * 60.0 / started.elapsed().as_secs_f64();
    println!(
        "verdict:   every law held in {} of {} from seed {first} on; {rate:.0} a minute",
        plural(args.schedules, "schedule"),
        plural(args.steps, "step")
    );
    ExitCode::SUCCESS
}

async fn dispatch(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Run(args) => judge(args).await,
        Command::Soak(args) => soaking(args).await,
        Command::World(args) => Ok(play_world(&args)),
        Command::Faults => {
            for kind in KINDS {
                println!("{:16} {:9} {}", kind.name, kind.sort.as_str(), kind.about);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Laws => {
            for law in LAWS {
                println!("{:14} {}", law.name, law.says);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Bench(args) => {
            let BenchArgs { what, romanad, dir, json } = args;
            bench::run(what, BenchOptions { romanad, dir, json }).await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    // On Ctrl-C the future is dropped, which removes all our processes and directories.
    let result = tokio::select! {
        result = dispatch(Cli::parse()) => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    result.unwrap_or_else(|error| {
        eprintln!("chaos: {error:#}");
        ExitCode::from(3)
    })
}

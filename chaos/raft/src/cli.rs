//! The command line.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::lie::Lie;
use crate::{component_fuzz, sweep, watch, world};

/// Three replicas on simulated disks, networks and clocks.
#[derive(Debug, Parser)]
#[command(name = "chaos-raft", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one seed in this process. Exit code 1 if a law was broken.
    Run {
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// What all disks claim and do not do.
        #[arg(long, value_enum, default_value_t)]
        lie: Lie,
        /// Print what was done to whom.
        #[arg(long)]
        timeline: bool,
        /// Print what the replicas log.
        #[arg(long)]
        log: bool,
    },
    /// Run many seeds, each in a process of its own. Exit code 1 if a law was broken.
    Sweep {
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many.
        #[arg(long, default_value_t = 200)]
        count: u64,
        /// At once; as many as there are processors if absent.
        #[arg(long)]
        jobs: Option<usize>,
        /// What all disks claim and do not do.
        #[arg(long, value_enum, default_value_t)]
        lie: Lie,
        /// Stop at the first broken law.
        #[arg(long)]
        first: bool,
    },
    /// Tell stories of the log and of the history alone, each with other dice. Exit code 1 if one ends badly.
    Stories {
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many of each.
        #[arg(long, default_value_t = 20_000)]
        count: u64,
        /// What all disks claim and do not do.
        #[arg(long, value_enum, default_value_t)]
        lie: Lie,
    },
}

pub(crate) fn main() -> Result<ExitCode> {
    match Cli::parse().command {
        Command::Run { seed, lie, timeline, log } => {
            if log {
                let filter = tracing_subscriber::EnvFilter::from_default_env();
                tracing_subscriber::fmt()
                    .with_env_filter(filter)
                    .without_time()
                    .with_writer(std::io::stderr)
                    .init();
            }
            watch::start(seed);
            let verdict = world::run(seed, lie.into());
            if timeline {
                verdict.told.iter().for_each(|line| println!("{line}"));
            }
            verdict.broken.iter().for_each(|line| println!("{line}"));
            let world::Verdict { trace, made, reads, revision, .. } = verdict;
            println!(
                "seed {seed}: {made} written, {reads} read, revision {revision}, trace {trace:016x}"
            );
            Ok(if verdict.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Sweep { seed, count, jobs, lie, first } => {
            let jobs = jobs.unwrap_or_else(|| {
                std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
            });
            sweep::sweep(seed..seed.saturating_add(count), jobs, lie, first)
        }
        Command::Stories { seed, count, lie } => {
            let badly = component_fuzz::tell(seed..seed.saturating_add(count), lie.into());
            for (seed, why) in &badly {
                let lie = lie.name();
                println!(
                    "BROKEN: {why}\nagain: chaos-raft stories --seed {seed} --count 1 --lie {lie}"
                );
            }
            if badly.is_empty() {
                println!("{count} stories of each part ended well");
            }
            Ok(if badly.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

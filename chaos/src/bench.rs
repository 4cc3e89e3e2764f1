//! Benchmarks, compared with etcd in the same run, on the same disk, one after the other. Nothing is
//! asserted, as machines differ. The report states what was compared.

mod abuse;
mod audit;
mod cni;
mod commit;
mod crowd;
mod dns;
mod etcd;
mod failover;
mod feed;
mod kubernetes;
mod large;
mod lean;
mod load;
mod namespaces;
mod ours;
mod policy;
mod reads;
pub(crate) mod report;
mod restart;
mod routes;
mod statemachine;
mod vip;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::cluster::find_romanad;

/// What to measure.
#[derive(Clone, Debug, Subcommand)]
pub enum What {
    /// Durable commits: allocations beside etcd's puts.
    Commit {
        /// Seconds per figure, after one second of warm-up.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// Rounds; the table shows medians.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Numbers of concurrent callers, separated by commas.
        #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 512])]
        callers: Vec<usize>,
    },
    /// kill -9 of the leader: longest time between two acknowledged commits.
    Failover {
        /// Kills of each.
        #[arg(long, default_value_t = 10)]
        kills: usize,
    },
    /// Linearizable reads beside etcd's.
    Reads {
        /// Seconds per figure, after one second of warm-up.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// Rounds; the table shows medians.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Concurrent callers.
        #[arg(long, default_value_t = 64)]
        callers: usize,
    },
    /// Clients that never read, send half of something or ask for too much: memory, threads, and what the
    /// others notice.
    Abuse {
        /// Live addresses.
        #[arg(long, default_value_t = 100_000)]
        live: u64,
        /// Seconds of each kind.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// The audit: who had an address, over millions of records.
    Audit {
        /// Records of releases and allocations.
        #[arg(long, default_value_t = 10_000_000)]
        records: u64,
        /// Questions.
        #[arg(long, default_value_t = 5_000)]
        questions: usize,
    },
    /// CNI ADD and DEL through an agent and three replicas, beside bridge + host-local.
    Cni {
        /// ADDs and DELs of each.
        #[arg(long, default_value_t = 200)]
        count: usize,
    },
    /// Pods of a real Kubernetes API server: from there to the log, and all of them listed by the next leader.
    Kubernetes {
        /// Pods a second of the stream.
        #[arg(long, default_value_t = 20)]
        rate: u64,
        /// Length of the stream, seconds.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Pods created at once.
        #[arg(long, default_value_t = 2_000)]
        at_once: usize,
        /// Pods that the next leader lists, with those before.
        #[arg(long, default_value_t = 10_000)]
        listed: usize,
        /// Leaders that list them; the report has medians.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
    /// DNS: names of 10 000 Services, beside dnsmasq and unbound, asked by dnsperf; at rest and with 100 changes per second.
    Dns {
        /// Seconds per figure.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// New blocks: until every other host's kernel has the route.
    Routes {
        /// Hosts, each with an agent.
        #[arg(long, default_value_t = 8)]
        hosts: usize,
        #[arg(long, default_value_t = 300)]
        blocks: usize,
    },
    /// Virtual IPs: death of the holder and planned moves, beside keepalived.
    Vip {
        /// Deaths, and planned moves, of each.
        #[arg(long, default_value_t = 20)]
        moves: usize,
    },
    /// Policies: from a change to the rules in the kernel, by the number of rules.
    Policy {
        /// Changes at each size.
        #[arg(long, default_value_t = 200)]
        changes: usize,
    },
    /// The feed: thousands of followers, most of one host each.
    Feed {
        /// Followers.
        #[arg(long, default_value_t = 5_000)]
        followers: u64,
        /// Events that concern all of them.
        #[arg(long, default_value_t = 200)]
        events: usize,
        /// All at the leader, instead of spread over the replicas.
        #[arg(long)]
        at_leader: bool,
    },
    /// kill -9 with a million addresses: time until reads, memory, stalls while snapshots are written.
    Restart {
        /// Live addresses.
        #[arg(long, default_value_t = 1_000_000)]
        live: u64,
        /// Rounds; the report has medians.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
    /// The state machine alone: speed, memory, snapshots, digests, plans.
    Statemachine {
        /// Rounds; the table shows medians.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Numbers of live addresses, separated by commas.
        #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000, 1_000_000])]
        live: Vec<usize>,
        /// Measure one size in this process and print it as JSON (what the sizes are run by).
        #[arg(long, hide = true)]
        one: Option<usize>,
    },
}

/// Options of a benchmark.
#[derive(Clone, Debug, Default)]
pub struct BenchOptions {
    /// The `romanad` program; `None`: next to this one.
    pub romanad: Option<PathBuf>,
    /// Parent of the data directories of both.
    pub dir: Option<PathBuf>,
    /// File for the results as JSON.
    pub json: Option<PathBuf>,
}

/// Runs a benchmark and prints the results.
///
/// # Errors
/// A program is missing, a cluster does not start, or a request fails.
pub async fn run(what: What, options: BenchOptions) -> Result<()> {
    if !matches!(what, What::Statemachine { .. }) {
        // Check before anything is started.
        find_romanad(options.romanad.as_deref())?;
    }
    let figures = match what {
        What::Commit { seconds, rounds, callers } => {
            commit::run(&options, seconds, rounds, &callers).await?
        }
        What::Failover { kills } => failover::run(&options, kills).await?,
        What::Reads { seconds, rounds, callers } => {
            reads::run(&options, seconds, rounds, callers).await?
        }
        What::Feed { followers, events, at_leader } => {
            feed::run(&options, followers, events, at_leader).await?
        }
        What::Kubernetes { rate, seconds, at_once, listed, rounds } => {
            let size = kubernetes::Size { rate, seconds, at_once, listed, rounds };
            Box::pin(kubernetes::run(&options, size)).await?
        }
        What::Routes { hosts, blocks } => routes::run(&options, hosts, blocks).await?,
        What::Vip { moves } => vip::run(&options, moves).await?,
        What::Policy { changes } => policy::run(&options, changes).await?,
        What::Cni { count } => cni::run(&options, count).await?,
        What::Dns { seconds } => dns::run(&options, seconds).await?,
        What::Abuse { live, seconds } => abuse::run(&options, live, seconds).await?,
        What::Audit { records, questions } => audit::run(&options, records, questions).await?,
        What::Restart { live, rounds } => restart::run(&options, live, rounds).await?,
        What::Statemachine { one: Some(live), .. } => return statemachine::one(live),
        What::Statemachine { live, rounds, one: None } => statemachine::run(&live, rounds)?,
    };
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&figures)?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

//! `romana`: the command line of a Romana cluster.
//!
//! One file per noun; each talks to the cluster through `romana_client` and prints through [`output`]. `-f json`
//! prints the server's response unchanged; tables are for people.
//!
//! Exit codes: 0 done, 1 refused (nothing changed), 2 wrong usage, 3 no replica could respond (nothing changed), 4
//! unknown outcome (it may have been carried out).

mod address;
mod answer;
mod args;
mod audit;
mod backup;
mod blackout;
mod block;
mod cluster;
mod completion;
mod config;
mod connectivity;
mod context;
mod demo;
mod doctor;
mod events;
mod failure;
mod global;
mod host;
mod input;
mod ipam;
mod kubernetes;
mod labels;
mod log;
mod network;
mod network_policy;
mod output;
mod policy;
mod process;
mod route;
mod segment;
mod settings;
mod signals;
mod sink;
mod sysdump;
mod table;
mod tenant;
mod topology;
mod usage;
mod vip;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Args, Noun};
use crate::config::Config;
use crate::context::Context;
use crate::failure::Failure;
use crate::global::Format;
use crate::output::Output;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage::report(&error),
    };
    let mut format = args.global.format.unwrap_or_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::io("the runtime does not start", error).report(format),
    };
    let result = runtime.block_on(run(args, &mut format));
    // A blocked read of stdin must not delay the exit.
    runtime.shutdown_background();
    match result {
        Ok(()) => {
            tracing::info!(target: "romana", "done");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            tracing::info!(target: "romana", why = failure.summary(), "failed");
            // For programs, which read what they know of it.
            let received = match &failure {
                Failure::Foreign { json, .. } if format != Format::Table => {
                    Output::new(format).value(json)
                }
                _ => Ok(()),
            };
            received.err().unwrap_or(failure).report(format)
        }
    }
}

/// Runs the command. Sets `format` to that of the configuration.
async fn run(mut args: Args, format: &mut Format) -> Result<(), Failure> {
    // These commands need no cluster and no configuration.
    match args.noun {
        Noun::Completion(command) => return command.run(Args::command()),
        Noun::Demo(command) => return command.run().await,
        Noun::Connectivity(command) => match command.run_alone().await? {
            None => return Ok(()),
            Some(command) => args.noun = Noun::Connectivity(command),
        },
        _ => {}
    }
    let config = Config::load(&args.global)?;
    *format = config.format;
    log::start(&config);
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let words: Vec<String> = words.collect();
    tracing::info!(target: "romana", command = words.join(" "), "begins");
    let ctx = Context::new(&config)?;
    match args.noun {
        Noun::Host(command) => command.run(&ctx).await,
        Noun::Tenant(command) => command.run(&ctx).await,
        Noun::Segment(command) => command.run(&ctx).await,
        Noun::Policy(command) => command.run(&ctx).await,
        Noun::Topology(command) => command.run(&ctx).await,
        Noun::Network(command) => command.run(&ctx).await,
        Noun::Block(command) => command.run(&ctx).await,
        Noun::Address(command) => command.run(&ctx).await,
        Noun::Blackout(command) => command.run(&ctx).await,
        Noun::Vip(command) => command.run(&ctx).await,
        Noun::Route(command) => command.run(&ctx).await,
        Noun::Events(command) => command.run(&ctx).await,
        Noun::Audit(command) => command.run(&ctx).await,
        Noun::Settings(command) => command.run(&ctx).await,
        Noun::Cluster(command) => command.run(&ctx).await,
        Noun::Backup(command) => command.run(&ctx).await,
        Noun::Ipam(command) => command.run(&ctx).await,
        Noun::Kubernetes(command) => command.run(&ctx).await,
        Noun::Doctor(command) => command.run(&ctx).await,
        Noun::Sysdump(command) => command.run(&ctx).await,
        Noun::Connectivity(command) => command.run(&ctx).await,
        Noun::Completion(_) | Noun::Demo(_) => Ok(()),
    }
}

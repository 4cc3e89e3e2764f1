//! A daemon that only reports its health: the minimal code of a program of this kind.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use romana_daemon::config::Layers;
use romana_daemon::error::AnyError;
use romana_daemon::log::Form;
use romana_daemon::probe::{self, Health};
use romana_daemon::problems::Problems;
use romana_daemon::process::{Process, USAGE};
use romana_daemon::{Tasks, listener};

/// Filter of the log.
const LOG: &str = "info";

#[derive(Parser)]
#[command(name = "idle", version, about)]
struct Args {
    /// Configuration file (TOML). Flags and environment go before it.
    #[arg(long, env = "IDLE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    given: Layers<Given>,
    /// Validate the configuration, then exit.
    #[arg(long)]
    check: bool,
}

#[derive(Default, clap::Args, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Given {
    /// Address of /healthz, /readyz, /status and /metrics [default: 127.0.0.1:9699].
    #[arg(long, env = "IDLE_METRICS", value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,
    /// Log lines for people or for programs [default: text].
    #[arg(long, env = "IDLE_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<Form>,
}

fn main() -> ExitCode {
    let (process, args) = (Process("idle"), Args::parse());
    match args.given.over_file(args.config.as_deref()) {
        Err(error) => process.fail(&error, USAGE),
        Ok(_) if args.check => process.checked(LOG),
        Ok(given) => {
            let form = given.log_format.unwrap_or_default();
            process.run(form, LOG, |tasks| run(given, tasks))
        }
    }
}

async fn run(given: Given, mut tasks: Tasks) -> Result<(), AnyError> {
    let address = given.metrics.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 9699).into());
    let health = Health::new("idle", env!("CARGO_PKG_VERSION"), Problems::default());
    tasks.spawn("health", probe::serve(listener::bind(address)?, health, tasks.stop()));
    Ok(tasks.run().await?)
}

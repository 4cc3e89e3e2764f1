//! `romanad`: arguments, configuration, run, exit code. 0: stopped on request, or configuration checked;
//! 1: runtime failure; 2: invalid usage or configuration.

use std::process::ExitCode;

use clap::Parser;
use romana_controlplane::bootstrap;
use romana_controlplane::config::{Args, Command, Config};
use romana_controlplane::server::{self, ServerError};
use romana_daemon::log;
use romana_daemon::process::{FAILED, Process, USAGE};
use romana_replica::backup::recover::recover;
use romana_statemachine::escaped_lines;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// This program.
const PROCESS: Process = Process("romanad");

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(Command::Recover(args)) = &args.command {
        return match recover(&args.data_dir, &args.out) {
            Ok(said) => {
                print!("{}", escaped_lines(&said));
                ExitCode::SUCCESS
            }
            Err(error) => PROCESS.fail(&error, FAILED),
        };
    }
    let check = args.check;
    let kubernetes_host = std::env::var("KUBERNETES_SERVICE_HOST").ok();
    let config = match Config::load(args, kubernetes_host.as_deref()) {
        Ok(config) => config,
        Err(error) => return PROCESS.fail(&error, USAGE),
    };
    if let Err(error) = log::init(config.log_format, &config.log) {
        return PROCESS.fail(&error, USAGE);
    }
    allow_open_files();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return PROCESS.fail(&error, FAILED),
    };
    let (result, code) = if check {
        (runtime.block_on(checked(&config)), USAGE)
    } else {
        (runtime.block_on(server::run(config)), FAILED)
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let advice = error.advice();
            let code = PROCESS.fail(&error, code);
            if let Some(advice) = advice {
                PROCESS.say(&advice);
            }
            code
        }
    }
}

/// Checks what the configuration names: the initial topology, credentials.
async fn checked(config: &Config) -> Result<(), ServerError> {
    bootstrap::initial_proposals(config).await?;
    server::check_kubernetes(config).await
}

/// Raises the limit of open files: each follower of the feed needs one, and service managers set a low default.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, allowed = limit.current, "cannot allow more open files");
    }
}

//! `romanad`: arguments, configuration, run, exit code. 0: stopped on request, or configuration checked;
//! 1: runtime failure; 2: invalid usage or configuration.

use std::process::ExitCode;
use std::sync::OnceLock;

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
    if check {
        return check_named(&config);
    }
    let (form, filter, advice) = (config.log_format, config.log.clone(), OnceLock::new());
    let code = PROCESS.run(form, &filter, async |tasks| {
        allow_open_files();
        let ended = server::run(config, tasks.stop()).await;
        ended.inspect_err(|error| _ = error.advice().map(|text| advice.set(text)))
    });
    if let Some(advice) = advice.get() {
        PROCESS.say(advice);
    }
    code
}

/// Ends `--check`: checks what the configuration names.
fn check_named(config: &Config) -> ExitCode {
    if let Err(error) = log::init(config.log_format, &config.log) {
        return PROCESS.fail(&error, USAGE);
    }
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => PROCESS.end(runtime.block_on(named(config)), USAGE),
        Err(error) => PROCESS.fail(&error, FAILED),
    }
}

/// What a new cluster would begin with, which may be read from the cloud, and credentials.
async fn named(config: &Config) -> Result<(), ServerError> {
    server::check_backup(config)?;
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

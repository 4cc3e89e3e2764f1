//! `romana-dns`: arguments, configuration, run, exit code. 0: stopped as requested, or check passed; 1: failed; 2: usage
//! or configuration error.

use std::process::ExitCode;

use clap::Parser;
use romana_daemon::process::{Process, USAGE};
use romana_dns::config::{Args, Config};
use romana_dns::daemon;

/// This program.
const PROCESS: Process = Process("romana-dns");

fn main() -> ExitCode {
    let args = Args::parse();
    let check = args.check;
    match Config::load(&args) {
        Err(error) => PROCESS.fail(&error, USAGE),
        Ok(config) if check => PROCESS.checked(&config.log),
        Ok(config) => {
            let (form, filter) = (config.log_format, config.log.clone());
            PROCESS.run(form, &filter, |tasks| daemon::run(config, tasks))
        }
    }
}

//! `romana-agent`: arguments, configuration, run, exit code. 0: stopped as requested, or check passed; 1:
//! failed; 2: usage or configuration error.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use romana_agent::cleanup::Cleanup;
use romana_agent::config::{Args, Command, Config, metrics_address, state_dir};
use romana_agent::install::{self, Install};
use romana_agent::status::Status;
use romana_agent::vips::watchdog;
use romana_agent::{daemon, ownership};
use romana_daemon::process::{FAILED, Process, USAGE};
use romana_statemachine::{escaped_json, escaped_lines};

/// Timeout for the agent's status.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Size limit of the answer, bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// This program.
const PROCESS: Process = Process("romana-agent");

fn main() -> ExitCode {
    let args = Args::parse();
    match &args.command {
        Some(Command::Install(wanted)) => return PROCESS.end(install(wanted), FAILED),
        Some(Command::Cleanup(wanted)) => {
            let dir = state_dir(&args).map_err(anyhow::Error::from);
            return PROCESS.end(dir.and_then(|dir| cleanup(wanted, &dir)), FAILED);
        }
        Some(Command::Status { json }) => {
            let shown = metrics_address(&args).map_err(anyhow::Error::from);
            return PROCESS.end(shown.and_then(|address| status(address, *json)), FAILED);
        }
        Some(Command::VipWatchdog) => {
            let dir = state_dir(&args).map_err(anyhow::Error::from);
            let ran = dir.and_then(|dir| Ok(watchdog::run(&dir)?));
            return PROCESS.end(ran, FAILED);
        }
        None => {}
    }
    let check = args.check;
    match Config::load(args) {
        Err(error) => PROCESS.fail(&error, USAGE),
        Ok(config) if check => PROCESS.checked(&config.log),
        Ok(config) => {
            let (form, filter) = (config.log_format, config.log.clone());
            PROCESS.run(form, &filter, |tasks| daemon::run(config, tasks))
        }
    }
}

/// Installs the plugin, whose executable is next to this one.
fn install(wanted: &Install) -> anyhow::Result<()> {
    let own = std::env::current_exe().context("find this program")?;
    let done = install::run(wanted, &own.with_file_name(ownership::PLUGIN_FILE))?;
    done.iter().for_each(|what| println!("{what}"));
    Ok(())
}

/// Removes Romana's state from the kernel.
fn cleanup(wanted: &Cleanup, state_dir: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let say = |line: String| println!("{}", escaped_lines(&line));
    Ok(runtime.block_on(romana_agent::cleanup::run(wanted, state_dir, say))?)
}

/// Prints the status of this host's agent.
fn status(address: SocketAddr, json: bool) -> anyhow::Result<()> {
    let no_agent = || format!("no agent answers at {address}: is it running?");
    let mut stream = TcpStream::connect_timeout(&address, ASK_TIMEOUT).with_context(no_agent)?;
    stream.set_read_timeout(Some(ASK_TIMEOUT))?;
    // HTTP/1.0: the end of the connection ends the answer.
    let ask = format!("GET /status HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(ask.as_bytes()).with_context(no_agent)?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).with_context(no_agent)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("it does not answer in HTTP")?;
    anyhow::ensure!(head.contains(" 200 "), "it answers {}", head.lines().next().unwrap_or(""));
    if json {
        println!("{}", escaped_json(body));
    } else {
        let status: Status = serde_json::from_str(body).context("its answer does not parse")?;
        print!("{}", escaped_lines(&status.text()));
    }
    Ok(())
}

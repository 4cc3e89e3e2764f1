//! The agent's side of the watchdog: starts it, gives it orders, hears its reports.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::held_addresses::{Order, Report};

/// An order takes milliseconds; a watchdog that takes longer is stopped or stuck.
const ANSWER_MAX: Duration = Duration::from_millis(300);
/// How long the end of a killed process takes at most.
const KILL_MAX: Duration = Duration::from_millis(100);

/// A running watchdog.
#[derive(Debug)]
pub struct Process {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    number: u64,
}

impl Process {
    /// Starts a watchdog: this program, also if its file was replaced.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(state_dir: &Path) -> io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("--state-dir").arg(state_dir).arg("vip-watchdog");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // What is sent to the agent's process group does not reach it.
        command.process_group(0);
        let mut child = command.spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let missing = || io::Error::other("a process without pipes");
        let (input, output) = (input.ok_or_else(missing)?, output.ok_or_else(missing)?);
        Ok(Self { child, input, output: BufReader::new(output).lines(), number: 0 })
    }

    /// Gives an order, and waits until it was obeyed. The report includes those that came before.
    ///
    /// # Errors
    /// It does not answer: [`Process::kill`] it.
    pub async fn obey(&mut self, mut order: Order) -> io::Result<Report> {
        self.number += 1;
        order.number = self.number;
        let mut line = serde_json::to_vec(&order)?;
        line.push(b'\n');
        let obeyed = async {
            self.input.write_all(&line).await?;
            let mut all = Report::default();
            loop {
                let report = self.heard().await?;
                all.gone.extend(report.gone);
                all.failed.extend(report.failed);
                if report.number == order.number {
                    return Ok::<Report, io::Error>(all);
                }
            }
        };
        timeout(ANSWER_MAX, obeyed).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// The next report. It may be dropped while it waits.
    ///
    /// # Errors
    /// The process has ended.
    pub async fn heard(&mut self) -> io::Result<Report> {
        match self.output.next_line().await? {
            Some(line) => Ok(serde_json::from_str(&line)?),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Kills it, also if it is stopped. Once this returns, it changes nothing any more.
    pub async fn kill(mut self) {
        if timeout(KILL_MAX, self.child.kill()).await.is_err() {
            tracing::warn!("the watchdog of VIPs does not end");
        }
    }
}

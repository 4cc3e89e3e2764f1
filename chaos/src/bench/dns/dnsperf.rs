//! dnsperf, and what it prints.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tokio::process::Command;

use super::names::{NAMES, name};

/// Sockets that it asks from, and questions under way.
const CLIENTS: &str = "8";
const UNDER_WAY: &str = "100";

/// What dnsperf measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Load {
    /// Answers per second.
    pub(super) rate: f64,
    /// Mean and longest time to an answer, microseconds.
    pub(super) mean_us: f64,
    pub(super) max_us: f64,
    /// Questions without an answer.
    pub(super) lost: u64,
}

/// Asks a server for all names in turn, as fast as it answers.
pub(super) async fn run(server: SocketAddr, dir: &Path, time: Duration) -> Result<Load> {
    let questions = dir.join("questions");
    let lines: String = (0..NAMES).map(|at| format!("{} A\n", name(at * 7_919 % NAMES))).collect();
    tokio::fs::write(&questions, lines).await.context("write the questions")?;
    let output = Command::new("dnsperf")
        .args(["-s", &server.ip().to_string(), "-p", &server.port().to_string()])
        .args(["-c", CLIENTS, "-T", "1", "-q", UNDER_WAY, "-l", &time.as_secs().to_string()])
        .arg("-d")
        .arg(&questions)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = output.await.context("dnsperf (Debian: apt-get install dnsperf)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "dnsperf: {}", String::from_utf8_lossy(&output.stderr));
    read(&text)
}

/// Reads what it prints. An answer that is an error makes figures of the rest meaningless.
fn read(text: &str) -> Result<Load> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
        line.map(str::trim).with_context(|| format!("dnsperf says no {name}\n{text}"))
    };
    let number = |text: &str| -> Result<f64> {
        let word = text.split([' ', ',', ')']).next().unwrap_or_default();
        word.parse().with_context(|| format!("{text:?} is no number"))
    };
    let codes = field("Response codes:")?;
    ensure!(codes.starts_with("NOERROR ") && !codes.contains(','), "answers are errors: {codes}");
    let latency = field("Average Latency (s):")?;
    let longest = latency.split_once("max ").context("dnsperf says no max")?.1;
    let lost = field("Queries lost:")?.split(' ').next().unwrap_or_default();
    Ok(Load {
        rate: number(field("Queries per second:")?)?,
        mean_us: number(latency)? * 1e6,
        max_us: number(longest)? * 1e6,
        lost: lost.parse().context("lost questions")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "
Statistics:

  Queries sent:         218243
  Queries completed:    218243 (100.00%)
  Queries lost:         2 (0.00%)

  Response codes:       NOERROR 218243 (100.00%)
  Average packet size:  request 44, response 60
  Run time (s):         3.005222
  Queries per second:   72621.257265

  Average Latency (s):  0.001192 (min 0.000031, max 0.006930)
  Latency StdDev (s):   0.001196
";

    #[test]
    fn what_it_prints_is_read() {
        let load = read(PRINTED).unwrap();
        assert_eq!((load.rate.round(), load.lost), (72_621.0, 2));
        assert_eq!((load.mean_us.round(), load.max_us.round()), (1_192.0, 6_930.0));
    }

    #[test]
    fn errors_are_no_figures() {
        let codes = "NOERROR 9 (90.00%), SERVFAIL 1 (10.00%)";
        let text = PRINTED.replace("NOERROR 218243 (100.00%)", codes);
        assert!(read(&text).is_err_and(|error| error.to_string().contains("SERVFAIL")));
        assert!(read(&PRINTED.replace("NOERROR", "NXDOMAIN")).is_err());
        assert!(read("").is_err());
    }
}

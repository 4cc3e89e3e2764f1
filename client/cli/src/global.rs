//! Flags that every command takes, and their value parsers.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};
use serde::Deserialize;

/// Longest time that `--timeout` accepts.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Flags that every command takes, before or after it.
#[derive(Clone, Debug, Default, ClapArgs)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Configuration file [default: ~/.romana.yaml, then /etc/romana/cli.yaml]
    #[arg(short, long, global = true, value_name = "FILE", env = "ROMANA_CONFIG", hide_env = true)]
    pub(crate) config: Option<PathBuf>,
    /// Output: tables for people, JSON or YAML for programs [default: table]
    #[arg(short, long, global = true, env = "ROMANA_FORMAT", hide_env = true)]
    pub(crate) format: Option<Format>,
    /// Replicas, separated by commas; a URL may include a port [default: http://127.0.0.1]
    #[arg(short = 'r', long = "rootURL", alias = "root-url", global = true, value_name = "URL,…")]
    #[arg(env = "ROMANA_ROOT_URL", hide_env = true)]
    pub(crate) root_url: Option<String>,
    /// Port of URLs without one [default: 9600]
    #[arg(short = 'p', long = "rootPort", alias = "root-port", global = true, value_name = "PORT")]
    #[arg(env = "ROMANA_ROOT_PORT", hide_env = true, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) root_port: Option<u16>,
    /// Platform of the cluster
    #[arg(short = 'P', long, global = true, env = "ROMANA_PLATFORM", hide_env = true)]
    pub(crate) platform: Option<Platform>,
    /// Log each attempt to stderr
    #[arg(short, long, global = true, env = "ROMANA_VERBOSE", hide_env = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) verbose: bool,
    /// Time limit of the whole command, such as 10s or 500ms
    #[arg(long, global = true, value_name = "TIME", env = "ROMANA_TIMEOUT", hide_env = true)]
    #[arg(value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// Aligned columns
    #[default]
    Table,
    /// For programs: the server's answer
    Json,
    /// The same as YAML
    Yaml,
}

/// The kind of workload that the cluster serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Platform {
    /// Pods; tenants are namespaces
    Kubernetes,
    /// VMs; tenants are projects
    Openstack,
}

/// Parses `500ms`, `10s`, `2m` or a number of seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a time such as 500ms, 10s or 2m, at most an hour");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let millis = match unit {
        "ms" => Some(number),
        "s" | "" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        _ => None,
    };
    let time = millis.map(Duration::from_millis).ok_or_else(bad)?;
    if time.is_zero() || time > TIMEOUT_MAX { Err(bad()) } else { Ok(time) }
}

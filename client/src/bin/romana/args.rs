//! The command line: global flags and nouns. The verbs of a noun are in its file.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use serde::Deserialize;

/// Manage a Romana cluster: hosts, addresses, topology, policies.
#[derive(Debug, Parser)]
#[command(name = "romana", version, propagate_version = false, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done, 1 refused, 2 usage, 3 unavailable, 4 unknown outcome.\n\
    Settings: flag > environment > file (~/.romana.yaml, /etc/romana/cli.yaml) > default."
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) noun: Noun,
}

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
    /// Replicas, separated by commas; a URL may carry a port [default: http://127.0.0.1]
    #[arg(short = 'r', long = "rootURL", alias = "root-url", global = true, value_name = "URL,…")]
    #[arg(env = "ROMANA_ROOT_URL", hide_env = true)]
    pub(crate) root_url: Option<String>,
    /// Port of URLs that carry none [default: 9600]
    #[arg(short = 'p', long = "rootPort", alias = "root-port", global = true, value_name = "PORT")]
    #[arg(env = "ROMANA_ROOT_PORT", hide_env = true, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) root_port: Option<u16>,
    /// Platform of the cluster
    #[arg(short = 'P', long, global = true, env = "ROMANA_PLATFORM", hide_env = true)]
    pub(crate) platform: Option<Platform>,
    /// Log what is tried, to stderr
    #[arg(short, long, global = true, env = "ROMANA_VERBOSE", hide_env = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) verbose: bool,
    /// How long a command may take in all, such as 10s or 500ms
    #[arg(long, global = true, value_name = "TIME", env = "ROMANA_TIMEOUT", hide_env = true)]
    #[arg(value_parser = crate::config::duration)]
    pub(crate) timeout: Option<std::time::Duration>,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// Aligned columns
    #[default]
    Table,
    /// What the server said
    Json,
    /// The same as YAML
    Yaml,
}

/// What the cluster serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Platform {
    /// Pods; tenants are namespaces
    Kubernetes,
    /// VMs; tenants are projects
    Openstack,
}

/// What a command is about.
#[derive(Debug, Subcommand)]
pub(crate) enum Noun {
    /// Add, remove, list, show, label and drain hosts
    #[command(subcommand, visible_alias = "hosts")]
    Host(crate::host::Command),
    /// Create, delete, list and show tenants
    #[command(subcommand, visible_alias = "tenants")]
    Tenant(crate::tenant::Command),
    /// Add, remove and list segments of tenants
    #[command(subcommand, visible_alias = "segments")]
    Segment(crate::segment::Command),
    /// Add, remove, list, show, check and explain policies
    #[command(subcommand, visible_alias = "policies")]
    Policy(crate::policy::Command),
    /// Show, update and plan the topology
    #[command(subcommand)]
    Topology(crate::topology::Command),
    /// List and show networks and how full they are
    #[command(subcommand, visible_alias = "networks")]
    Network(crate::network::Command),
    /// List and show blocks
    #[command(subcommand, visible_alias = "blocks")]
    Block(crate::block::Command),
    /// Allocate, release, list and show addresses
    #[command(subcommand, visible_alias = "addresses")]
    Address(crate::address::Command),
    /// Exclude ranges from allocation
    #[command(subcommand, visible_alias = "blackouts")]
    Blackout(crate::blackout::Command),
    /// Add, remove, list and show virtual IPs
    #[command(subcommand, visible_alias = "vips")]
    Vip(crate::vip::Command),
    /// List the aggregated routes and explain them
    #[command(subcommand, visible_alias = "routes")]
    Route(crate::route::Command),
    /// Follow what happens
    #[command(subcommand)]
    Events(crate::events::Command),
    /// Ask about the past: who held an address, what changed, is the history whole
    #[command(subcommand)]
    Audit(crate::audit::Command),
    /// Show and change cluster settings
    #[command(subcommand)]
    Settings(crate::settings::Command),
    /// Show the replicas
    #[command(subcommand)]
    Cluster(crate::cluster::Command),
    /// Save, verify, show and restore backups
    #[command(subcommand)]
    Backup(crate::backup::Command),
    /// Check addresses for inconsistencies, and show how full the groups are
    #[command(subcommand)]
    Ipam(crate::ipam::Command),
    /// Check the health of the cluster
    Doctor(crate::doctor::Command),
    /// Print the completion script of a shell
    Completion(crate::completion::Command),
    /// See it all work: three replicas on this machine, a dead leader, nothing lost
    Demo(crate::demo::Command),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}

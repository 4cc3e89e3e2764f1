//! The command line: the nouns, and the global flags (`global`). The verbs of a noun are in its file.

use clap::{Parser, Subcommand};

use crate::global::Global;

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
    /// List and show networks and their utilization
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
    /// Follow events as they happen
    #[command(subcommand)]
    Events(crate::events::Command),
    /// Query the history: who held an address, what changed, whether the history is intact
    #[command(subcommand)]
    Audit(crate::audit::Command),
    /// Show and change cluster settings
    #[command(subcommand)]
    Settings(crate::settings::Command),
    /// Show and manage the replicas
    #[command(subcommand)]
    Cluster(crate::cluster::Command),
    /// Save, verify, show and restore backups
    #[command(subcommand)]
    Backup(crate::backup::Command),
    /// Check addresses for inconsistencies, and show the utilization of the groups
    #[command(subcommand)]
    Ipam(crate::ipam::Command),
    /// Show the Kubernetes cluster that is followed, and confirm what was held back
    #[command(subcommand)]
    Kubernetes(crate::kubernetes::Command),
    /// Check the health of the cluster
    Doctor(crate::doctor::Command),
    /// Collect what support needs into one archive, without secrets
    Sysdump(crate::sysdump::Command),
    /// Test connections between endpoints: routes, policy, addresses, MTU
    #[command(subcommand)]
    Connectivity(crate::connectivity::Command),
    /// Print a completion script for a shell
    Completion(crate::completion::Command),
    /// Run a demonstration: three replicas on this machine, the leader is killed, nothing is lost
    Demo(crate::demo::Command),
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    /// Collects all leaf commands below one, by their words.
    fn leaves(command: &clap::Command, words: &str, found: &mut BTreeSet<String>) {
        let mut below =
            command.get_subcommands().filter(|below| below.get_name() != "help").peekable();
        if below.peek().is_none() {
            found.insert(words.trim_start().to_owned());
        }
        below.for_each(|below| leaves(below, &format!("{words} {}", below.get_name()), found));
    }

    /// The words of the command in a line, without its arguments.
    pub(crate) fn command_of(line: &str) -> Result<String, String> {
        let words = std::iter::once("romana").chain(line.split_whitespace());
        let matches = Args::command().try_get_matches_from(words).map_err(|why| why.to_string())?;
        let (mut path, mut matches) = (Vec::new(), &matches);
        while let Some((name, below)) = matches.subcommand() {
            path.push(name);
            matches = below;
        }
        Ok(path.join(" "))
    }

    /// Files of the repository that may mention commands.
    fn texts(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let ending = path.extension().map(|it| it.to_string_lossy().into_owned());
            if entry.file_type().unwrap().is_dir() {
                if !["target", "tests", ".git", "previous"].contains(&&*name) {
                    texts(&path, found);
                }
            } else if ending.is_some_and(|it| ["rs", "md", "toml", "json"].contains(&&*it)) {
                found.push(path);
            }
        }
    }

    /// The error in the command that a text mentions, if any. `rest` is what follows `romana `.
    fn misnamed(rest: &str) -> Option<String> {
        let end = rest.find(['`', '"', '\n', ')', ';']).unwrap_or(rest.len());
        let end = rest[..end].find(", ").unwrap_or(end);
        let trim = |word: &str| word.trim_matches(['.', ',', ':', '\'', '(', '\\']).to_owned();
        let mut words = rest[..end].split_whitespace().map(trim).peekable();
        let mut command = Args::command();
        command.build();
        let noun = words.next().filter(|noun| noun != "help")?;
        let mut named = command.find_subcommand(noun)?.clone();
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
        let is_word = |word: &&String| word.bytes().all(letter);
        if named.has_subcommands() {
            let verbs = words.peek()?.split('|').map(Into::into).collect::<Vec<String>>();
            for verb in verbs.iter().filter(is_word).filter(|verb| !verb.is_empty()) {
                let Some(found) = named.find_subcommand(verb) else {
                    return Some(format!("{} has no {verb}", named.get_name()));
                };
                if verbs.len() == 1 {
                    named = found.clone();
                    break;
                }
            }
        }
        let known = |flag: &str| named.get_arguments().any(|arg| arg.get_long() == Some(flag));
        let flags = words.filter_map(|word| word.strip_prefix("--").map(str::to_owned));
        let mut flags = flags.map(|flag| flag.split('=').next().unwrap_or_default().to_owned());
        let unknown = flags.find(|flag| !flag.is_empty() && !known(flag));
        unknown.map(|flag| format!("{} has no --{flag}", named.get_name()))
    }

    #[test]
    fn every_command_that_a_text_names_is_there() {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let (mut files, mut wrong, mut named) = (Vec::new(), Vec::new(), 0);
        texts(root, &mut files);
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            for (at, _) in text.match_indices("romana ") {
                let before = text[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || "-_/".contains(c)) {
                    continue;
                }
                named += 1;
                let rest = &text[at + "romana ".len()..];
                wrong.extend(misnamed(rest).map(|why| format!("{}: {why}", file.display())));
            }
        }
        assert!(wrong.is_empty() && named > 100, "{named}: {wrong:#?}");
        assert_eq!(misnamed("host list shows them."), None);
        assert!(
            misnamed("cluster substitute ID").is_some() && misnamed("host add --nope").is_some()
        );
    }

    #[test]
    fn every_command_is_run_by_a_test() {
        let lines = include_str!("../tests/cli/commands.txt").lines();
        let lines = lines.filter(|line| !line.starts_with('#'));
        let run: BTreeSet<String> = lines
            .map(|line| match line.split_once(' ').unwrap() {
                // The last word gives the reason.
                ("-", words) => words.rsplit_once(' ').unwrap().0.to_owned(),
                (_, words) => command_of(words).unwrap_or_else(|why| panic!("{line}: {why}")),
            })
            .collect();
        let mut all = BTreeSet::new();
        leaves(&Args::command(), "", &mut all);
        assert!(all.len() > 50, "{all:?}");
        assert_eq!(
            all.difference(&run).collect::<Vec<_>>(),
            Vec::<&String>::new(),
            "without a line"
        );
        assert_eq!(run.difference(&all).collect::<Vec<_>>(), Vec::<&String>::new(), "no commands");
    }
}

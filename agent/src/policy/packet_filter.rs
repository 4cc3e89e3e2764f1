//! Runs iptables and ipset: reads with `save`, writes with `restore`. Programs are run without a shell;
//! input goes through standard input.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::diff::{Actual, Changes, is_ours};
use super::model::Family;
use super::names::HOOKS;
use crate::kernel::disturbance::OwnWriters;

/// Timeout for each program.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which iptables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// That in which this host has more rules already; if none, what `iptables` is.
    #[default]
    Auto,
    /// nf_tables.
    Nft,
    /// x_tables.
    Legacy,
}

/// A program failed.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error("{program} cannot be run: is it installed?")]
    Run {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{program}: {why}")]
    Refused { program: String, why: String },
    #[error("{program} did not end within {PATIENCE:?}")]
    Slow { program: String },
}

/// The programs of a back end.
#[derive(Clone, Debug)]
pub struct PacketFilter {
    infix: &'static str,
    own: OwnWriters,
    tells: bool,
}

impl PacketFilter {
    /// Detects which iptables variant this host uses.
    pub async fn find(wanted: Backend) -> Self {
        let infix = match wanted {
            Backend::Nft => "-nft",
            Backend::Legacy => "-legacy",
            Backend::Auto => {
                let (nft, legacy) = (rules("-nft").await, rules("-legacy").await);
                match nft.cmp(&legacy) {
                    std::cmp::Ordering::Less => "-legacy",
                    std::cmp::Ordering::Greater => "-nft",
                    std::cmp::Ordering::Equal => "",
                }
            }
        };
        let is_legacy = match infix {
            "" => run("iptables", &["--version"], None).await.is_ok_and(|it| it.contains("legacy")),
            infix => infix == "-legacy",
        };
        Self { infix, own: OwnWriters::default(), tells: !is_legacy }
    }

    /// Whether the kernel announces changes (`disturbance`): x_tables does not, and has to be polled.
    #[must_use]
    pub fn tells(&self) -> bool {
        self.tells
    }

    /// Processes that write rules for this agent.
    #[must_use]
    pub fn own_writers(&self) -> OwnWriters {
        self.own.clone()
    }

    /// Number of members of each of our sets, by full name. Cheap: `ipset` does not list the members.
    ///
    /// # Errors
    /// [`FilterError`].
    pub async fn set_sizes(&self) -> Result<BTreeMap<String, usize>, FilterError> {
        Ok(read_sizes(&run("ipset", &["list", "-terse"], None).await?))
    }

    /// Name of the back end, for messages.
    #[must_use]
    pub fn name(&self) -> String {
        format!("iptables{}", self.infix)
    }

    fn program(&self, family: Family, action: &str) -> String {
        let ip = if family == Family::V4 { "ip" } else { "ip6" };
        format!("{ip}tables{}-{action}", self.infix)
    }

    /// Reads our part of the filter.
    ///
    /// # Errors
    /// [`FilterError`].
    pub async fn read(&self) -> Result<Actual, FilterError> {
        let save = |family| self.save(family, &[]);
        let (sets, v4, v6) =
            tokio::join!(run("ipset", &["save"], None), save(Family::V4), save(Family::V6));
        let mut actual = Actual::default();
        read_sets(&sets?, &mut actual);
        read_rules(Family::V4, &v4?, &mut actual);
        read_rules(Family::V6, &v6?, &mut actual);
        Ok(actual)
    }

    async fn save(&self, family: Family, more: &[&str]) -> Result<String, FilterError> {
        let args = [&["-t", "filter"], more].concat();
        run(&self.program(family, "save"), &args, None).await
    }

    /// Rules with their counters, of both families.
    ///
    /// # Errors
    /// [`FilterError`].
    pub async fn counters(&self) -> Result<String, FilterError> {
        let counted = |family| self.save(family, &["-c"]);
        let (v4, v6) = tokio::try_join!(counted(Family::V4), counted(Family::V6))?;
        Ok(v4 + &v6)
    }

    /// Applies changes in order.
    ///
    /// # Errors
    /// [`FilterError`]: the changes may have been applied partly.
    pub async fn apply(&self, changes: &Changes) -> Result<(), FilterError> {
        if changes.rules.is_empty() {
            return ipset([&changes.before[..], &changes.after[..]].concat()).await;
        }
        ipset(changes.before.clone()).await?;
        let restore = |family| async move {
            let Some(lines) = changes.rules.get(&family) else { return Ok(()) };
            let text = format!("*filter\n{}\nCOMMIT\n", lines.join("\n"));
            let program = self.program(family, "restore");
            let args = ["--noflush", "--wait"];
            run_as(&program, &args, Some(text), &|process| self.own.add(process)).await.map(drop)
        };
        tokio::try_join!(restore(Family::V4), restore(Family::V6))?;
        ipset(changes.after.clone()).await
    }
}

/// A table of an iptables variant, and input lines for it.
#[derive(Debug)]
pub struct Saved {
    program: String,
    table: &'static str,
    /// Lines for `iptables-restore`.
    pub lines: Vec<String>,
}

impl Saved {
    /// Name of the table, for messages.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}, table {}", self.program, self.table)
    }
}

/// Reads every table that may contain our rules, of every iptables variant on this host. `lines` computes the
/// input lines for each. A variant that is not installed, or that the kernel does not support, has no tables.
///
/// # Errors
/// [`FilterError`].
pub async fn saved_everywhere(
    lines: impl Fn(&str) -> Vec<String>,
) -> Result<Vec<Saved>, FilterError> {
    let mut found: Vec<Saved> = Vec::new();
    for infix in ["-nft", "-legacy", ""] {
        for ip in ["ip", "ip6"] {
            let program = format!("{ip}tables{infix}");
            let tables = if infix == "-legacy" { legacy_tables(ip) } else { TABLES.to_vec() };
            for table in tables {
                let saved = match run(&format!("{program}-save"), &["-t", table], None).await {
                    Ok(saved) => saved,
                    Err(FilterError::Run { .. }) => continue,
                    Err(error) => return Err(error),
                };
                // The program without an infix is one of the other two.
                let known = |one: &Saved| one.table == table && one.program.starts_with(&program);
                let lines = lines(&saved);
                if !lines.is_empty() && !found.iter().any(known) {
                    found.push(Saved { program: program.clone(), table, lines });
                }
            }
        }
    }
    Ok(found)
}

/// Tables that the agent writes to.
const TABLES: [&str; 2] = ["filter", "nat"];

/// Existing tables only: querying x_tables for another one creates it.
fn legacy_tables(ip: &str) -> Vec<&'static str> {
    let there = std::fs::read_to_string(format!("/proc/net/{ip}_tables_names"));
    let there = there.unwrap_or_default();
    TABLES.into_iter().filter(|table| there.lines().any(|line| line == *table)).collect()
}

/// Applies the lines in one transaction.
///
/// # Errors
/// [`FilterError`].
pub async fn restore(saved: &Saved) -> Result<(), FilterError> {
    let text = format!("*{}\n{}\nCOMMIT\n", saved.table, saved.lines.join("\n"));
    let program = format!("{}-restore", saved.program);
    run(&program, &["--noflush", "--wait"], Some(text)).await.map(drop)
}

/// The names of our sets; none if `ipset` is not installed.
///
/// # Errors
/// [`FilterError`].
pub async fn own_sets() -> Result<Vec<String>, FilterError> {
    match run("ipset", &["list", "-name"], None).await {
        Ok(names) => Ok(names.lines().filter(|name| is_ours(name)).map(Into::into).collect()),
        Err(FilterError::Run { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Destroys a set that no rule refers to.
///
/// # Errors
/// [`FilterError`].
pub async fn destroy_set(name: &str) -> Result<(), FilterError> {
    run("ipset", &["destroy", name], None).await.map(drop)
}

/// Existing sets and members are no error: a step that failed half way is repeated.
async fn ipset(lines: Vec<String>) -> Result<(), FilterError> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut text = lines.join("\n");
    text.push('\n');
    run("ipset", &["-exist", "restore"], Some(text)).await.map(drop)
}

/// Number of other programs' rules in a back end.
async fn rules(infix: &str) -> usize {
    let Ok(text) = run(&format!("iptables{infix}-save"), &[], None).await else { return 0 };
    let foreign =
        |line: &&str| line.starts_with("-A ") && !line.contains(crate::ownership::CHAIN_PREFIX);
    text.lines().filter(foreign).count()
}

async fn run(program: &str, args: &[&str], input: Option<String>) -> Result<String, FilterError> {
    run_as(program, args, input, &|_| {}).await
}

/// `started` is called with the process id before the program has read its input.
async fn run_as(
    program: &str,
    args: &[&str],
    input: Option<String>,
    started: &(dyn Fn(u32) + Sync),
) -> Result<String, FilterError> {
    let failed = |source| FilterError::Run { program: program.into(), source };
    let mut child = Command::new(program)
        .args(args)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    child.id().into_iter().for_each(started);
    let stdin = child.stdin.take();
    let feed = async {
        if let (Some(mut stdin), Some(input)) = (stdin, input) {
            // A program that exits early reports why.
            _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let ended = async { tokio::join!(feed, child.wait_with_output()).1 };
    let slow = |_| FilterError::Slow { program: program.into() };
    let output = timeout(PATIENCE, ended).await.map_err(slow)?.map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(FilterError::Refused { program: program.into(), why })
}

/// Parses the output of `ipset list -terse`.
fn read_sizes(text: &str) -> BTreeMap<String, usize> {
    let (mut sizes, mut name) = (BTreeMap::new(), "");
    for line in text.lines() {
        if let Some(next) = line.strip_prefix("Name: ") {
            name = next;
        } else if let Some(size) = line.strip_prefix("Number of entries: ")
            && is_ours(name)
        {
            sizes.extend(size.parse().ok().map(|size| (name.to_owned(), size)));
        }
    }
    sizes
}

/// Parses the output of `ipset save`.
pub fn read_sets(text: &str, actual: &mut Actual) {
    for line in text.lines() {
        let mut words = line.split(' ');
        let (verb, name) = (words.next(), words.next().unwrap_or_default());
        if !is_ours(name) {
            continue;
        }
        let word = words.next().unwrap_or_default().to_owned();
        match verb {
            Some("create") => _ = actual.sets.insert(name.into(), (word, Default::default())),
            Some("add") => {
                if let Some((_, members)) = actual.sets.get_mut(name) {
                    members.insert(word, words.any(|word| word == "nomatch"));
                }
            }
            _ => {}
        }
    }
}

/// Parses the output of `iptables-save`.
pub fn read_rules(family: Family, text: &str, actual: &mut Actual) {
    for line in text.lines() {
        if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
            if is_ours(chain) {
                actual.chains.entry((family, chain.into())).or_default();
            }
        } else if let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|rest| {
            // A rule that consists of its chain only.
            rest.split_once(' ').or(Some((rest, "")))
        }) {
            let key = (family, chain.to_owned());
            if is_ours(chain) {
                actual.chains.entry(key).or_default().push(rule.into());
            } else if HOOKS.iter().any(|(hook, _)| *hook == chain) {
                actual.hooks.entry(key).or_default().push(rule.into());
            }
        }
    }
}

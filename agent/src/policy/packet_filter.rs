//! iptables and ipset: what is there is read from their `save`, what is to change goes to their `restore`.
//! Argument vectors only; what is written goes through standard input.

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

/// Longest that any of them may take.
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

/// A program did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// It cannot be run.
    #[error("{program} cannot be run: is it installed?")]
    Run {
        /// Which.
        program: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It refused.
    #[error("{program}: {why}")]
    Refused {
        /// Which.
        program: String,
        /// What it said.
        why: String,
    },
    /// It took too long.
    #[error("{program} did not end within {PATIENCE:?}")]
    Slow {
        /// Which.
        program: String,
    },
}

/// The programs of a back end.
#[derive(Clone, Debug)]
pub struct PacketFilter {
    infix: &'static str,
    own: OwnWriters,
    tells: bool,
}

impl PacketFilter {
    /// Finds out which iptables this host uses.
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

    /// Whether the kernel tells of changes (`disturbance`): x_tables does not, and has to be read.
    #[must_use]
    pub fn tells(&self) -> bool {
        self.tells
    }

    /// Processes that write rules for this agent.
    #[must_use]
    pub fn own_writers(&self) -> OwnWriters {
        self.own.clone()
    }

    /// How many members each of our sets has, by its full name. Cheap: `ipset` does not list the members.
    ///
    /// # Errors
    /// [`FilterError`].
    pub async fn set_sizes(&self) -> Result<BTreeMap<String, usize>, FilterError> {
        Ok(read_sizes(&run("ipset", &["list", "-terse"], None).await?))
    }

    /// For people.
    #[must_use]
    pub fn name(&self) -> String {
        format!("iptables{}", self.infix)
    }

    fn program(&self, family: Family, action: &str) -> String {
        let ip = if family == Family::V4 { "ip" } else { "ip6" };
        format!("{ip}tables{}-{action}", self.infix)
    }

    /// Reads what is there of ours.
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

    /// Makes changes, in their order.
    ///
    /// # Errors
    /// [`FilterError`]: they may be made in part, up to some step.
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

/// A table of some iptables, and lines for it.
#[derive(Debug)]
pub struct Saved {
    program: String,
    table: &'static str,
    /// Lines for `iptables-restore`.
    pub lines: Vec<String>,
}

impl Saved {
    /// For people.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}, table {}", self.program, self.table)
    }
}

/// Reads every table that may have something of ours, of every iptables on this host. `lines` makes of each what is
/// to be done there. One that is not installed, or that the kernel does not know, has nothing.
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
                // Without an infix it is one of the other two.
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

/// Those that are there: asking x_tables for another one makes it.
fn legacy_tables(ip: &str) -> Vec<&'static str> {
    let there = std::fs::read_to_string(format!("/proc/net/{ip}_tables_names"));
    let there = there.unwrap_or_default();
    TABLES.into_iter().filter(|table| there.lines().any(|line| line == *table)).collect()
}

/// Carries the lines out, in one transaction.
///
/// # Errors
/// [`FilterError`].
pub async fn restore(saved: &Saved) -> Result<(), FilterError> {
    let text = format!("*{}\n{}\nCOMMIT\n", saved.table, saved.lines.join("\n"));
    let program = format!("{}-restore", saved.program);
    run(&program, &["--noflush", "--wait"], Some(text)).await.map(drop)
}

/// The names of our sets. Without `ipset` there are none.
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

/// Destroys a set that no rule names any more.
///
/// # Errors
/// [`FilterError`].
pub async fn destroy_set(name: &str) -> Result<(), FilterError> {
    run("ipset", &["destroy", name], None).await.map(drop)
}

/// Members that are there already, and sets, are no error: a step that failed half way is done again.
async fn ipset(lines: Vec<String>) -> Result<(), FilterError> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut text = lines.join("\n");
    text.push('\n');
    run("ipset", &["-exist", "restore"], Some(text)).await.map(drop)
}

/// How many rules somebody else has in a back end.
async fn rules(infix: &str) -> usize {
    let Ok(text) = run(&format!("iptables{infix}-save"), &[], None).await else { return 0 };
    let foreign =
        |line: &&str| line.starts_with("-A ") && !line.contains(crate::ours::CHAIN_PREFIX);
    text.lines().filter(foreign).count()
}

async fn run(program: &str, args: &[&str], input: Option<String>) -> Result<String, FilterError> {
    run_as(program, args, input, &|_| {}).await
}

/// `started` hears the process id before the program has read its input.
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
            // A program that ends early says why.
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

/// What `ipset list -terse` printed.
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

/// What `ipset save` printed.
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

/// What `iptables-save` printed.
pub fn read_rules(family: Family, text: &str, actual: &mut Actual) {
    for line in text.lines() {
        if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
            if is_ours(chain) {
                actual.chains.entry((family, chain.into())).or_default();
            }
        } else if let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|rest| {
            // A rule without anything but its chain.
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

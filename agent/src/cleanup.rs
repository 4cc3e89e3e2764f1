//! `romana-agent cleanup`: removes everything that Romana has set up in this namespace's kernel,
//! for hosts that leave Romana for good. It is not needed for restarts and upgrades: what the
//! agent leaves behind keeps working.
//!
//! The order ensures that nothing refers to a removed object: rules and chains of every iptables variant,
//! sets, routes of our protocol in all tables, links. A link whose peer is in a container is kept with its
//! routes, unless forced. Objects not recognised as Romana's ([`crate::ownership`]) are left alone.

use std::fs::TryLockError;
use std::path::{Path, PathBuf};

use romana_daemon::error::chain;
use romana_statemachine::plural;
use rtnetlink::Handle;

use crate::kernel::KernelError;
use crate::kernel::leftovers::{self, OwnLink, OwnRoute};
use crate::ownership::{CHAIN_PREFIX, LOCK_FILE};
use crate::policy::packet_filter::{self, FilterError, Saved};

/// What to take away, and how.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Cleanup {
    /// Say what would be taken away, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Also links of containers that run: they lose their network
    #[arg(long)]
    pub force: bool,
}

/// The cleanup failed.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// A running agent would restore everything.
    #[error("romana-agent runs with the state directory {}: stop it first", .0.display())]
    Running(PathBuf),
    #[error("cannot read what is in the kernel")]
    Kernel(#[from] KernelError),
    #[error("cannot read rules and sets")]
    Filter(#[from] FilterError),
    #[error("{0} of what is Romana's is still there, see above")]
    Left(usize),
}

/// Romana's objects in the kernel.
struct Found {
    /// By `iptables-restore` program: tables, and the commands that remove Romana's rules from them.
    rules: Vec<Saved>,
    sets: Vec<String>,
    routes: Vec<OwnRoute>,
    links: Vec<OwnLink>,
}

/// Removes everything, or lists what there is. `say` is called with a line for each object.
///
/// # Errors
/// [`CleanupError`]; the remaining objects are removed nevertheless.
pub async fn run(
    wanted: &Cleanup,
    state_dir: &Path,
    mut say: impl FnMut(String),
) -> Result<(), CleanupError> {
    if is_locked(state_dir) {
        return Err(CleanupError::Running(state_dir.to_owned()));
    }
    let (connection, handle, _) =
        rtnetlink::new_connection_with_strict_check().map_err(KernelError::from)?;
    tokio::spawn(connection);
    let found = Found {
        rules: packet_filter::saved_everywhere(removal).await?,
        sets: packet_filter::own_sets().await?,
        routes: leftovers::routes(&handle).await?,
        links: leftovers::links(&handle).await?,
    };
    let mut left = 0;
    let mut done = |what: String, outcome: Result<(), String>| match outcome {
        Ok(()) if wanted.dry_run => say(format!("would remove {what}")),
        Ok(()) => say(format!("removed {what}")),
        Err(why) => {
            left += 1;
            say(format!("kept {what}: {why}"));
        }
    };
    let Found { rules, sets, routes, links } = found;
    if rules.is_empty() && sets.is_empty() && routes.is_empty() && links.is_empty() {
        say(String::from("nothing of Romana's is in this kernel"));
        return Ok(());
    }
    for saved in rules {
        let what =
            format!("{} of {} (rules and chains)", plural(saved.lines.len(), "line"), saved.name());
        let outcome = if wanted.dry_run { Ok(()) } else { packet_filter::restore(&saved).await };
        done(what, outcome.map_err(|error| chain(&error)));
    }
    for set in sets {
        let outcome = match wanted.dry_run {
            true => Ok(()),
            false => packet_filter::destroy_set(&set).await,
        };
        done(format!("set {set}"), outcome.map_err(|error| chain(&error)));
    }
    remove_routes_and_links(wanted, &handle, routes, links, &mut done).await;
    if left > 0 { Err(CleanupError::Left(left)) } else { Ok(()) }
}

async fn remove_routes_and_links(
    wanted: &Cleanup,
    handle: &Handle,
    routes: Vec<OwnRoute>,
    links: Vec<OwnLink>,
    done: &mut impl FnMut(String, Result<(), String>),
) {
    let keeps = |link: &&OwnLink| link.in_use && !wanted.force;
    let kept: Vec<u32> = links.iter().filter(keeps).map(|link| link.index).collect();
    for route in routes {
        // These routes belong to a link that is kept, and are reported with it.
        if route.link().is_some_and(|link| kept.contains(&link)) {
            continue;
        }
        let what = format!("route {route}");
        let outcome = match wanted.dry_run {
            true => Ok(()),
            false => leftovers::remove_route(handle, route).await,
        };
        done(what, outcome.map_err(|error| chain(&error)));
    }
    for link in &links {
        let outcome = match (keeps(&link), wanted.dry_run) {
            (true, _) => Err(String::from(
                "a container uses it and the routes to it: end the container, or --force",
            )),
            (false, true) => Ok(()),
            (false, false) => {
                leftovers::remove_link(handle, link).await.map_err(|error| chain(&error))
            }
        };
        done(format!("link {}", link.name), outcome);
    }
}

/// Whether an agent holds the lock of this directory. A missing directory is not locked.
fn is_locked(dir: &Path) -> bool {
    let opened = std::fs::File::options().write(true).open(dir.join(LOCK_FILE));
    opened.is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Input for `iptables-restore` that removes Romana's part of a table, as printed by `iptables-save`: first
/// rules that jump to our chains, then the chains' rules, then the chains.
fn removal(saved: &str) -> Vec<String> {
    let ours = |name: &str| name.starts_with(CHAIN_PREFIX);
    let chains: Vec<&str> = saved
        .lines()
        .filter_map(|line| line.strip_prefix(':')?.split(' ').next())
        .filter(|name| ours(name))
        .collect();
    let jumps = saved.lines().filter_map(|line| line.strip_prefix("-A ")).filter(|rule| {
        let mut words = rule.split(' ');
        let own = words.next().is_some_and(ours);
        let words: Vec<&str> = words.collect();
        let target = words.windows(2).find(|pair| matches!(pair[0], "-j" | "-g"));
        !own && target.is_some_and(|pair| ours(pair[1]))
    });
    let mut lines: Vec<String> = jumps.map(|rule| format!("-D {rule}")).collect();
    for action in ["-F", "-X"] {
        lines.extend(chains.iter().map(|chain| format!("{action} {chain}")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_ours_goes() {
        let saved = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:ROMANA-IN - [0:0]\n\
            :ROMANA-P-x - [0:0]\n:OTHER - [0:0]\n-A INPUT -j ROMANA-IN\n-A INPUT -s 10.0.0.1/32 -j OTHER\n\
            -A ROMANA-IN -j ROMANA-P-x\n-A OTHER -m comment --comment \"-j ROMANA-IN\" -j DROP\n\
            -A OTHER -g ROMANA-IN\nCOMMIT\n";
        assert_eq!(
            removal(saved),
            [
                "-D INPUT -j ROMANA-IN",
                "-D OTHER -g ROMANA-IN",
                "-F ROMANA-IN",
                "-F ROMANA-P-x",
                "-X ROMANA-IN",
                "-X ROMANA-P-x",
            ]
        );
        assert_eq!(removal("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"), Vec::<String>::new());
    }

    #[test]
    fn an_agent_that_runs_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_locked(dir.path()) && !is_locked(&dir.path().join("none")));
        let lock = std::fs::File::create(dir.path().join(LOCK_FILE)).unwrap();
        assert!(!is_locked(dir.path()));
        lock.lock().unwrap();
        assert!(is_locked(dir.path()));
    }
}

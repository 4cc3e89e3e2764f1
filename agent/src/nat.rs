//! Masquerades packets that leave the Romana networks (`--nat`): external destinations see the host's
//! address, Romana networks see the container's.
//!
//! ```text
//!   nat POSTROUTING ─► ROMANA-MASQ:  -d <each network> RETURN
//!                                    -s <each network> [-o <interface>] MASQUERADE
//! ```
//! The chain is compared with the desired rules and rewritten in one transaction if it differs.
//! Without `--nat` it is removed.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use ipnet::IpNet;
use romana_daemon::problems::Problems;
use romana_daemon::reconcile::{self, Next, Pass, Reconcile, Schedule};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::follow::Seen;
use crate::ownership::MASQUERADE_CHAIN as CHAIN;

const TABLE: &str = "nat";
const HOOK: &str = "POSTROUTING";
/// When the chain is checked, besides on changes.
const SCHEDULE: Schedule = Schedule {
    period: Some(Duration::from_secs(30)),
    retry: Duration::from_secs(1),
    retry_max: Duration::from_secs(8),
};

/// What is masqueraded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nat {
    /// Only packets that leave through this interface; `None`: any interface.
    pub interface: Option<String>,
}

/// The rules of the chain for one family, as printed by `iptables -S`.
#[must_use]
pub fn rules(nat: &Nat, networks: &[IpNet], v4: bool) -> Vec<String> {
    let own = || networks.iter().filter(move |cidr| cidr.addr().is_ipv4() == v4);
    let out = nat.interface.as_ref().map(|name| format!(" -o {name}")).unwrap_or_default();
    let inside = own().map(|cidr| format!("-A {CHAIN} -d {cidr} -j RETURN"));
    let outside = own().map(|cidr| format!("-A {CHAIN} -s {cidr}{out} -j MASQUERADE"));
    inside.chain(outside).collect()
}

/// Reconciles the chain until `stop`; with `None` it is removed once.
pub async fn keep(
    nat: Option<Nat>,
    seen: watch::Receiver<Seen>,
    problems: Problems,
    stop: CancellationToken,
) {
    if let Some(nat) = nat {
        let masquerade = Masquerade { nat, seen, networks: None };
        return reconcile::run(masquerade, SCHEDULE, problems, stop).await;
    }
    let mut wrong = Vec::new();
    for v4 in [true, false] {
        wrong.extend(blocking(move || take_away(v4)).await.err());
    }
    problems.report(Masquerade::PART, wrong);
    stop.cancelled().await;
}

/// Reconciler of the chain.
struct Masquerade {
    nat: Nat,
    seen: watch::Receiver<Seen>,
    /// The networks of the last pass.
    networks: Option<Vec<IpNet>>,
}

impl Reconcile for Masquerade {
    const PART: &'static str = "nat";

    async fn pass(&mut self) -> Pass {
        self.networks = networks(&self.seen.borrow_and_update());
        let Some(networks) = &self.networks else { return Pass::default() };
        let mut pass = Pass::default();
        for v4 in [true, false] {
            let wanted = rules(&self.nat, networks, v4);
            if let Err(why) = blocking(move || put(v4, &wanted)).await {
                pass.problems.push(why);
                pass.next = Next::Retry;
            }
        }
        pass
    }

    /// Most changes of the view do not affect networks.
    async fn wake(&mut self) {
        loop {
            if self.seen.changed().await.is_err() {
                return std::future::pending().await;
            }
            if networks(&self.seen.borrow_and_update()) != self.networks {
                return;
            }
        }
    }
}

fn networks(seen: &Seen) -> Option<Vec<IpNet>> {
    let view = seen.view.as_ref()?;
    Some(view.networks.iter().map(|network| network.cidr).collect())
}

async fn blocking(
    work: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Result<(), String> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.unwrap_or_else(|error| Err(error.to_string()));
    done.map_err(|why| format!("the chain {CHAIN} is not as wanted: {why}"))
}

fn put(v4: bool, wanted: &[String]) -> Result<(), String> {
    if wanted.is_empty() {
        return take_away(v4);
    }
    let tables = open(v4)?;
    let why = |error: Box<dyn std::error::Error>| error.to_string();
    let there = tables.chain_exists(TABLE, CHAIN).map_err(why)?;
    let actual = if there { tables.list(TABLE, CHAIN).map_err(why)? } else { Vec::new() };
    let actual: Vec<_> = actual.into_iter().filter(|line| line.starts_with("-A")).collect();
    if !there || actual != wanted {
        restore(v4, wanted)?;
    }
    let jump = format!("-j {CHAIN}");
    if !tables.exists(TABLE, HOOK, &jump).map_err(why)? {
        tables.append(TABLE, HOOK, &jump).map_err(why)?;
    }
    Ok(())
}

/// Declaring a chain empties it: the transaction replaces its content, and nothing else.
fn restore(v4: bool, rules: &[String]) -> Result<(), String> {
    let mut text = format!("*{TABLE}\n:{CHAIN} - [0:0]\n");
    for rule in rules {
        // Writing to a string does not fail.
        _ = writeln!(text, "{rule}");
    }
    text.push_str("COMMIT\n");
    let program = if v4 { "iptables-restore" } else { "ip6tables-restore" };
    let mut child = Command::new(program)
        .args(["--noflush", "--wait"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(text.as_bytes()).map_err(|error| format!("{program}: {error}"))?;
    }
    let output = child.wait_with_output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{program}: {}", said.trim())) }
}

fn take_away(v4: bool) -> Result<(), String> {
    // Without iptables there is nothing to remove.
    let Ok(tables) = open(v4) else { return Ok(()) };
    if !tables.chain_exists(TABLE, CHAIN).unwrap_or(false) {
        return Ok(());
    }
    let why = |error: Box<dyn std::error::Error>| error.to_string();
    let jump = format!("-j {CHAIN}");
    if tables.exists(TABLE, HOOK, &jump).map_err(why)? {
        tables.delete_all(TABLE, HOOK, &jump).map_err(why)?;
    }
    tables.flush_chain(TABLE, CHAIN).map_err(why)?;
    tables.delete_chain(TABLE, CHAIN).map_err(why)
}

fn open(v4: bool) -> Result<iptables::IPTables, String> {
    iptables::new(!v4).map_err(|error| format!("iptables cannot be used: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_see_each_other_and_the_rest_sees_the_host() {
        let networks: Vec<IpNet> =
            ["10.1.0.0/16", "fd00::/64", "10.2.0.0/16"].map(|cidr| cidr.parse().unwrap()).to_vec();
        let expected = [
            "-A ROMANA-MASQ -d 10.1.0.0/16 -j RETURN",
            "-A ROMANA-MASQ -d 10.2.0.0/16 -j RETURN",
            "-A ROMANA-MASQ -s 10.1.0.0/16 -o eth0 -j MASQUERADE",
            "-A ROMANA-MASQ -s 10.2.0.0/16 -o eth0 -j MASQUERADE",
        ];
        assert_eq!(rules(&Nat { interface: Some("eth0".into()) }, &networks, true), expected);
        let v6 = rules(&Nat { interface: None }, &networks, false);
        let expected =
            ["-A ROMANA-MASQ -d fd00::/64 -j RETURN", "-A ROMANA-MASQ -s fd00::/64 -j MASQUERADE"];
        assert_eq!(v6, expected);
    }
}

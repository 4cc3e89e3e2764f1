//! Network partitions between replicas on loopback. Each replica runs as a user of its own, and a
//! packet filter drops what one user's processes send to another's peer port. That is a cable
//! cut: connections stay open and nothing arrives. Needs root and `nft`.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cluster::Cluster;

/// The packet filter of this process. Removed on drop.
#[derive(Debug)]
pub struct Partition {
    table: String,
}

impl Partition {
    /// Whether partitions can be made here.
    #[must_use]
    pub fn possible() -> bool {
        rustix::process::geteuid().is_root()
            && Command::new("nft").arg("--version").output().is_ok_and(|out| out.status.success())
    }

    /// An empty filter, under a name that says whose it is.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn new() -> Result<Self> {
        let table = format!("romana_chaos_{}", std::process::id());
        let partition = Self { table };
        partition.load("")?;
        Ok(partition)
    }

    /// Cuts all links between two sides. Replaces what was cut before.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn cut(&self, cluster: &Cluster, side: &[usize]) -> Result<()> {
        let mut rules = String::new();
        let all = cluster.replicas();
        for from in 0..all.len() {
            for to in (0..all.len()).filter(|to| side.contains(&from) != side.contains(to)) {
                let (user, port) = (cluster.user_of(from), all[to].peer.port());
                rules.push_str(&format!("meta skuid {user} tcp dport {port} counter drop\n"));
                // Forwarded writes and reads go to the API port.
                let port = all[to].api.port();
                rules.push_str(&format!("meta skuid {user} tcp dport {port} counter drop\n"));
            }
        }
        self.load(&rules)
    }

    /// Ends the partition.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn heal(&self) -> Result<()> {
        self.load("")
    }

    /// Replaces the whole table in one transaction.
    fn load(&self, rules: &str) -> Result<()> {
        let table = &self.table;
        // Adding before deleting: deleting what is not there is an error.
        nft(&format!(
            "add table inet {table}\ndelete table inet {table}\ntable inet {table} {{\nchain out {{\n\
             type filter hook output priority 0; policy accept;\n{rules}}}\n}}\n"
        ))
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        if let Err(error) = nft(&format!("delete table inet {}\n", self.table)) {
            eprintln!("the packet filter {} was not removed: {error:#}", self.table);
        }
    }
}

fn nft(script: &str) -> Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run nft")?;
    child.stdin.take().context("nft's input")?.write_all(script.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

//! What the agent says about itself: one document for `/status` and `romana-agent status`.

use std::collections::BTreeMap;

use ipnet::IpNet;
use romana_statemachine::Revision;
use serde::{Deserialize, Serialize};

/// What an agent sees and has done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The host.
    pub host: String,
    /// Version of the program.
    pub version: String,
    /// Up to where the agent has followed the log; `None`: it has no view yet.
    pub revision: Option<Revision>,
    /// The revision that the kernel agrees with.
    pub applied: Option<Revision>,
    /// Milliseconds since a replica was last heard; `None`: not since the start.
    pub stale_ms: Option<u64>,
    /// Routes in the kernel that are ours.
    pub routes: usize,
    /// Blocks without a route because there is none to be had here, and why.
    pub skipped: BTreeMap<IpNet, String>,
    /// What somebody has to do something about.
    pub problems: Vec<String>,
    /// Changes asked of the kernel since the start.
    pub writes: u64,
}

impl Status {
    /// Whether the kernel agrees with what is known of the log.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.revision.is_some() && self.applied.is_some()
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let number =
            |value: Option<u64>| value.map_or_else(|| "none".to_owned(), |n| n.to_string());
        let ago = |ms: u64| format!("{}.{} s ago", ms / 1000, ms % 1000 / 100);
        let never = || "no replica since the start".to_owned();
        let stale = self.stale_ms.map_or_else(never, ago);
        let mut text = format!(
            "host        {}\nversion     {}\nrevision    {} (applied: {})\nheard       {stale}\nroutes      \
             {} ({} written since the start)\n",
            self.host,
            self.version,
            number(self.revision),
            number(self.applied),
            self.routes,
            self.writes,
        );
        for (block, why) in &self.skipped {
            text.push_str(&format!("no route    {block}: {why}\n"));
        }
        for problem in &self.problems {
            text.push_str(&format!("problem     {problem}\n"));
        }
        text
    }
}

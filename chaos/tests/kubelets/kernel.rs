//! What Romana has in the kernels of the nodes.

use std::fs;

use crate::node::Node;

/// Everything of Romana on a node that is there for pods: their links and routes, rules, sets, files.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Traces {
    links: Vec<String>,
    routes: Vec<String>,
    rules: Vec<String>,
    sets: Vec<String>,
    attachments: usize,
    /// DELs that wait for an agent.
    spooled: usize,
}

impl Traces {
    pub(crate) fn of(node: &Node) -> Self {
        let run = |program: &str, arguments: &[&str]| node.machine.run(program, arguments);
        let lines = |text: String, wanted: &dyn Fn(&str) -> bool| {
            let mut lines: Vec<String> =
                text.lines().filter(|line| wanted(line)).map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let files = |dir: &str| {
            let dir = fs::read_dir(node.machine.path(&format!("/var/lib/romana/{dir}")));
            dir.map_or(0, Iterator::count)
        };
        Self {
            links: lines(run("ip", &["-oneline", "link", "show", "type", "veth"]), &|line| {
                line.contains("romana-")
            }),
            // Blocks stay with their node for a while; those of pods name a link.
            routes: lines(run("ip", &["route", "show", "proto", "57"]), &|line| {
                line.contains("dev romana-")
            }),
            rules: lines(run("iptables-save", &[]), &|line| {
                line.contains("ROMANA-") && !line.starts_with(':')
            }),
            sets: lines(run("ipset", &["list", "-name"]), &|line| line.starts_with("ROMANA-")),
            attachments: files("attachments"),
            spooled: files("spool"),
        }
    }

    /// No link, route or file of a pod.
    pub(crate) fn has_no_pods(&self) -> bool {
        let files = self.attachments + self.spooled;
        self.links.is_empty() && self.routes.is_empty() && files == 0
    }

    /// How many pods the node has, if links, routes and files agree.
    pub(crate) fn pods(&self) -> Option<usize> {
        let count = self.links.len();
        (self.routes.len() == count && self.attachments == count).then_some(count)
    }

    /// Nothing at all, not even what stands without pods. DELs that a kubelet repeats after the agent has gone stay
    /// where they wait.
    pub(crate) fn is_nothing(&self) -> bool {
        let lists = [&self.links, &self.routes, &self.rules, &self.sets];
        lists.iter().all(|list| list.is_empty()) && self.attachments == 0
    }
}

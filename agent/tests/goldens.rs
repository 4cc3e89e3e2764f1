//! Plans and changes of routes as golden files: input, `---`, effects. `UPDATE=1` rewrites them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use romana_agent::routes::{
    Change, Facts, Gateway, Hop, Link, Options, Target, diff, missing, plan,
};
use romana_agent::view::{Block, Host, View};
use romana_statemachine::command::HostState;
use romana_testing::goldens::check;

#[path = "goldens/vips.rs"]
mod vips;

#[derive(Default)]
struct Case {
    view: Option<View>,
    facts: Facts,
    options: Options,
    actual: BTreeMap<IpNet, Target>,
}

impl Case {
    fn read(text: &str) -> Self {
        let mut case = Self::default();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            case.take(words[0], &words[1..]);
        }
        case
    }

    fn take(&mut self, what: &str, words: &[&str]) {
        let ip = |word: &str| word.parse::<IpAddr>().expect("an address");
        let net = |word: &str| word.parse::<IpNet>().expect("a prefix");
        match what {
            "host" => {
                // The first host is the one whose routes are planned.
                let view = self.view.get_or_insert_with(|| View::new(words[0].into()));
                let state = if words.contains(&"down") { HostState::Down } else { HostState::Up };
                let ips = words[1..].iter().filter(|word| **word != "down").map(|word| ip(word));
                view.hosts.insert(words[0].into(), Host { ips: ips.collect(), state });
            }
            "block" => {
                let block =
                    Block { host: words[1].into(), tenant: "t".into(), segment: "s".into() };
                self.view.as_mut().expect("hosts first").blocks.insert(net(words[0]), block);
            }
            "link" => self.facts.links.push(Link {
                index: words[1].parse().expect("an index"),
                name: words[0].into(),
                prefixes: words[2..].iter().map(|word| net(word)).collect(),
            }),
            "silent" => {
                self.facts.silent = words.iter().map(|word| ip(word)).collect::<BTreeSet<_>>()
            }
            "gateway" => {
                let link = words[2].parse().expect("an index");
                self.facts.gateways.insert(ip(words[0]), Gateway { via: ip(words[1]), link });
            }
            "multihop" => self.options.multihop = true,
            "ecmp" => self.options.ecmp = true,
            "actual" => _ = self.actual.insert(net(words[0]), target(&words[1..])),
            other => panic!("{other}?"),
        }
    }

    fn print(&self) -> String {
        let plan = plan(self.view.as_ref().expect("a host"), &self.facts, self.options);
        let mut text = String::new();
        for (prefix, target) in &plan.routes {
            text.push_str(&format!("route {prefix} {}\n", show(target)));
        }
        for skip in &plan.skipped {
            let kind = if skip.problem { "problem" } else { "skip" };
            text.push_str(&format!("{kind} {}: {}\n", skip.block, skip.why));
        }
        for change in diff(&self.actual, &plan.routes) {
            text.push_str(&format!("change {}\n", show_change(&change)));
        }
        for change in missing(&self.actual, &plan.routes) {
            text.push_str(&format!("before catching up: {}\n", show_change(&change)));
        }
        text
    }
}

/// Parses `unreachable` or `VIA LINK` pairs.
fn target(words: &[&str]) -> Target {
    if words == ["unreachable"] {
        return Target::Unreachable;
    }
    let hop = |pair: &[&str]| Hop {
        via: pair[0].parse().expect("an address"),
        link: pair[1].parse().expect("an index"),
    };
    Target::Via(words.chunks(2).map(hop).collect())
}

fn show(target: &Target) -> String {
    match target {
        Target::Unreachable => "unreachable".into(),
        Target::Via(hops) => {
            let hops = hops.iter().map(|hop| format!("via {} link {}", hop.via, hop.link));
            hops.collect::<Vec<_>>().join(" ")
        }
    }
}

fn show_change(change: &Change) -> String {
    match change {
        Change::Add(prefix, target) => format!("add {prefix} {}", show(target)),
        Change::Replace(prefix, target) => format!("replace {prefix} {}", show(target)),
        Change::Remove(prefix, target) => format!("remove {prefix} {}", show(target)),
    }
}

#[test]
fn routes_are_planned_as_the_goldens_say() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/routes");
    check(&dir, 5, |input| Case::read(input).print());
}

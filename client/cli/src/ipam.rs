//! `romana ipam`: compares the log with the hosts' reports; and cross-checks addresses, blocks, groups and endpoints
//! from outside. The state machine maintains these invariants; this check is independent of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use clap::Subcommand;
use ipnet::IpNet;
use romana_api::Page;
use romana_api::block::{Blackout, Block};
use romana_api::network::Network;
use romana_client::{Error, Query};
use romana_statemachine::command::Endpoint;
use romana_statemachine::finding::{Finding as Difference, Severity};
use romana_statemachine::name::HostName;
use romana_statemachine::{Allocation, Host, Revision};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;
use crate::network;
use crate::table::{Table, Tone};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List differences between the log and the hosts, and inconsistencies; exit code 1 if there are any
    Check,
    /// Show the utilization of every prefix group
    #[command(visible_alias = "usage")]
    Show,
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Check => check(ctx).await,
            Self::Show => ctx.show_list(Query::new(network::PATH), network::usage).await,
        }
    }
}

/// All networks with the usage of their groups.
pub(crate) async fn networks(ctx: &Context) -> Result<Vec<Network>, Failure> {
    let list: Answer<Page<Network>> = ctx.list(Query::new(network::PATH)).await?;
    Ok(list.value.items)
}

/// Differences between the log and the hosts' reports; none from a replica that does not support the request.
pub(crate) async fn differences(ctx: &Context) -> Result<Vec<Difference>, Failure> {
    match ctx.client.ipam_check().await {
        Ok(found) => Ok(found.items),
        Err(Error::Refused(error)) if error.status == 404 => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

fn tone(difference: &Difference) -> Tone {
    match difference.severity {
        Severity::Error => Tone::Bad,
        Severity::Warning => Tone::Warning,
    }
}

/// Rounds of reading: the lists must be of the same revision to be compared.
const ROUNDS_MAX: usize = 10;

/// The result of the check.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    problems: Vec<Problem>,
    differences: Vec<Difference>,
    checked: Counts,
    revisions: BTreeSet<Revision>,
    /// Whether all lists are of one revision.
    settled: bool,
}

/// A contradiction between the lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Problem {
    subject: String,
    what: String,
}

/// Numbers of objects that were compared.
#[derive(Debug, Serialize)]
struct Counts {
    addresses: usize,
    blocks: usize,
    hosts: usize,
    endpoints: usize,
}

async fn check(ctx: &Context) -> Result<(), Failure> {
    let report = report(ctx).await?;
    let fine = report.problems.is_empty() && report.differences.is_empty();
    ctx.out.show(&Answer::own(report), table)?;
    if fine { Ok(()) } else { Err(Failure::Found) }
}

/// Compares the log with the hosts' reports, and the lists with each other.
pub(crate) async fn report(ctx: &Context) -> Result<Report, Failure> {
    let differences = differences(ctx).await?;
    let mut seen = Lists::read(ctx).await?;
    let mut problems = problems(&seen);
    for _ in 1..ROUNDS_MAX {
        if problems.is_empty() || seen.is_one_revision() {
            break;
        }
        seen = Lists::read(ctx).await?;
        problems = self::problems(&seen);
    }
    let (settled, checked) = (seen.is_one_revision(), seen.counts());
    Ok(Report { problems, differences, checked, revisions: seen.revisions, settled })
}

fn table(report: &Report) -> Table {
    let columns = ["CODE", "SUBJECT", "PROBLEM", "WHAT TO DO"];
    let mut table = Table::new(&columns, "no inconsistency found");
    for Problem { subject, what } in &report.problems {
        let (code, remedy) = ("Inconsistent".into(), "romana audit verify".into());
        table.toned(Tone::Bad, vec![code, subject.clone(), what.clone(), remedy]);
    }
    for found in &report.differences {
        let Difference { code, subject, why, remedy, .. } = found.clone();
        table.toned(tone(found), vec![code, subject, why, remedy]);
    }
    let Counts { addresses, blocks, hosts, endpoints } = report.checked;
    table.note(format!(
        "checked addresses={addresses},blocks={blocks},endpoints={endpoints},hosts={hosts}"
    ));
    if !report.problems.is_empty() && !report.settled {
        table.note("the cluster is busy: the lists are of different revisions, check again");
    }
    table
}

/// The lists to compare.
#[derive(Debug, Default)]
struct Lists {
    addresses: Vec<Allocation>,
    blocks: Vec<Block>,
    hosts: Vec<Host>,
    endpoints: Vec<Endpoint>,
    blackouts: Vec<Blackout>,
    revisions: BTreeSet<Revision>,
}

impl Lists {
    async fn read(ctx: &Context) -> Result<Self, Failure> {
        let mut lists = Self::default();
        lists.addresses = lists.one(ctx, "/v1/addresses").await?;
        lists.blocks = lists.one(ctx, "/v1/blocks").await?;
        lists.hosts = lists.one(ctx, "/v1/hosts").await?;
        lists.endpoints = lists.one(ctx, "/v1/endpoints").await?;
        lists.blackouts = lists.one(ctx, "/v1/blackouts").await?;
        Ok(lists)
    }

    async fn one<T: DeserializeOwned>(
        &mut self,
        ctx: &Context,
        path: &'static str,
    ) -> Result<Vec<T>, Failure> {
        let list: Answer<Page<T>> = ctx.list(Query::new(path)).await?;
        self.revisions.insert(list.value.revision);
        Ok(list.value.items)
    }

    fn is_one_revision(&self) -> bool {
        self.revisions.len() == 1
    }

    fn counts(&self) -> Counts {
        Counts {
            addresses: self.addresses.len(),
            blocks: self.blocks.len(),
            hosts: self.hosts.len(),
            endpoints: self.endpoints.len(),
        }
    }
}

/// Contradictions between the lists.
fn problems(lists: &Lists) -> Vec<Problem> {
    let mut found = Vec::new();
    let blocks: BTreeMap<IpNet, &Block> =
        lists.blocks.iter().map(|block| (block.cidr, block)).collect();
    check_addresses(lists, &blocks, &mut found);
    check_blocks(lists, &blocks, &mut found);
    check_endpoints(lists, &mut found);
    found
}

fn check_addresses(lists: &Lists, blocks: &BTreeMap<IpNet, &Block>, found: &mut Vec<Problem>) {
    let (mut ips, mut names) = (BTreeSet::new(), BTreeSet::new());
    for address in &lists.addresses {
        let Allocation { name, ip, block, .. } = address;
        let mut say = |what: String| found.push(Problem { subject: name.to_string(), what });
        if !ips.insert(ip) {
            say(format!("{ip} belongs to another name, too"));
        }
        if !names.insert(name) {
            say(String::from("the name is there twice"));
        }
        if !block.contains(ip) {
            say(format!("{ip} is not in its block {block}"));
        }
        let blackout = lists.blackouts.iter().find(|blackout| blackout.cidr.contains(ip));
        if let Some(Blackout { cidr }) = blackout {
            say(format!("{ip} is blacked out by {cidr}"));
        }
        let Some(owner) = blocks.get(block) else {
            say(format!("its block {block} is not assigned"));
            continue;
        };
        for (key, of, is) in [
            ("host", owner.host.as_str(), address.host.as_str()),
            ("network", owner.network.as_str(), address.network.as_str()),
            ("tenant", owner.tenant.as_str(), address.tenant.as_str()),
            ("segment", owner.segment.as_str(), address.segment.as_str()),
        ] {
            if of != is {
                say(format!("its block {block} is of {key} {of}, the address of {is}"));
            }
        }
    }
}

fn check_blocks(lists: &Lists, blocks: &BTreeMap<IpNet, &Block>, found: &mut Vec<Problem>) {
    let hosts: BTreeMap<&HostName, &Host> =
        lists.hosts.iter().map(|host| (&host.name, host)).collect();
    let mut live: BTreeMap<IpNet, u64> = BTreeMap::new();
    for address in &lists.addresses {
        *live.entry(address.block).or_default() += 1;
    }
    let mut previous: Option<IpNet> = None;
    for (cidr, block) in blocks {
        let Block { network, group, host, live: told, .. } = block;
        let mut say = |what: String| found.push(Problem { subject: cidr.to_string(), what });
        // Blocks are sorted, so an overlap is with the previous one.
        if let Some(before) = previous.filter(|before| before.contains(cidr)) {
            say(format!("it overlaps block {before}"));
        }
        previous = Some(*cidr);
        let counted = live.get(cidr).copied().unwrap_or(0);
        if *told != counted {
            say(format!("it counts {told} live addresses, there are {counted}"));
        }
        if let Some(group) = group.filter(|group| !group.contains(cidr)) {
            say(format!("it is outside its group {group}"));
        }
        match hosts.get(host).map(|host| host.place(network)) {
            None => say(format!("its host {host} does not exist")),
            Some(Some(place)) if place.contains(cidr) => {}
            Some(_) => say(format!("its host {host} has no place there")),
        }
    }
}

fn check_endpoints(lists: &Lists, found: &mut Vec<Problem>) {
    let addresses: BTreeMap<IpAddr, &Allocation> =
        lists.addresses.iter().map(|address| (address.ip, address)).collect();
    for endpoint in &lists.endpoints {
        let Some(address) = addresses.get(&endpoint.ip) else { continue };
        let (host, tenant) = (endpoint.host == address.host, endpoint.tenant == address.tenant);
        for (key, same) in [("host", host), ("tenant", tenant)] {
            if !same {
                let what = format!("as an endpoint it is of another {key} than its address");
                found.push(Problem { subject: endpoint.ip.to_string(), what });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use romana_statemachine::command::{HostSource, HostState};
    use romana_statemachine::event::Place;

    use super::*;

    fn lists(addresses: Vec<Allocation>, blocks: Vec<Block>, endpoints: Vec<Endpoint>) -> Lists {
        let place = Place { network: "n".into(), group: "10.0.0.0/18".parse().unwrap() };
        let host = Host {
            name: "h1".into(),
            ip: [192, 168, 0, 1].into(),
            addresses: Vec::new(),
            labels: BTreeMap::new(),
            info: BTreeMap::new(),
            source: HostSource::Operator,
            state: HostState::Up,
            places: vec![place],
            added: Revision(1),
        };
        let (blackouts, revisions) = (Vec::new(), BTreeSet::from([Revision(1)]));
        Lists { addresses, blocks, hosts: vec![host], endpoints, blackouts, revisions }
    }

    fn address(name: &str, ip: [u8; 4], host: &str) -> Allocation {
        Allocation {
            name: name.into(),
            ip: ip.into(),
            block: "10.0.0.0/29".parse().unwrap(),
            network: "n".into(),
            host: host.into(),
            tenant: "t".into(),
            segment: "s".into(),
            revision: Revision(1),
        }
    }

    fn block(cidr: &str, host: &str, live: u64) -> Block {
        Block {
            cidr: cidr.parse().unwrap(),
            network: "n".into(),
            group: Some("10.0.0.0/18".parse().unwrap()),
            host: host.into(),
            tenant: "t".into(),
            segment: "s".into(),
            live,
        }
    }

    fn endpoint(ip: [u8; 4], host: &str) -> Endpoint {
        let (labels, ports) = (BTreeMap::new(), Vec::new());
        let (tenant, segment) = ("t".into(), "s".into());
        Endpoint { ip: ip.into(), tenant, segment, host: host.into(), labels, ports }
    }

    #[test]
    fn what_fits_is_silent() {
        let addresses = vec![address("a", [10, 0, 0, 0], "h1"), address("b", [10, 0, 0, 1], "h1")];
        let blocks = vec![block("10.0.0.0/29", "h1", 2)];
        let lists = lists(addresses, blocks, vec![endpoint([10, 0, 0, 0], "h1")]);
        assert_eq!(problems(&lists), []);
    }

    #[test]
    fn every_contradiction_is_found() {
        let addresses = vec![
            address("a", [10, 0, 0, 0], "h1"),
            address("b", [10, 0, 0, 0], "h2"),
            address("b", [10, 0, 1, 1], "h1"),
            Allocation {
                block: "10.7.0.0/29".parse().unwrap(),
                ..address("c", [10, 7, 0, 0], "h1")
            },
        ];
        let blocks = vec![
            block("10.0.0.0/29", "h1", 1),
            block("10.0.0.0/30", "h1", 0),
            block("10.9.0.0/29", "h1", 0),
            block("10.0.2.0/29", "h9", 0),
        ];
        let mut lists = lists(addresses, blocks, vec![endpoint([10, 0, 0, 0], "h3")]);
        lists.blackouts.push(Blackout { cidr: "10.0.1.0/24".parse().unwrap() });
        let found: Vec<String> = problems(&lists)
            .into_iter()
            .map(|Problem { subject, what }| format!("{subject}: {what}"))
            .collect();
        assert_eq!(
            found,
            [
                "b: 10.0.0.0 belongs to another name, too",
                "b: its block 10.0.0.0/29 is of host h1, the address of h2",
                "b: the name is there twice",
                "b: 10.0.1.1 is not in its block 10.0.0.0/29",
                "b: 10.0.1.1 is blacked out by 10.0.1.0/24",
                "c: its block 10.7.0.0/29 is not assigned",
                "10.0.0.0/29: it counts 1 live addresses, there are 3",
                "10.0.0.0/30: it overlaps block 10.0.0.0/29",
                "10.0.2.0/29: its host h9 does not exist",
                "10.9.0.0/29: it is outside its group 10.0.0.0/18",
                "10.9.0.0/29: its host h1 has no place there",
                "10.0.0.0: as an endpoint it is of another host than its address",
            ]
        );
    }
}

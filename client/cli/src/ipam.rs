//! `romana ipam`: compares the log with the hosts' reports; and cross-checks addresses, blocks, groups and endpoints
//! from outside. The state machine maintains these invariants; this check is independent of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use clap::Subcommand;
use ipnet::IpNet;
use romana_client::{Error, Query};
use romana_statemachine::Revision;
use romana_statemachine::finding::{Finding as Difference, Severity};
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::Failure;
use crate::network;
use crate::shape::{Kind, NAMED, RANGE, Shape};
use crate::table::{Table, Tone, cell, items, text};

/// An endpoint.
const ENDPOINT: Shape = Shape::new(&[("ip", Kind::Text)]);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List differences between the log and the hosts, and inconsistencies; exit code 1 if there are any
    Check,
    /// Show how full every prefix group is
    #[command(visible_alias = "usage")]
    Show,
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Check => check(ctx).await,
            Self::Show => {
                let networks = networks(ctx).await?;
                let value = Value::from(networks.clone());
                ctx.out.show(&json!({ "items": value }), || network::usage(&networks))
            }
        }
    }
}

/// All networks with the usage of their groups.
pub(crate) async fn networks(ctx: &Context) -> Result<Vec<Value>, Failure> {
    Ok(ctx.page(Query::new("/v1/networks"), NAMED).await?.items)
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

async fn check(ctx: &Context) -> Result<(), Failure> {
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
    let settled = seen.is_one_revision();
    let counts = json!({
        "addresses": seen.addresses.len(), "blocks": seen.blocks.len(),
        "hosts": seen.hosts.len(), "endpoints": seen.endpoints.len(),
    });
    let list = problems.iter().map(|(subject, what)| json!({"subject": subject, "what": what}));
    let value = json!({
        "problems": list.collect::<Vec<_>>(), "differences": differences,
        "checked": counts, "revisions": seen.revisions, "settled": settled,
    });
    ctx.out.show(&value, || {
        let columns = ["CODE", "SUBJECT", "PROBLEM", "WHAT TO DO"];
        let mut table = Table::new(&columns, "no inconsistency found");
        for (subject, what) in &problems {
            let (code, remedy) = ("Inconsistent".into(), "romana audit verify".into());
            table.toned(Tone::Bad, vec![code, subject.clone(), what.clone(), remedy]);
        }
        for found in &differences {
            let Difference { code, subject, why, remedy, .. } = found.clone();
            table.toned(tone(found), vec![code, subject, why, remedy]);
        }
        table.note(format!("checked {}", text(&counts)));
        if !problems.is_empty() && !settled {
            table.note("the cluster is busy: the lists are of different revisions, check again");
        }
        table
    })?;
    if problems.is_empty() && differences.is_empty() { Ok(()) } else { Err(Failure::Found) }
}

/// The lists to compare.
#[derive(Debug, Default)]
struct Lists {
    addresses: Vec<Value>,
    blocks: Vec<Value>,
    hosts: Vec<Value>,
    endpoints: Vec<Value>,
    blackouts: Vec<Value>,
    revisions: BTreeSet<Revision>,
}

impl Lists {
    async fn read(ctx: &Context) -> Result<Self, Failure> {
        let mut lists = Self::default();
        lists.addresses = lists.one(ctx, "/v1/addresses", NAMED).await?;
        lists.blocks = lists.one(ctx, "/v1/blocks", RANGE).await?;
        lists.hosts = lists.one(ctx, "/v1/hosts", NAMED).await?;
        lists.endpoints = lists.one(ctx, "/v1/endpoints", ENDPOINT).await?;
        lists.blackouts = lists.one(ctx, "/v1/blackouts", RANGE).await?;
        Ok(lists)
    }

    async fn one(
        &mut self,
        ctx: &Context,
        path: &'static str,
        shape: Shape,
    ) -> Result<Vec<Value>, Failure> {
        let page = ctx.page(Query::new(path), shape).await?;
        self.revisions.insert(page.revision);
        Ok(page.items)
    }

    fn is_one_revision(&self) -> bool {
        self.revisions.len() == 1
    }
}

type Problems = Vec<(String, String)>;

fn net(value: &Value, key: &str) -> Option<IpNet> {
    value.get(key)?.as_str()?.parse().ok()
}

fn ip(value: &Value) -> Option<IpAddr> {
    value.get("ip")?.as_str()?.parse().ok()
}

/// Contradictions between the lists: subject and problem.
fn problems(lists: &Lists) -> Problems {
    let mut found = Problems::new();
    let blocks: BTreeMap<IpNet, &Value> =
        lists.blocks.iter().filter_map(|block| Some((net(block, "cidr")?, block))).collect();
    check_addresses(lists, &blocks, &mut found);
    check_blocks(lists, &blocks, &mut found);
    check_endpoints(lists, &mut found);
    found
}

fn check_addresses(lists: &Lists, blocks: &BTreeMap<IpNet, &Value>, found: &mut Problems) {
    let blackouts: Vec<IpNet> = lists
        .blackouts
        .iter()
        .filter_map(|blackout| text(blackout.get("cidr").unwrap_or(blackout)).parse().ok())
        .collect();
    let (mut ips, mut names) = (BTreeSet::new(), BTreeSet::new());
    for address in &lists.addresses {
        let subject = cell(address, "/name");
        let mut say = |what: String| found.push((subject.clone(), what));
        let (Some(ip), Some(block)) = (ip(address), net(address, "block")) else {
            say(String::from("its address or block cannot be read"));
            continue;
        };
        if !ips.insert(ip) {
            say(format!("{ip} belongs to another name, too"));
        }
        if !names.insert(subject.clone()) {
            say(String::from("the name is there twice"));
        }
        if !block.contains(&ip) {
            say(format!("{ip} is not in its block {block}"));
        }
        if let Some(blackout) = blackouts.iter().find(|blackout| blackout.contains(&ip)) {
            say(format!("{ip} is blacked out by {blackout}"));
        }
        match blocks.get(&block) {
            None => say(format!("its block {block} is not assigned")),
            Some(owner) => {
                for key in ["host", "network", "tenant", "segment"] {
                    if owner.get(key) != address.get(key) {
                        let said = |value: &Value| {
                            value.get(key).map_or_else(|| String::from("none"), text)
                        };
                        let (of, is) = (said(owner), said(address));
                        say(format!("its block {block} is of {key} {of}, the address of {is}"));
                    }
                }
            }
        }
    }
}

fn check_blocks(lists: &Lists, blocks: &BTreeMap<IpNet, &Value>, found: &mut Problems) {
    let hosts: BTreeMap<String, &Value> =
        lists.hosts.iter().map(|host| (cell(host, "/name"), host)).collect();
    let mut live: BTreeMap<IpNet, u64> = BTreeMap::new();
    for block in lists.addresses.iter().filter_map(|address| net(address, "block")) {
        *live.entry(block).or_default() += 1;
    }
    let mut previous: Option<IpNet> = None;
    for (cidr, block) in blocks {
        let mut say = |what: String| found.push((cidr.to_string(), what));
        // Blocks are sorted, so an overlap is with the previous one.
        if let Some(before) = previous.filter(|before| before.contains(cidr)) {
            say(format!("it overlaps block {before}"));
        }
        previous = Some(*cidr);
        let counted = live.get(cidr).copied().unwrap_or(0);
        if let Some(told) = block.get("live").and_then(Value::as_u64).filter(|n| *n != counted) {
            say(format!("it counts {told} live addresses, there are {counted}"));
        }
        let group = net(block, "group");
        if group.is_some_and(|group| !group.contains(cidr)) {
            say(format!("it is outside its group {}", cell(block, "/group")));
        }
        match hosts.get(&cell(block, "/host")) {
            None => say(format!("its host {} does not exist", cell(block, "/host"))),
            Some(host) => {
                let places = host.get("places").map(items).unwrap_or_default();
                let placed = places.iter().any(|place| {
                    place.get("network") == block.get("network")
                        && net(place, "group").is_some_and(|group| group.contains(cidr))
                });
                if !placed {
                    say(format!("its host {} has no place there", cell(block, "/host")));
                }
            }
        }
    }
}

fn check_endpoints(lists: &Lists, found: &mut Problems) {
    let addresses: BTreeMap<IpAddr, &Value> =
        lists.addresses.iter().filter_map(|address| Some((ip(address)?, address))).collect();
    for endpoint in &lists.endpoints {
        let Some(address) = ip(endpoint).and_then(|ip| addresses.get(&ip)) else { continue };
        for key in ["host", "tenant"] {
            if endpoint.get(key) != address.get(key) {
                let what = format!("as an endpoint it is of another {key} than its address");
                found.push((cell(endpoint, "/ip"), what));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(addresses: Value, blocks: Value, endpoints: Value, blackouts: Value) -> Lists {
        let hosts = json!([{"name": "h1", "places": [{"network": "n", "group": "10.0.0.0/18"}]}]);
        let list = |value: Value| items(&value).to_vec();
        Lists {
            addresses: list(addresses),
            blocks: list(blocks),
            hosts: list(hosts),
            endpoints: list(endpoints),
            blackouts: list(blackouts),
            revisions: BTreeSet::from([Revision(1)]),
        }
    }

    fn address(name: &str, ip: &str, host: &str) -> Value {
        json!({"name": name, "ip": ip, "block": "10.0.0.0/29", "host": host, "network": "n",
            "tenant": "t", "segment": "s"})
    }

    fn block(cidr: &str, live: u64) -> Value {
        json!({"cidr": cidr, "group": "10.0.0.0/18", "host": "h1", "network": "n", "tenant": "t",
            "segment": "s", "live": live})
    }

    #[test]
    fn what_fits_is_silent() {
        let addresses = json!([address("a", "10.0.0.0", "h1"), address("b", "10.0.0.1", "h1")]);
        let endpoint = json!([{"ip": "10.0.0.0", "host": "h1", "tenant": "t"}]);
        let lists = lists(addresses, json!([block("10.0.0.0/29", 2)]), endpoint, json!([]));
        assert_eq!(problems(&lists), []);
    }

    #[test]
    fn every_contradiction_is_found() {
        let addresses = json!([
            address("a", "10.0.0.0", "h1"),
            address("b", "10.0.0.0", "h2"),
            address("b", "10.0.1.1", "h1"),
            {"name": "c", "ip": "x"},
        ]);
        let blocks = json!([
            block("10.0.0.0/29", 1), block("10.0.0.0/30", 0), block("10.9.0.0/29", 0),
            {"cidr": "10.0.2.0/29", "host": "h9"},
        ]);
        let endpoint = json!([{"ip": "10.0.0.0", "host": "h3", "tenant": "t"}]);
        let lists = lists(addresses, blocks, endpoint, json!([{"cidr": "10.0.1.0/24"}]));
        let found: Vec<String> = problems(&lists)
            .into_iter()
            .map(|(subject, what)| format!("{subject}: {what}"))
            .collect();
        assert_eq!(
            found,
            [
                "b: 10.0.0.0 belongs to another name, too",
                "b: its block 10.0.0.0/29 is of host h1, the address of h2",
                "b: the name is there twice",
                "b: 10.0.1.1 is not in its block 10.0.0.0/29",
                "b: 10.0.1.1 is blacked out by 10.0.1.0/24",
                "c: its address or block cannot be read",
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

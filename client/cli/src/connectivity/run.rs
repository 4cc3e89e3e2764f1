//! A test, from the first row to the last.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use ipnet::IpNet;
use romana_api::verdict::Verdict as PolicyVerdict;
use romana_client::Query;
use romana_statemachine::Host;
use romana_statemachine::agent::HeartbeatAge;
use romana_statemachine::name::HostName;
use serde_json::json;
use tokio::time::sleep;

use super::evidence::{Evidence, NextHop, droppers, explain, next_hop};
use super::namespaces::policy;
use super::place::Place;
use super::plan::{Check, End, OPEN, Role, by_source, judge_allowed, judge_denied, plan, usual};
use super::pods::{self, Pods};
use super::probe::{Outcome, Target, Way};
use super::report::{Report, Row};
use super::responder;
use super::setup::{Local, PREFIX, SERVED, ThisHost};
use super::{Test, stopped_by};
use crate::context::Context;
use crate::failure::Failure;
use crate::process::{self, Limits, argv};
use crate::signals::interrupted;

/// How often a connection that is allowed is tried, and the pause: routes and policies need a moment.
const ROUNDS: usize = 4;
const PAUSE: Duration = Duration::from_millis(500);
/// Limits of programs that explain a failure.
const LIMITS: Limits = Limits { within: Duration::from_secs(10), bytes_max: 32 << 20 };
/// Failures that are looked into; the others are likely the same.
const EXPLAINED_MAX: usize = 12;

/// Tests with endpoints on this host, and with those that other hosts serve.
pub(super) async fn on_host(ctx: &Context, local: &Local) -> Report {
    let mut rows = Vec::new();
    let ended = test(ctx, local, &mut rows).await;
    rows.extend(ended.err().map(|row| *row));
    Report { items: rows }
}

async fn test(ctx: &Context, local: &Local, rows: &mut Vec<Row>) -> Result<(), Box<Row>> {
    let (this, row) = local.this_host(ctx).await?;
    rows.push(row);
    let (plugin, row) = local.plugin()?;
    rows.push(row);
    let tenant = local.tenant();
    let peers = json!([{"tenant": tenant, "segment": "client"}, {"peer": "host"}]);
    local.set_policy(ctx, &policy(&tenant, &tenant, "server", &peers)).await?;
    let mut ends = Vec::new();
    for role in [Role::Server, Role::Client, Role::Stranger] {
        let segment = role.as_str().to_owned();
        let row = Row::about("attach", &segment, "romana-cni ADD gives it an address");
        match local.attach(&plugin, &segment).await {
            Ok((made, ips)) => {
                rows.push(Row { why: joined(&ips), ..row });
                let place = Place::Namespace(made.name);
                let (name, host) = (segment, this.host.name.to_string());
                ends.push(End { role, name, host, ips, place, port: OPEN, strict: true });
            }
            Err(why) => {
                let remedy = "romana-agent status, on this host; romana doctor";
                return Err(Box::new(row.failed(why, remedy)));
            }
        }
    }
    let unknown = |row: Row, why: String| row.failed(why, "romana doctor");
    rows.extend(belongs(ctx, &ends, unknown).await);
    let server = responder::start(&[0]).await.map_err(|error| {
        Box::new(Row::about("this host", "host", "it can listen").failed(error.to_string(), ""))
    })?;
    ends.push(host_end(&this.host, server.ports().first().copied().unwrap_or_default()));
    match others(ctx, &this.host.name).await {
        Ok(others) => ends.extend(others),
        Err(row) => rows.push(*row),
    }
    rows.extend(connections(Some(ctx), &ends, Some(&this)).await);
    Ok(())
}

fn joined(ips: &[IpAddr]) -> String {
    ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn host_end(host: &Host, port: u16) -> End {
    let ips = host.ips().collect();
    let name = host.name.to_string();
    End { role: Role::Host, host: name.clone(), name, ips, place: Place::Here, port, strict: false }
}

/// Endpoints on other hosts, or a row that says why there are none.
async fn others(ctx: &Context, own: &HostName) -> Result<Vec<End>, Box<Row>> {
    let row = Row::about("pod to pod, other host", "client", "endpoints on other hosts");
    match served(ctx, own).await {
        Ok(others) if others.is_empty() => {
            let remedy = "romana connectivity serve, on another host, while this runs";
            Err(Box::new(row.skipped("no other host serves one", remedy)))
        }
        Ok(others) => Ok(others),
        Err(why) => Err(Box::new(row.failed(why, "romana doctor"))),
    }
}

/// Endpoints that `serve` has made on other hosts.
async fn served(ctx: &Context, own: &HostName) -> Result<Vec<End>, String> {
    let addresses = ctx.client.addresses(&Default::default()).await;
    let addresses = addresses.map_err(|error| error.to_string())?.items;
    let theirs = addresses.iter().filter(|address| {
        address.tenant.as_str().starts_with(PREFIX)
            && address.segment.as_str() == SERVED
            && address.host != *own
    });
    let mut by_tenant: BTreeMap<_, End> = BTreeMap::new();
    for address in theirs {
        let end = by_tenant.entry(&address.tenant).or_insert_with(|| End {
            role: Role::Peer,
            name: format!("served on {}", address.host),
            host: address.host.to_string(),
            ips: Vec::new(),
            place: Place::Elsewhere,
            port: OPEN,
            strict: false,
        });
        end.ips.push(address.ip);
    }
    Ok(by_tenant.into_values().collect())
}

/// Whether each address is in a block of its host. `unknown`: the row if the control plane does not say.
async fn belongs(
    ctx: &Context,
    ends: &[End],
    unknown: impl FnOnce(Row, String) -> Row,
) -> Vec<Row> {
    let blocks = match ctx.client.blocks(&Default::default()).await {
        Ok(blocks) => blocks.items,
        Err(error) => {
            let row = Row::about("addresses", "", "they are in blocks of their hosts");
            return vec![unknown(row, error.to_string())];
        }
    };
    let blocks: Vec<(IpNet, String)> =
        blocks.iter().map(|block| (block.cidr, block.host.to_string())).collect();
    let pods = ends.iter().filter(|end| end.role != Role::Host);
    pods.flat_map(|end| end.ips.iter().map(|ip| block_row(end, *ip, &blocks))).collect()
}

fn block_row(end: &End, ip: IpAddr, blocks: &[(IpNet, String)]) -> Row {
    let row = Row::about("addresses", &end.name, format!("{ip} is in a block of {}", end.host));
    let remedy = "romana ipam check; romana audit who IP";
    match blocks.iter().find(|(cidr, _)| cidr.contains(&ip)) {
        Some((cidr, host)) if *host == end.host => Row { why: cidr.to_string(), ..row },
        Some((cidr, host)) => row.failed(format!("{cidr} is a block of {host}"), remedy),
        None => row.failed("no block has it", remedy),
    }
}

/// Tries all connections between the ends. `ctx`: the control plane, if it is within reach.
async fn connections(ctx: Option<&Context>, ends: &[End], this: Option<&ThisHost>) -> Vec<Row> {
    let checks = plan(ends);
    let allowed: Vec<Check> = checks.iter().filter(|check| check.allowed).copied().collect();
    let is_small = |check: &&Check| matches!(check.target.way, Way::Tcp | Way::Udp);
    let small: Vec<Check> = allowed.iter().filter(is_small).copied().collect();
    let mut outcomes = settled(ends, &small).await;
    // Large packets tell something only where small ones arrive.
    let arrives = |check: &Check, outcomes: &Outcomes| {
        let tcp = Target { way: Way::Tcp, ..check.target };
        outcomes.get(&(check.from, tcp)).is_some_and(Outcome::is_ok)
    };
    let large = allowed.iter().filter(|check| !is_small(check));
    let large: Vec<Check> = large.filter(|check| arrives(check, &outcomes)).copied().collect();
    outcomes.extend(tried(ends, &large).await);
    let denied: Vec<Check> = checks.iter().filter(|check| !check.allowed).copied().collect();
    outcomes.extend(tried(ends, &denied).await);
    let explained = explained(ctx, ends, this, &allowed, &outcomes).await;
    let proven = proven(&allowed, &outcomes);
    let mut rows = Vec::new();
    for check in &checks {
        let key = (check.from, check.target);
        match outcomes.get(&key) {
            Some(outcome) if check.allowed => {
                rows.extend(judge_allowed(ends, check, outcome, explained.get(&key).cloned()));
            }
            Some(outcome) => {
                let enforcing = this.filter(|this| {
                    ends.get(check.to).is_some_and(|to| to.host == this.host.name.as_str())
                });
                let enforcing = enforcing.map(|this| this.enforcing);
                let proven = proven.contains(&check.to);
                rows.push(judge_denied(ends, check, outcome, proven, enforcing));
            }
            None => {}
        }
    }
    rows
}

/// Outcomes by source and target.
type Outcomes = BTreeMap<(usize, Target), Outcome>;

/// The ends that something allowed has reached.
fn proven(allowed: &[Check], outcomes: &Outcomes) -> BTreeSet<usize> {
    let reached = allowed
        .iter()
        .filter(|check| outcomes.get(&(check.from, check.target)).is_some_and(Outcome::is_ok));
    reached.map(|check| check.to).collect()
}

/// Tries checks once, all sources at the same time.
async fn tried(ends: &[End], checks: &[Check]) -> Outcomes {
    let each = by_source(checks).into_iter().filter_map(|(from, checks)| {
        let place = ends.get(from)?.place.clone();
        Some(async move {
            let targets: Vec<Target> = checks.iter().map(|check| check.target).collect();
            let outcomes = place.probe(&targets).await;
            let pairs = targets.into_iter().zip(outcomes);
            pairs.map(|(target, outcome)| ((from, target), outcome)).collect::<Vec<_>>()
        })
    });
    let all: Vec<Vec<_>> = stream::iter(each).buffer_unordered(8).collect().await;
    all.into_iter().flatten().collect()
}

/// Tries checks until they work, or for the last time.
async fn settled(ends: &[End], checks: &[Check]) -> Outcomes {
    let mut outcomes = tried(ends, checks).await;
    for _ in 1..ROUNDS {
        let failed = checks
            .iter()
            .filter(|check| !outcomes.get(&(check.from, check.target)).is_some_and(Outcome::is_ok));
        let failed: Vec<Check> = failed.copied().collect();
        if failed.is_empty() {
            break;
        }
        sleep(PAUSE).await;
        outcomes.extend(tried(ends, &failed).await);
    }
    outcomes
}

/// Why allowed connections do not work, and what to do.
async fn explained(
    ctx: Option<&Context>,
    ends: &[End],
    this: Option<&ThisHost>,
    allowed: &[Check],
    outcomes: &Outcomes,
) -> BTreeMap<(usize, Target), (String, String)> {
    let mut explained = BTreeMap::new();
    let failed = allowed.iter().filter_map(|check| {
        let outcome = outcomes.get(&(check.from, check.target))?;
        (!outcome.is_ok()).then_some((check, outcome))
    });
    for (check, outcome) in failed.take(EXPLAINED_MAX) {
        let evidence = evidence(ctx, ends, this, check).await;
        let why = explain(&evidence, outcome);
        let why = why.or_else(|| Some(usual(outcome.fault?, &outcome.more)));
        explained.extend(why.map(|why| ((check.from, check.target), why)));
    }
    explained
}

/// Tries a connection once more, and looks at what this host does with it.
async fn evidence(
    ctx: Option<&Context>,
    ends: &[End],
    this: Option<&ThisHost>,
    check: &Check,
) -> Evidence {
    let Target { way, ip, port } = check.target;
    let (Some(from), Some(to)) = (ends.get(check.from), ends.get(check.to)) else {
        return Evidence::default();
    };
    let source = from.ips.iter().find(|own| own.is_ipv4() == ip.is_ipv4());
    let source = source.map(ToString::to_string).unwrap_or_default();
    let traffic = format!("{}/{port}", way.protocol());
    let mut evidence = Evidence {
        packet: format!("{source} {ip} {traffic}"),
        ip: ip.to_string(),
        verdict: match ctx {
            Some(ctx) => verdict(ctx, &source, &ip.to_string(), &traffic).await,
            None => None,
        },
        ..Evidence::default()
    };
    if from.host != to.host {
        let silent = match ctx {
            Some(ctx) => silent_ms(ctx, &to.host).await,
            None => None,
        };
        evidence.other_host = Some((to.host.clone(), silent));
    }
    if let Some(this) = this {
        let save = if ip.is_ipv4() { "iptables-save" } else { "ip6tables-save" };
        let before = saved(save).await;
        from.place.probe(&[check.target]).await;
        evidence.droppers = droppers(&before, &saved(save).await);
        evidence.looked_here = true;
        evidence.next_hop = route(&ip.to_string()).await;
        evidence.on_link = on_link(this, &to.host, ip).await;
    }
    evidence
}

/// What the policies say; `None`: nobody can tell.
async fn verdict(ctx: &Context, from: &str, to: &str, traffic: &str) -> Option<(bool, String)> {
    let query = Query::new("/v1/verdict").with("source", Some(from)).with("destination", Some(to));
    let query = query.with("traffic", Some(traffic)).build();
    let verdict: PolicyVerdict = ctx.client.get(query).await.ok()?;
    let closed = [&verdict.egress, &verdict.ingress].into_iter().find(|side| !side.open);
    let why = closed.unwrap_or(&verdict.ingress).why.clone();
    Some((verdict.allowed, why))
}

async fn silent_ms(ctx: &Context, host: &str) -> Option<u64> {
    let heard = ctx.client.heartbeats().await.ok()?.items;
    let own = heard.iter().find(|heard| heard.heartbeat.host.as_str() == host);
    own.map(|HeartbeatAge { silent_ms, .. }| *silent_ms)
}

async fn saved(program: &str) -> String {
    let argv = argv([program, "-c"]);
    let text = process::run(&argv, LIMITS).await.and_then(|ran| ran.ok(&argv));
    String::from_utf8_lossy(&text.unwrap_or_default()).into_owned()
}

/// Where this host's kernel sends packets for an address.
async fn route(ip: &str) -> Option<NextHop> {
    let argv = argv(["ip", "-json", "route", "get", "fibmatch", ip]);
    let text = process::run(&argv, LIMITS).await.and_then(|ran| ran.ok(&argv));
    next_hop(text.as_deref().map_err(String::as_str))
}

/// Whether a host is on a link of this one: packets for it go to no gateway.
async fn on_link(this: &ThisHost, host: &str, ip: IpAddr) -> bool {
    let other = this.hosts.get(&HostName::from(host));
    let address = other.and_then(|other| other.ips().find(|own| own.is_ipv4() == ip.is_ipv4()));
    let Some(address) = address else { return false };
    let argv = argv(["ip", "-json", "route", "get", &address.to_string()]);
    let text = process::run(&argv, LIMITS).await.and_then(|ran| ran.ok(&argv));
    let routes: serde_json::Value =
        serde_json::from_slice(&text.unwrap_or_default()).unwrap_or_default();
    routes[0]["dev"].is_string() && routes[0]["gateway"].is_null()
}

/// Tests with pods. They are removed however it ends.
pub(super) async fn with_pods(ctx: &Context, test: Test) -> Result<Report, Failure> {
    let id = test.host.id();
    let nodes = match test.nodes.is_empty() {
        true => match pods::nodes().await {
            Ok(nodes) => nodes,
            Err(why) => {
                let row = Row::about("pods", "kubectl", "it reaches the API server");
                let remedy = "check the kubeconfig: kubectl get nodes";
                return Ok(Report { items: vec![row.failed(why, remedy)] });
            }
        },
        false => test.nodes.clone(),
    };
    let made = Pods {
        namespace: test.namespace.clone().unwrap_or_else(|| format!("{PREFIX}{id}")),
        own_namespace: test.namespace.is_none(),
        id,
        image: test.image,
        program: test.program,
        nodes: nodes.into_iter().take(2).collect(),
        host_port: rand::random_range(20_000..30_000),
    };
    let (report, stopped) = tokio::select! {
        report = pods_test(ctx, &made) => (report, None),
        name = interrupted("SIGINT") => (Report { items: Vec::new() }, Some(name)),
    };
    let left = made.remove().await.err().map(|why| {
        let row = Row::about("clean up", &made.namespace, "the pods are removed");
        row.failed(why, format!("kubectl delete namespace {}", made.namespace))
    });
    let report = Report { items: report.items.into_iter().chain(left).collect() };
    match stopped {
        Some(name) => Err(stopped_by(name, &report)),
        None => Ok(report),
    }
}

async fn pods_test(ctx: &Context, made: &Pods) -> Report {
    let mut rows = Vec::new();
    if made.nodes.is_empty() {
        let row = Row::about("pods", "nodes", "one is ready");
        let remedy = "kubectl get nodes; romana doctor";
        return Report { items: vec![row.failed("no node is ready and schedulable", remedy)] };
    }
    if made.nodes.len() < 2 {
        let row = Row::about("pod to pod, other host", "client", "a second node");
        rows.push(row.skipped("only one node is ready", "kubectl get nodes"));
    }
    let row = Row::about("pods", &made.namespace, "they run and have addresses");
    match made.make().await {
        Ok(ends) => {
            rows.push(row);
            // kubectl may work from where the API of romanad is out of reach.
            let remedy = "-r URL of a replica; or kubectl -n kube-system exec romanad-0 -- romana ipam check";
            let mut reached = Some(ctx);
            let unknown = |row: Row, why: String| {
                reached = None;
                row.skipped(why, remedy)
            };
            rows.extend(belongs(ctx, &ends, unknown).await);
            rows.extend(connections(reached, &ends, None).await);
        }
        Err(why) => {
            let remedy = "kubectl describe pod; is the image on the nodes (--image)? romana doctor";
            rows.push(row.failed(why, remedy));
        }
    }
    Report { items: rows }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connectivity::report::Verdict;
    use crate::connectivity::tests::end;

    #[test]
    fn an_address_must_be_in_a_block_of_its_host() {
        let client = end(Role::Client, "h1", &["10.1.0.2"]);
        let block = |host: &str| ("10.1.0.0/29".parse().unwrap(), host.to_owned());
        let row = |blocks: &[(IpNet, String)]| block_row(&client, client.ips[0], blocks);
        assert_eq!(
            (row(&[block("h1")]).result, &*row(&[block("h1")]).why),
            (Verdict::Ok, "10.1.0.0/29")
        );
        assert_eq!(row(&[block("h2")]).why, "10.1.0.0/29 is a block of h2");
        assert_eq!(row(&[]).result, Verdict::Failed);
    }
}

//! `romana policy`. Documents in Romana's own form (`{"securitypolicies": […]}`), single policies and lists are sent
//! unchanged: the server knows the schemas.

use std::path::PathBuf;

use clap::Subcommand;
use romana_client::Query;
use romana_statemachine::plural;
use serde_json::Value;

use crate::context::{Context, read};
use crate::failure::Failure;
use crate::shape::{Kind, NAMED, Shape};
use crate::table::{Table, Tone, cell, items, one_or_list, text};
use crate::{input, network_policy};

/// The policies that were applied, or would be.
const APPLIED: Shape = Shape::new(&[("policies", Kind::List)]);
/// Whether traffic passes.
const VERDICT: Shape = Shape::new(&[("allowed", Kind::Bool)]);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Add or replace policies
    #[command(visible_alias = "set")]
    Add {
        /// Document or Kubernetes NetworkPolicy, JSON or YAML [default: stdin]
        file: Option<PathBuf>,
    },
    /// Remove a policy
    Remove {
        /// Its name
        #[arg(required_unless_present = "id")]
        name: Option<String>,
        /// Its id, for policies that were added by id (the name of such a policy is its id)
        #[arg(short = 'i', long = "policyid", value_name = "ID", conflicts_with = "name")]
        id: Option<String>,
    },
    /// List the policies
    #[command(visible_alias = "ls")]
    List,
    /// Show policies in full
    Show {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Validate and explain a document; nothing is changed
    Check {
        /// Document or Kubernetes NetworkPolicy, JSON or YAML [default: stdin]
        file: Option<PathBuf>,
    },
    /// Explain a verdict (SRC DST PROTO/PORT), or what policies of the cluster do (their names)
    #[command(
        override_usage = "romana policy explain SRC DST PROTO/PORT\n       romana policy explain NAME..."
    )]
    Explain {
        /// Two addresses (IP, or name of an address or a host) and tcp/PORT, udp/PORT, sctp/PORT, icmp,
        /// icmp/TYPE/CODE or other; or names of policies
        #[arg(required = true)]
        what: Vec<String>,
    },
}

const PATH: &str = "/v1/policies";

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Add { file } => {
                let document = network_policy::translate(input::documents(file).await?)?;
                let answer = ctx.post(Query::new(PATH), &document, true, APPLIED).await?;
                let names = names(&document);
                let count = plural(names.len(), "policy");
                ctx.out.done(&answer, format!("{count} applied: {}", names.join(", ")))
            }
            Self::Remove { name, id } => {
                let Some(name) = name.or(id) else {
                    return Err(Failure::usage("name the policy"));
                };
                let answer = ctx.delete(Query::new(PATH).segment(&name), false).await?;
                ctx.out.done(&answer, format!("policy {name} removed"))
            }
            Self::List => {
                let list = ctx.list(Query::new(PATH), NAMED).await?;
                ctx.out.show(&list, || table(items(&list)))
            }
            Self::Show { names } => {
                let found = ctx.get_each(PATH, &names, NAMED).await?;
                ctx.out.show(&one_or_list(found.clone()), || details(&found))
            }
            Self::Check { file } => {
                let document = network_policy::translate(input::documents(file).await?)?;
                check(ctx, &document).await
            }
            Self::Explain { what } => match what.as_slice() {
                [source, destination, traffic] if is_traffic(traffic) => {
                    explain_verdict(ctx, source, destination, traffic).await
                }
                names => {
                    let found = ctx.get_each(PATH, names, NAMED).await?;
                    check(ctx, &Value::from(found)).await
                }
            },
        }
    }
}

/// Asks the server to check and explain a document, and prints the result.
async fn check(ctx: &Context, document: &Value) -> Result<(), Failure> {
    let answer = read(ctx.client.check_policies(document).await?, APPLIED)?;
    ctx.out.done(&answer, explanation(&answer))
}

/// Policy names contain no slash.
fn is_traffic(text: &str) -> bool {
    text.contains('/') || text == "icmp" || text == "other"
}

async fn explain_verdict(
    ctx: &Context,
    source: &str,
    destination: &str,
    traffic: &str,
) -> Result<(), Failure> {
    let ends = [("source", source), ("destination", destination), ("traffic", traffic)];
    let query = ends
        .into_iter()
        .fold(Query::new("/v1/verdict"), |query, (name, value)| query.with(name, Some(value)));
    let answer = ctx.get(query, VERDICT).await?;
    ctx.out.done(&answer, verdict(&answer))
}

/// A verdict, as lines of text.
fn verdict(answer: &Value) -> String {
    let end = |key: &str| {
        let (ip, kind) =
            (cell(answer, &format!("/{key}/ip")), cell(answer, &format!("/{key}/kind")));
        let text = |part: &str| cell(answer, &format!("/{key}/{part}"));
        match kind.as_str() {
            "endpoint" => {
                format!("{ip} ({}/{} on {})", text("tenant"), text("segment"), text("host"))
            }
            "host" => format!("{ip} (host {})", text("host")),
            _ => format!("{ip} (neither endpoint nor host)"),
        }
    };
    let allowed = answer.get("allowed").and_then(Value::as_bool) == Some(true);
    let mut lines = vec![format!(
        "{} -> {} {}: {}",
        end("source"),
        end("destination"),
        cell(answer, "/traffic"),
        if allowed { "allowed" } else { "denied" }
    )];
    for (word, key) in [("leaves", "egress"), ("arrives", "ingress")] {
        let Some(side) = answer.get(key) else { continue };
        let open = side.get("open").and_then(Value::as_bool) == Some(true);
        let (yes, why) = (if open { "yes" } else { "no" }, cell(side, "/why"));
        lines.push(format!("  {word}: {yes}, {why}"));
        let isolating = side.get("isolating").map(items).unwrap_or_default();
        if !isolating.is_empty() {
            let names: Vec<String> = isolating.iter().map(text).collect();
            lines.push(format!("    isolated by {}", names.join(", ")));
        }
        for rule in side.get("allowing").map(items).unwrap_or_default() {
            let (policy, rule) = (cell(rule, "/policy"), cell(rule, "/rule"));
            lines.push(format!("    allowed by {policy}, {key}[{rule}]"));
        }
    }
    lines.join("\n")
}

/// The server's explanation, as lines of text.
fn explanation(answer: &Value) -> String {
    let mut lines = Vec::new();
    for policy in answer.get("policies").map(items).unwrap_or_default() {
        let is = |key: &str| policy.get(key).and_then(Value::as_bool) == Some(true);
        let change = match (is("exists"), is("unchanged")) {
            (_, true) => "in force as it is",
            (true, false) => "would replace the one in force",
            (false, false) => "new",
        };
        lines.push(format!("{} (valid, {change})", cell(policy, "/name")));
        let sentences = policy.get("explanation").map(items).unwrap_or_default();
        lines.extend(sentences.iter().map(|sentence| format!("  {}", text(sentence))));
        lines.push(format!("  Applies now to {}.", reach(policy)));
    }
    for warning in answer.get("warnings").map(items).unwrap_or_default() {
        lines.push(format!("Warning: {}.", text(warning)));
    }
    lines.extend(changes(answer));
    lines.join("\n")
}

/// The pairs whose verdicts would change.
fn changes(answer: &Value) -> Vec<String> {
    let Some(list) = answer.get("changes").map(items) else { return Vec::new() };
    let changed = cell(answer, "/changed");
    let pairs = answer.get("pairs").and_then(Value::as_u64).unwrap_or(0);
    let pairs = plural(pairs, "pair");
    let mut lines = vec![format!("Verdicts that would change: {changed} of {pairs}.")];
    for change in list {
        let (from, to) = (party_of(change, "source"), party_of(change, "destination"));
        for (word, key) in [("opens", "opens"), ("closes", "closes")] {
            let traffic = change.get(key).map(items).unwrap_or_default();
            if !traffic.is_empty() {
                let traffic: Vec<String> = traffic.iter().map(text).collect();
                lines.push(format!("  {from} -> {to} {word} {}", traffic.join(", ")));
            }
        }
    }
    let left = answer.get("changed").and_then(Value::as_u64).unwrap_or(0);
    let left = left.saturating_sub(list.len() as u64);
    if left > 0 {
        lines.push(format!("  and {}", plural(left, "more pair")));
    }
    for left in answer.get("not_looked_at").map(items).unwrap_or_default() {
        lines.push(format!("Not looked at: {}.", text(left)));
    }
    lines
}

/// One end of a change: an address, or the range that it represents.
fn party_of(change: &Value, end: &str) -> String {
    match change.get(format!("{end}_range")).map(text) {
        Some(range) => format!("other addresses in {range}"),
        None => cell(change, &format!("/{end}")),
    }
}

/// What a policy applies to, in words.
fn reach(policy: &Value) -> String {
    let count = |key: &str| policy.get(key).and_then(Value::as_u64).unwrap_or(0);
    let some = |n: u64, one: &str| match n {
        1 => format!("1 {one}"),
        n => format!("{n} {one}s"),
    };
    let mut parts = vec![some(count("endpoints"), "endpoint")];
    let hosts = count("hosts");
    parts.extend((hosts > 0).then(|| some(hosts, "host")));
    let ranges = policy.get("ranges").map(items).unwrap_or_default();
    parts.extend(ranges.iter().map(|range| format!("whatever else is in {}", text(range))));
    if parts.len() > 1 && count("endpoints") == 0 {
        parts.remove(0);
    }
    parts.join(", ")
}

/// Names (or 2.0's ids) of the policies of a document.
fn names(document: &Value) -> Vec<String> {
    policies(document)
        .iter()
        .map(|policy| {
            policy.get("name").or_else(|| policy.get("id")).map_or_else(|| "?".into(), text)
        })
        .collect()
}

/// The policies of a document in any of its wrappings.
fn policies(document: &Value) -> &[Value] {
    items(document.get("securitypolicies").unwrap_or(document))
}

/// A party (target or peer) in short form.
fn party(party: &Value) -> String {
    let word = |key: &str| party.get(key).map(text);
    let who = match (word("tenant"), word("segment")) {
        (Some(tenant), Some(segment)) => Some(format!("{tenant}/{segment}")),
        (tenant, _) => tenant,
    };
    let labels = party.get("selector").map(|_| String::from("{labels}"));
    let parts = [word("peer"), word("dest"), word("cidr"), who, word("tenants"), labels];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { text(party) } else { parts.join(" ") }
}

fn parties(policy: &Value, key: &str) -> String {
    let list = policy.get(key).map(items).unwrap_or_default();
    let words: Vec<String> = list.iter().map(party).collect();
    if words.is_empty() { String::from("-") } else { words.join(", ") }
}

/// The directions that a policy isolates.
fn direction(policy: &Value) -> String {
    match cell(policy, "/direction") {
        none if none == "-" => {
            let has = |key: &'static str| policy.get(key).map(|_| key);
            let both: Vec<&str> = [has("ingress"), has("egress")].into_iter().flatten().collect();
            both.join("+")
        }
        direction => direction,
    }
}

fn table(list: &[Value]) -> Table {
    let mut table = Table::new(
        &["NAME", "DIRECTION", "APPLIED TO", "PEERS", "RULES", "DESCRIPTION"],
        "no policies yet: romana policy add FILE",
    );
    for policy in list.iter().flat_map(policies) {
        let count = |key: &str| policy.get(key).map(items).unwrap_or_default().len();
        let openings = |key| policy.get(key).map(items).unwrap_or_default().iter();
        let inner = |key: &str| -> usize {
            let lists = openings("ingress").chain(openings("egress"));
            lists.map(|opening| opening.get(key).map(items).unwrap_or_default().len()).sum()
        };
        let peers = count("peers") + inner("peers");
        let rules = count("rules") + inner("rules");
        table.row(vec![
            cell(policy, "/name"),
            direction(policy),
            parties(policy, "applied_to"),
            peers.to_string(),
            rules.to_string(),
            cell(policy, "/description"),
        ]);
    }
    table
}

fn details(found: &[Value]) -> Table {
    let mut table = Table::new(&["", ""], "no policy");
    for policy in found.iter().flat_map(policies) {
        table.toned(Tone::Good, vec!["Policy".into(), cell(policy, "/name")]);
        table.row(vec!["Description".into(), cell(policy, "/description")]);
        table.row(vec!["Direction".into(), direction(policy)]);
        table.row(vec!["Applied to".into(), parties(policy, "applied_to")]);
        opening(&mut table, "Allows", policy);
        for (title, key) in [("Allows in", "ingress"), ("Allows out", "egress")] {
            let openings = policy.get(key).map(items).unwrap_or_default();
            openings.iter().for_each(|one| opening(&mut table, title, one));
        }
    }
    table
}

fn opening(table: &mut Table, title: &str, opening: &Value) {
    let rules = opening.get("rules").map(items).unwrap_or_default();
    for rule in rules {
        let ports = [cell(rule, "/ports"), cell(rule, "/port_ranges")];
        let ports: Vec<String> = ports.into_iter().filter(|ports| ports != "-").collect();
        let traffic = format!("{} {}", cell(rule, "/protocol"), ports.join(","));
        let peers = parties(opening, "peers");
        table.row(vec![title.into(), format!("{} with {peers}", traffic.trim_end())]);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_wrapping_is_seen_through() {
        let one = json!({"name": "p"});
        for document in [one.clone(), json!([one]), json!({"securitypolicies": [one]})] {
            assert_eq!(names(&document), ["p"], "{document}");
        }
        assert_eq!(names(&json!({"id": "kube.x"})), ["kube.x"]);
    }

    #[test]
    fn parties_are_short() {
        for (value, expected) in [
            (json!({"peer": "any"}), "any"),
            (json!({"tenant": "a", "segment": "b"}), "a/b"),
            (json!({"cidr": "10.0.0.0/8"}), "10.0.0.0/8"),
        ] {
            assert_eq!(party(&value), expected);
        }
    }
}

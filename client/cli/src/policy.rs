//! `romana policy`. Documents in Romana's own form (`{"securitypolicies": […]}`), single policies and lists are sent
//! unchanged: the server knows the schemas.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Subcommand;
use ipnet::IpNet;
use romana_api::policy::{
    NamedPolicy, PoliciesExplained, PoliciesSet, PolicyExplained, VerdictChange,
};
use romana_api::verdict::{Verdict, VerdictEnd};
use romana_client::Query;
use romana_statemachine::plural;
use romana_statemachine::policy::document::{
    Condition, Kind, Labelled, Opening, Operator, Party, PolicyDocument, PortDocument,
};
use serde_json::Value;

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;
use crate::table::{Table, Tone, cell, optional};
use crate::{input, network_policy};

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
        /// Its id, if it was added by id (the id is then its name)
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
    /// Explain whether a packet passes (SRC DST PROTO/PORT), or what the named policies do
    #[command(
        override_usage = "romana policy explain SRC DST PROTO/PORT\n       romana policy explain NAME..."
    )]
    Explain {
        /// Two addresses (an IP address, or the name of an address or host) and tcp/PORT, udp/PORT,
        /// sctp/PORT, icmp, icmp/TYPE/CODE or other; or names of policies
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
                let answer: Answer<PoliciesSet> =
                    ctx.post(Query::new(PATH), &document, true).await?;
                let names: Vec<String> = answer.value.policies.iter().map(cell).collect();
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
            Self::List => ctx.show_list(Query::new(PATH), table).await,
            Self::Show { names } => ctx.show_each(PATH, &names, details).await,
            Self::Check { file } => {
                let document = network_policy::translate(input::documents(file).await?)?;
                check(ctx, &document).await
            }
            Self::Explain { what } => match what.as_slice() {
                [source, destination, traffic] if is_traffic(traffic) => {
                    explain_verdict(ctx, source, destination, traffic).await
                }
                names => {
                    let found: Answer<Vec<NamedPolicy>> = ctx.each(PATH, names).await?;
                    check(ctx, &found.json).await
                }
            },
        }
    }
}

/// Asks the server to check and explain a document, and prints the result.
async fn check(ctx: &Context, document: &Value) -> Result<(), Failure> {
    let answer = ctx.inquire("/v1/policies/check", document).await?;
    ctx.out.done(&answer, explanation(&answer.value))
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
    let answer = ctx.get(query).await?;
    ctx.out.done(&answer, verdict(&answer.value))
}

/// A verdict, as lines of text.
fn verdict(verdict: &Verdict) -> String {
    let mut lines = vec![format!(
        "{} -> {} {}: {}",
        end(&verdict.source),
        end(&verdict.destination),
        cell(&verdict.traffic),
        if verdict.allowed { "allowed" } else { "denied" }
    )];
    let sides = [("leaves", "egress", &verdict.egress), ("arrives", "ingress", &verdict.ingress)];
    for (word, list, side) in sides {
        let (yes, why) = (if side.open { "yes" } else { "no" }, cell(&side.why));
        lines.push(format!("  {word}: {yes}, {why}"));
        if !side.isolating.is_empty() {
            lines.push(format!("    isolated by {}", sentence(&side.isolating)));
        }
        for allowing in &side.allowing {
            let (policy, rule) = (cell(&allowing.policy), allowing.rule);
            lines.push(format!("    allowed by {policy}, {list}[{rule}]"));
        }
    }
    lines.join("\n")
}

/// One end of a connection, in words.
fn end(end: &VerdictEnd) -> String {
    let VerdictEnd { ip, kind, tenant, segment, host, .. } = end;
    let [tenant, segment, host] = [tenant, segment, host].map(|text| optional(text.as_ref()));
    match &**kind {
        "endpoint" => format!("{ip} ({tenant}/{segment} on {host})"),
        "host" => format!("{ip} (host {host})"),
        _ => format!("{ip} (neither endpoint nor host)"),
    }
}

/// Texts, separated by a comma and a space.
fn sentence(texts: &[String]) -> String {
    texts.iter().map(cell).collect::<Vec<_>>().join(", ")
}

/// The server's explanation, as lines of text.
fn explanation(answer: &PoliciesExplained) -> String {
    let mut lines = Vec::new();
    for policy in &answer.policies {
        let change = match (policy.exists, policy.unchanged) {
            (_, true) => "in force as it is",
            (true, false) => "would replace the one in force",
            (false, false) => "new",
        };
        lines.push(format!("{} (valid, {change})", cell(&policy.name)));
        lines.extend(policy.explanation.iter().map(|text| format!("  {}", cell(text))));
        lines.push(format!("  Applies now to {}.", reach(policy)));
    }
    lines.extend(answer.warnings.iter().map(|warning| format!("Warning: {}.", cell(warning))));
    lines.extend(changes(answer));
    lines.join("\n")
}

/// The pairs whose verdicts would change.
fn changes(answer: &PoliciesExplained) -> Vec<String> {
    let PoliciesExplained { changes, changed, pairs, not_looked_at, .. } = answer;
    let pairs = plural(*pairs, "pair");
    let mut lines = vec![format!("Verdicts that would change: {changed} of {pairs}.")];
    for change in changes {
        let VerdictChange { source, source_range, destination, destination_range, .. } = change;
        let (from, to) =
            (party_of(*source, *source_range), party_of(*destination, *destination_range));
        for (word, traffic) in [("opens", &change.opens), ("closes", &change.closes)] {
            if !traffic.is_empty() {
                lines.push(format!("  {from} -> {to} {word} {}", sentence(traffic)));
            }
        }
    }
    let left = changed.saturating_sub(changes.len() as u64);
    if left > 0 {
        lines.push(format!("  and {}", plural(left, "more pair")));
    }
    lines.extend(not_looked_at.iter().map(|left| format!("Not looked at: {}.", cell(left))));
    lines
}

/// One end of a change: an address, or the range that it represents.
fn party_of(ip: IpAddr, range: Option<IpNet>) -> String {
    range.map_or_else(|| ip.to_string(), |range| format!("other addresses in {range}"))
}

/// What a policy applies to, in words.
fn reach(policy: &PolicyExplained) -> String {
    let PolicyExplained { endpoints, hosts, ranges, .. } = policy;
    let mut parts = Vec::new();
    parts.extend((*hosts > 0).then(|| plural(*hosts, "host").to_string()));
    parts.extend(ranges.iter().map(|range| format!("whatever else is in {range}")));
    if *endpoints > 0 || parts.is_empty() {
        parts.insert(0, plural(*endpoints, "endpoint").to_string());
    }
    parts.join(", ")
}

/// A label selector in short form, such as `{app=web, tier In (a,b)}`.
fn selector(selector: &Labelled) -> String {
    let labels = selector.labels.iter().map(|(key, value)| format!("{key}={value}"));
    let conditions = selector.expressions.iter().map(condition);
    let all: Vec<String> = labels.chain(conditions).collect();
    format!("{{{}}}", all.join(", "))
}

fn condition(condition: &Condition) -> String {
    let Condition { key, operator, values } = condition;
    match operator {
        Operator::In => format!("{key} In ({})", values.join(",")),
        Operator::NotIn => format!("{key} NotIn ({})", values.join(",")),
        Operator::Exists => format!("{key} Exists"),
        Operator::DoesNotExist => format!("{key} DoesNotExist"),
    }
}

/// A party (target or peer) in short form.
fn party(party: &Party) -> String {
    let who = match (&party.tenant, &party.segment) {
        (Some(tenant), Some(segment)) => Some(format!("{tenant}/{segment}")),
        (tenant, _) => tenant.clone(),
    };
    let tenants = party.tenants.as_ref().map(|tenants| format!("tenants {}", selector(tenants)));
    let selector = party.selector.as_ref().map(selector);
    let Party { peer, dest, cidr, .. } = party.clone();
    let parts: Vec<String> =
        [peer, dest, cidr, who, tenants, selector].into_iter().flatten().collect();
    cell(parts.join(" "))
}

fn parties(parties: &[Party]) -> String {
    cell(parties.iter().map(party).collect::<Vec<_>>().join(", "))
}

/// The directions that a policy isolates.
fn direction(policy: &PolicyDocument) -> String {
    if let Some(direction) = policy.direction {
        return direction.as_str().into();
    }
    let ingress = policy.ingress.as_ref().map(|_| "ingress");
    let both: Vec<&str> =
        ingress.into_iter().chain(policy.egress.as_ref().map(|_| "egress")).collect();
    both.join("+")
}

/// What a policy allows: the title of each direction's rules, and the rules. A policy in the short form has one
/// direction.
fn openings(policy: &PolicyDocument) -> Vec<(&'static str, Opening)> {
    let PolicyDocument { peers, rules, ingress, egress, .. } = policy.clone();
    let short = Opening { peers: peers.unwrap_or_default(), rules: rules.unwrap_or_default() };
    let ingress = ingress.into_iter().flatten().map(|opening| ("Allows in", opening));
    let egress = egress.into_iter().flatten().map(|opening| ("Allows out", opening));
    std::iter::once(("Allows", short)).chain(ingress).chain(egress).collect()
}

fn table(policies: &[NamedPolicy]) -> Table {
    let mut table = Table::new(
        &["NAME", "DIRECTION", "APPLIED TO", "PEERS", "RULES", "DESCRIPTION"],
        "no policies yet: romana policy add FILE",
    );
    for NamedPolicy { name, document } in policies {
        let openings = openings(document);
        let peers: usize = openings.iter().map(|(_, opening)| opening.peers.len()).sum();
        let rules: usize = openings.iter().map(|(_, opening)| opening.rules.len()).sum();
        table.row(vec![
            cell(name),
            direction(document),
            parties(&document.applied_to),
            peers.to_string(),
            rules.to_string(),
            cell(&document.description),
        ]);
    }
    table
}

fn details(policies: &[NamedPolicy]) -> Table {
    let mut table = Table::new(&["", ""], "no policy");
    for NamedPolicy { name, document } in policies {
        table.toned(Tone::Good, vec!["Policy".into(), cell(name)]);
        table.row(vec!["Description".into(), cell(&document.description)]);
        table.row(vec!["Direction".into(), direction(document)]);
        table.row(vec!["Applied to".into(), parties(&document.applied_to)]);
        for (title, opening) in openings(document) {
            let peers = parties(&opening.peers);
            for rule in &opening.rules {
                table.row(vec![title.into(), format!("{} with {peers}", traffic(rule))]);
            }
        }
    }
    table
}

/// A kind of traffic, in short form.
fn traffic(kind: &Kind) -> String {
    let ports = kind.ports.iter().map(|port| match port {
        PortDocument::Number(number) => number.to_string(),
        PortDocument::Text(text) => text.clone(),
    });
    let ranges = kind.port_ranges.iter().map(|(low, high)| format!("{low}-{high}"));
    let ports: Vec<String> = ports.chain(ranges).collect();
    cell(format!("{} {}", kind.protocol, ports.join(",")).trim_end())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parties_are_short() {
        for (value, expected) in [
            (json!({"peer": "any"}), "any"),
            (json!({"tenant": "a", "segment": "b"}), "a/b"),
            (json!({"cidr": "10.0.0.0/8"}), "10.0.0.0/8"),
            (json!({"tenant": "a", "selector": {"labels": {"app": "web"}}}), "a {app=web}"),
            (
                json!({"tenants": {"expressions": [{"key": "x", "operator": "In", "values": ["1", "2"]}]},
                    "selector": {}}),
                "tenants {x In (1,2)} {}",
            ),
        ] {
            assert_eq!(party(&serde_json::from_value(value).unwrap()), expected);
        }
    }

    #[test]
    fn traffic_is_short() {
        for (value, expected) in [
            (json!({"protocol": "icmp"}), "icmp"),
            (
                json!({"protocol": "tcp", "ports": [22, "http"], "port_ranges": [[1, 9]]}),
                "tcp 22,http,1-9",
            ),
        ] {
            assert_eq!(traffic(&serde_json::from_value(value).unwrap()), expected);
        }
    }
}

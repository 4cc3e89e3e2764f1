//! `romana policy`. Documents in the seeds' form (`{"securitypolicies": […]}`), one policy, or a
//! list are all sent as they are: the server knows the schemas.

use std::path::PathBuf;

use clap::Subcommand;
use romana_client::Query;
use serde_json::Value;

use crate::context::Context;
use crate::failure::Failure;
use crate::input;
use crate::table::{Table, Tone, cell, items, one_or_list, text};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Add or replace policies
    #[command(visible_alias = "set")]
    Add {
        /// Document, JSON or YAML [default: stdin]
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
        /// Document, JSON or YAML [default: stdin]
        file: Option<PathBuf>,
    },
    /// Explain what policies of the cluster do
    Explain {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

const PATH: &str = "/v1/policies";

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Add { file } => {
                let document = input::document(file).await?;
                let answer = ctx.post(Query::new(PATH), &document, true).await?;
                let names = names(&document);
                let count = names.len();
                let plural = if count == 1 { "policy" } else { "policies" };
                ctx.out.done(&answer, format!("{count} {plural} applied: {}", names.join(", ")))
            }
            Self::Remove { name, id } => {
                let Some(name) = name.or(id) else {
                    return Err(Failure::usage("name the policy"));
                };
                let answer = ctx.delete(Query::new(PATH).segment(&name), false).await?;
                ctx.out.done(&answer, format!("policy {name} removed"))
            }
            Self::List => {
                let list = ctx.list(Query::new(PATH)).await?;
                ctx.out.show(&list, || table(items(&list)))
            }
            Self::Show { names } => {
                let found = ctx.get_each(PATH, &names).await?;
                ctx.out.show(&one_or_list(found.clone()), || details(&found))
            }
            Self::Check { file } => {
                let document = input::document(file).await?;
                check(ctx, &document).await
            }
            Self::Explain { names } => {
                let found = ctx.get_each(PATH, &names).await?;
                check(ctx, &Value::from(found)).await
            }
        }
    }
}

/// Asks the server to explain a document, and prints that.
async fn check(ctx: &Context, document: &Value) -> Result<(), Failure> {
    let answer = ctx.client.check_policies(document).await?;
    ctx.out.done(&answer, explanation(&answer))
}

/// What the server explained, as lines.
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
        lines.push(format!("  Endpoints it applies to now: {}.", cell(policy, "/endpoints")));
    }
    lines.join("\n")
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

/// A party (target or peer) in a few words.
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

/// Which directions a policy isolates.
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

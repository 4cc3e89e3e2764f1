//! `romana tenant`.

use clap::Subcommand;
use romana_api::tenant::LabelsBody;
use romana_client::Query;
use serde_json::Value;

use crate::context::Context;
use crate::failure::Failure;
use crate::labels;
use crate::shape::{IDENTIFIED, Shape};
use crate::table::{Table, cell, items, one_or_list, text};

/// A tenant after a change.
const SHOWN: Shape = IDENTIFIED.or_changed();

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a tenant, or replace its labels
    #[command(visible_alias = "add")]
    Create {
        /// Its name
        name: String,
        /// Label; may be repeated
        #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = labels::pair)]
        labels: Vec<(String, String)>,
    },
    /// Delete a tenant that owns nothing
    #[command(visible_alias = "remove")]
    Delete {
        /// Its name
        name: String,
    },
    /// List the tenants
    #[command(visible_alias = "ls")]
    List,
    /// Show tenants with their segments
    Show {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Create { name, labels } => {
                let body = LabelsBody { labels: labels.into_iter().collect() };
                let query = Query::new("/v1/tenants").segment(&name);
                let answer = ctx.put(query, &body, SHOWN).await?;
                ctx.note_kubernetes("namespaces become tenants");
                ctx.out.done(&answer, format!("tenant {name} created"))
            }
            Self::Delete { name } => {
                let query = Query::new("/v1/tenants").segment(&name);
                let answer = ctx.delete(query, false).await?;
                ctx.out.done(&answer, format!("tenant {name} deleted"))
            }
            Self::List => {
                let list = ctx.list(Query::new("/v1/tenants"), IDENTIFIED).await?;
                ctx.out.show(&list, || table(items(&list)))
            }
            Self::Show { names } => {
                let found = ctx.get_each("/v1/tenants", &names, IDENTIFIED).await?;
                ctx.out.show(&one_or_list(found.clone()), || table(&found))
            }
        }
    }
}

/// The segments of a tenant, with their labels: from the fields of an object, or a list of objects or ids.
pub(crate) fn segments(tenant: &Value) -> Vec<(String, String)> {
    match tenant.get("segments") {
        Some(Value::Object(map)) => {
            map.iter().map(|(id, value)| (id.clone(), text(value))).collect()
        }
        Some(Value::Array(list)) => list
            .iter()
            .map(|segment| match segment {
                Value::String(id) => (id.clone(), String::from("-")),
                segment => (cell(segment, "/id"), cell(segment, "/labels")),
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn table(tenants: &[Value]) -> Table {
    let mut table = Table::new(
        &["NAME", "SEGMENTS", "LABELS"],
        "no tenants yet: romana tenant create NAME (Kubernetes makes them of namespaces)",
    );
    for tenant in tenants {
        let segments: Vec<String> = segments(tenant).into_iter().map(|(id, _)| id).collect();
        let segments = if segments.is_empty() { String::from("-") } else { segments.join(",") };
        table.row(vec![cell(tenant, "/id"), segments, cell(tenant, "/labels")]);
    }
    table
}

//! `romana segment`.

use clap::Subcommand;
use romana_api::tenant::LabelsBody;
use romana_client::Query;
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::Failure;
use crate::labels;
use crate::shape::{IDENTIFIED, Shape};
use crate::table::{Table, cell, items};
use crate::tenant;

/// A segment after a change.
const SHOWN: Shape = IDENTIFIED.or_changed();

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Add a segment to a tenant, or replace its labels
    #[command(visible_alias = "create")]
    Add {
        /// The tenant
        tenant: String,
        /// The segment
        segment: String,
        /// Label; may be repeated
        #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = labels::pair)]
        labels: Vec<(String, String)>,
    },
    /// Remove a segment that owns nothing
    #[command(visible_alias = "delete")]
    Remove {
        /// The tenant
        tenant: String,
        /// The segment
        segment: String,
    },
    /// List the segments of tenants (of all, if none is named)
    #[command(visible_alias = "ls")]
    List {
        /// The tenants
        tenants: Vec<String>,
    },
}

fn path(tenant: &str, segment: &str) -> Query {
    Query::new("/v1/tenants").segment(tenant).segment("segments").segment(segment)
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Add { tenant, segment, labels } => {
                let body = LabelsBody { labels: labels.into_iter().collect() };
                let answer = ctx.put(path(&tenant, &segment), &body, SHOWN).await?;
                ctx.note_kubernetes("labels of pods become segments");
                ctx.out.done(&answer, format!("segment {tenant}/{segment} added"))
            }
            Self::Remove { tenant, segment } => {
                let answer = ctx.delete(path(&tenant, &segment), false).await?;
                ctx.out.done(&answer, format!("segment {tenant}/{segment} removed"))
            }
            Self::List { tenants } => {
                let found = if tenants.is_empty() {
                    items(&ctx.list(Query::new("/v1/tenants"), IDENTIFIED).await?).to_vec()
                } else {
                    ctx.get_each("/v1/tenants", &tenants, IDENTIFIED).await?
                };
                let rows = rows(&found);
                let list: Vec<Value> = rows
                    .iter()
                    .map(|[tenant, id, _]| json!({"tenant": tenant, "id": id}))
                    .collect();
                ctx.out.show(&json!({ "items": list }), || table(rows))
            }
        }
    }
}

fn rows(tenants: &[Value]) -> Vec<[String; 3]> {
    let rows = tenants.iter().flat_map(|tenant| {
        let of = |(id, labels)| [cell(tenant, "/id"), id, labels];
        tenant::segments(tenant).into_iter().map(of).collect::<Vec<_>>()
    });
    rows.collect()
}

fn table(rows: Vec<[String; 3]>) -> Table {
    let columns = ["TENANT", "SEGMENT", "LABELS"];
    let mut table = Table::new(&columns, "no segments yet: romana segment add TENANT SEGMENT");
    rows.into_iter().for_each(|row| table.row(row.into()));
    table
}

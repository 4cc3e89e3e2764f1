//! `romana segment`.

use clap::Subcommand;
use hyper::Method;
use romana_api::Page;
use romana_api::tenant::{LabelsBody, Segment, Tenant};
use romana_client::Query;
use romana_statemachine::Labels;
use romana_statemachine::name::{SegmentId, TenantId};
use serde::Serialize;

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;
use crate::labels;
use crate::table::{self, Table, cell};
use crate::tenant::PATH;

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
    Query::new(PATH).segment(tenant).segment("segments").segment(segment)
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Add { tenant, segment, labels } => {
                let body = LabelsBody { labels: labels.into_iter().collect() };
                let query = path(&tenant, &segment);
                let answer = ctx.change::<Segment>(Method::PUT, query, &body).await?;
                ctx.note_kubernetes("labels of pods become segments");
                ctx.out.done(&answer, format!("segment {tenant}/{segment} added"))
            }
            Self::Remove { tenant, segment } => {
                let answer = ctx.delete(path(&tenant, &segment), false).await?;
                ctx.out.done(&answer, format!("segment {tenant}/{segment} removed"))
            }
            Self::List { tenants } => {
                let tenants = if tenants.is_empty() {
                    let all: Answer<Page<Tenant>> = ctx.list(Query::new(PATH)).await?;
                    all.value.items
                } else {
                    ctx.each(PATH, &tenants).await?.value
                };
                let items = tenants.into_iter().flat_map(segments).collect();
                ctx.out.show(&Answer::own(Segments { items }), table)
            }
        }
    }
}

/// Segments of several tenants.
#[derive(Debug, Serialize)]
struct Segments {
    items: Vec<Row>,
}

/// A segment and its tenant.
#[derive(Debug, Serialize)]
struct Row {
    tenant: TenantId,
    id: SegmentId,
    #[serde(skip)]
    labels: Labels,
}

fn segments(tenant: Tenant) -> impl Iterator<Item = Row> {
    let Tenant { id: tenant, segments, .. } = tenant;
    let row = move |Segment { id, labels }| Row { tenant: tenant.clone(), id, labels };
    segments.into_iter().map(row)
}

fn table(segments: &Segments) -> Table {
    let columns = ["TENANT", "SEGMENT", "LABELS"];
    let mut table = Table::new(&columns, "no segments yet: romana segment add TENANT SEGMENT");
    for Row { tenant, id, labels } in &segments.items {
        table.row(vec![cell(tenant), cell(id), table::labels(labels)]);
    }
    table
}

//! `romana tenant`.

use clap::Subcommand;
use hyper::Method;
use romana_api::tenant::{LabelsBody, Tenant};
use romana_client::Query;

use crate::context::Context;
use crate::failure::Failure;
use crate::labels;
use crate::table::{self, Table, cell};

pub(crate) const PATH: &str = "/v1/tenants";

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
                let query = Query::new(PATH).segment(&name);
                let answer = ctx.change::<Tenant>(Method::PUT, query, &body).await?;
                ctx.note_kubernetes("namespaces become tenants");
                ctx.out.done(&answer, format!("tenant {name} created"))
            }
            Self::Delete { name } => {
                let answer = ctx.delete(Query::new(PATH).segment(&name), false).await?;
                ctx.out.done(&answer, format!("tenant {name} deleted"))
            }
            Self::List => ctx.show_list(Query::new(PATH), table).await,
            Self::Show { names } => ctx.show_each(PATH, &names, table).await,
        }
    }
}

fn table(tenants: &[Tenant]) -> Table {
    let mut table = Table::new(
        &["NAME", "SEGMENTS", "LABELS"],
        "no tenants yet: romana tenant create NAME (on Kubernetes, namespaces become tenants)",
    );
    for Tenant { id, labels, segments } in tenants {
        let segments = table::list(segments.iter().map(|segment| &segment.id));
        table.row(vec![cell(id), segments, table::labels(labels)]);
    }
    table
}

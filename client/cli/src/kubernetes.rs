//! `romana kubernetes`.

use clap::Subcommand;
use romana_api::Changed;
use romana_api::kubernetes::{ConfirmBody, Kubernetes};
use romana_client::Query;

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;
use crate::table::{Table, cell};

const PATH: &str = "/v1/kubernetes";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the Kubernetes cluster whose objects are imported
    Show,
    /// Confirm that the API server is right, although it lists so little: withdraw what was held back
    ///
    /// Hosts without a Node are evicted: their addresses are given to others. `romana doctor` says what is held back.
    Confirm {
        /// The uid of its namespace kube-system, if it is that of another cluster than before
        uid: Option<String>,
    },
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Show => ctx.out.show(&ctx.get(Query::new(PATH)).await?, table),
            Self::Confirm { uid } => {
                let body = ConfirmBody { cluster: uid.map(Into::into) };
                let query = Query::new("/v1/kubernetes/confirm");
                let answer: Answer<Changed> = ctx.post(query, &body, true).await?;
                ctx.out.done(&answer, "confirmed: what was held back is withdrawn")
            }
        }
    }
}

fn table(followed: &Kubernetes) -> Table {
    let mut table = Table::new(&["CLUSTER", "CONFIRMED"], "");
    let cluster = followed.cluster.as_ref().map_or_else(|| "-".into(), cell);
    table.row(vec![cluster, if followed.confirmed { "yes" } else { "no" }.into()]);
    table
}

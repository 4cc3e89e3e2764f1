//! `romana cluster`.

use clap::Subcommand;
use romana_client::Query;
use serde_json::Value;

use crate::context::Context;
use crate::failure::Failure;
use crate::table::{Table, Tone, cell, items};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the replicas, the leader and how far each is
    #[command(visible_alias = "show")]
    Status,
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let Self::Status = self;
        let status = ctx.get(Query::new("/v1/cluster")).await?;
        ctx.out.show(&status, || table(&status))
    }
}

fn table(status: &Value) -> Table {
    let mut table = Table::new(&["ID", "ROLE", "HEALTHY", "LAG", "API", "PEER"], "no members");
    for member in status.get("members").map(items).unwrap_or_default() {
        let healthy = member.get("healthy").and_then(Value::as_bool);
        let leads =
            status.get("leader").is_some_and(|id| !id.is_null() && Some(id) == member.get("id"));
        let (tone, healthy) = match (healthy, leads) {
            (Some(false), _) => (Tone::Bad, "no"),
            (_, true) => (Tone::Good, "yes"),
            (Some(true), false) => (Tone::Plain, "yes"),
            (None, false) => (Tone::Plain, "-"),
        };
        table.toned(
            tone,
            vec![
                cell(member, "/id"),
                cell(member, "/role"),
                healthy.into(),
                cell(member, "/lag"),
                cell(member, "/api"),
                cell(member, "/peer"),
            ],
        );
    }
    let leader = match cell(status, "/leader") {
        none if none == "-" => String::from("no leader"),
        id => format!("leader {id}"),
    };
    let (cluster, term) = (cell(status, "/cluster_id"), cell(status, "/term"));
    table.note(format!(
        "cluster {cluster}: {leader}, term {term}, revision {}",
        cell(status, "/revision")
    ));
    table
}

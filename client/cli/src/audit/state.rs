//! `romana audit state`.

use clap::Args;
use romana_client::Query;
use serde_json::{Value, json};

use super::moment::{Moment, moment};
use super::show::time;
use crate::context::{Context, read};
use crate::failure::Failure;
use crate::shape::{Kind, Shape};
use crate::table::{Table, cell};

/// A whole state.
const STATE: Shape = Shape::new(&[("revision", Kind::Number), ("topology", Kind::Object)]);

/// The whole state as it was.
#[derive(Debug, Args)]
pub(crate) struct State {
    /// At this revision or time, such as 12345, 2026-11-23T10:00:00Z or -2h [default: now]
    #[arg(long, value_name = "WHEN", value_parser = moment, allow_hyphen_values = true)]
    at: Option<Moment>,
}

impl State {
    pub(super) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let at = match self.at.map(Moment::text) {
            Some(at) => at,
            None => ctx.client.cluster().await?.revision.to_string(),
        };
        let query = Query::new("/v1/audit/state").with("at", Some(at));
        let state = read(ctx.patient(super::PATIENCE)?.get(query.build()).await?, STATE)?;
        ctx.out.show(&state, || table(&state))
    }
}

/// The number of objects of each kind; the full state is for programs.
pub(super) fn table(state: &Value) -> Table {
    let mut table = Table::new(&["", ""], "nothing");
    table.row(vec!["revision".into(), cell(state, "/revision")]);
    table.row(vec!["time".into(), time(state.get("at"))]);
    for name in ["digest", "state_digest"] {
        table.row(vec![name.replace('_', " "), cell(state, &format!("/{name}"))]);
    }
    let networks = state.pointer("/topology/networks").unwrap_or(&Value::Null);
    let lists = json!({ "networks": networks });
    let all = lists.as_object().into_iter().chain(state.as_object()).flatten();
    for (name, list) in all {
        if let Value::Array(list) = list {
            table.row(vec![name.clone(), list.len().to_string()]);
        }
    }
    table.note("-f json prints all of it");
    table
}

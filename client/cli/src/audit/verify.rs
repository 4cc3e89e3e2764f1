//! `romana audit verify`.

use std::time::Duration;

use indicatif::ProgressBar;
use romana_statemachine::time::Span;
use serde_json::Value;

use super::show::short;
use crate::context::{Context, read};
use crate::failure::Failure;
use crate::shape::{Kind, Shape};
use crate::table::{Table, Tone, cell};

/// The results of all replicas.
const VERIFIED: Shape = Shape::new(&[("agreed", Kind::Bool), ("replicas", Kind::List)]);

pub(super) async fn run(ctx: &Context) -> Result<(), Failure> {
    let client = ctx.patient(super::PATIENCE)?;
    let bar = ProgressBar::new_spinner().with_message("every replica reads its whole history");
    bar.enable_steady_tick(Duration::from_millis(100));
    let asked = client.get::<Value>("/v1/audit/verify").await;
    bar.finish_and_clear();
    let answer = read(asked?, VERIFIED)?;
    ctx.out.show(&answer, || table(&answer))?;
    if is_agreed(&answer) { Ok(()) } else { Err(Failure::Found) }
}

fn is_agreed(answer: &Value) -> bool {
    answer.get("agreed") == Some(&Value::Bool(true))
}

const COLUMNS: [&str; 8] =
    ["REPLICA", "RESULT", "OLDEST", "REVISION", "DIGEST", "STATE", "TOOK", "ERROR"];

fn table(answer: &Value) -> Table {
    let mut table = Table::new(&COLUMNS, "no replica answers");
    for replica in answer.get("replicas").and_then(Value::as_array).into_iter().flatten() {
        let ok = replica.get("ok") == Some(&Value::Bool(true));
        let took = replica.get("took_ms").map_or_else(
            || "-".into(),
            |ms| ms.as_u64().map_or_else(|| cell(replica, "/took_ms"), |ms| Span(ms).to_string()),
        );
        let row = vec![
            cell(replica, "/id"),
            if ok { "ok".into() } else { "BAD".into() },
            cell(replica, "/oldest"),
            cell(replica, "/revision"),
            short(replica.get("digest")),
            short(replica.get("state_digest")),
            took,
            cell(replica, "/error"),
        ];
        table.toned(if ok { Tone::Good } else { Tone::Bad }, row);
    }
    let differences = answer.get("differences").and_then(Value::as_array);
    for difference in differences.into_iter().flatten().filter_map(Value::as_str) {
        table.note(difference);
    }
    table.note(if is_agreed(answer) {
        "all replicas have the same history, and it is whole"
    } else {
        "the replicas do not all have the same whole history"
    });
    table
}

//! `romana audit diff`.

use clap::Args;
use romana_client::Query;
use serde_json::Value;

use super::moment::{Moment, moment};
use super::show::time;
use crate::context::Context;
use crate::failure::Failure;
use crate::table::{Table, Tone, cell, text};

/// What changed from one point to another.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// From this revision or time, such as 12345, 2026-11-23T10:00:00Z or -2h
    #[arg(value_name = "FROM", value_parser = moment, allow_hyphen_values = true)]
    from: Moment,
    /// To this one [default: now]
    #[arg(value_name = "TO", value_parser = moment, allow_hyphen_values = true)]
    to: Option<Moment>,
}

impl Diff {
    pub(super) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let query = Query::new("/v1/audit/diff").with("from", Some(self.from.text()));
        let query = query.with("to", self.to.map(Moment::text));
        let diff: Value = ctx.patient(super::PATIENCE)?.get(query.build()).await?;
        ctx.out.show(&diff, || table(&diff))
    }
}

fn table(diff: &Value) -> Table {
    let mut table = Table::new(&["KIND", "WHAT", "CHANGE", "DETAILS"], "nothing changed");
    for change in diff.get("changes").and_then(Value::as_array).into_iter().flatten() {
        let side = |name: &str| change.get(name).filter(|value| !value.is_null());
        let (tone, kind, details) = match (side("before"), side("after")) {
            (None, Some(after)) => (Tone::Good, "added", text(after)),
            (Some(before), None) => (Tone::Bad, "removed", text(before)),
            (Some(before), Some(after)) => (Tone::Warning, "changed", changed(before, after)),
            (None, None) => (Tone::Plain, "-", String::new()),
        };
        let row = vec![cell(change, "/kind"), cell(change, "/key"), kind.into(), details];
        table.toned(tone, row);
    }
    let point = |name: &str| {
        let at = diff.pointer(&format!("/{name}/at"));
        format!("revision {} ({})", cell(diff, &format!("/{name}/revision")), time(at))
    };
    table.note(format!("from {} to {}", point("from"), point("to")));
    table
}

/// The members that differ, as `name: before → after`.
fn changed(before: &Value, after: &Value) -> String {
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        return format!("{} → {}", text(before), text(after));
    };
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let show = |value: Option<&Value>| value.map_or_else(|| "-".into(), text);
    let differ = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    let parts =
        differ.map(|name| format!("{name}: {} → {}", show(old.get(name)), show(new.get(name))));
    parts.collect::<Vec<_>>().join("; ")
}

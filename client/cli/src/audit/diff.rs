//! `romana audit diff`.

use std::collections::BTreeSet;

use clap::Args;
use romana_api::audit::Difference;
use romana_client::Query;
use romana_statemachine::{Millis, audit, escaped, plural};
use serde_json::Value;

use super::moment::{Moment, moment};
use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;
use crate::table::{Table, Tone, cell};

/// What changed from one point to another.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// From this revision or time, such as 12345, 2026-11-23T10:00:00Z or -2h
    #[arg(value_name = "FROM", value_parser = moment, allow_hyphen_values = true)]
    from: Moment,
    /// To this revision or time [default: now]
    #[arg(value_name = "TO", value_parser = moment, allow_hyphen_values = true)]
    to: Option<Moment>,
}

impl Diff {
    pub(super) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let query = Query::new("/v1/audit/diff").with("from", Some(self.from.text()));
        let query = query.with("to", self.to.map(Moment::text));
        let diff = Answer::read(ctx.patient(super::PATIENCE)?.get(query.build()).await?)?;
        ctx.out.show(&diff, table)
    }
}

fn table(diff: &Difference) -> Table {
    let mut table = Table::new(&["KIND", "WHAT", "CHANGE", "DETAILS"], "nothing changed");
    for change in &diff.changes {
        let (tone, kind, details) = match (&change.before, &change.after) {
            (None, Some(after)) => (Tone::Good, "added", shown("", after)),
            (Some(before), None) => (Tone::Bad, "removed", shown("", before)),
            (Some(before), Some(after)) => (Tone::Warning, "changed", changed(before, after)),
            (None, None) => (Tone::Plain, "-", String::new()),
        };
        table.toned(tone, vec![cell(&change.kind), cell(&change.key), kind.into(), details]);
    }
    let point = |moment: audit::Moment| format!("revision {} ({})", moment.revision, moment.at);
    table.note(format!("from {} to {}", point(diff.from), point(diff.to)));
    table
}

/// Maximum number of differences listed per line; the rest are counted. Long values are truncated.
const DIFFERENCES_MAX: usize = 8;
const VALUE_CHARS_MAX: usize = 200;

/// The differences, down to the innermost values, as `path: before → after`.
fn changed(before: &Value, after: &Value) -> String {
    let mut found = Vec::new();
    compare("", Some(before), Some(after), &mut found);
    let more = found.len().saturating_sub(DIFFERENCES_MAX);
    found.truncate(DIFFERENCES_MAX);
    if more > 0 {
        found.push(format!("and {} (-f json prints all of it)", plural(more, "more difference")));
    }
    found.join("; ")
}

fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<String>) {
    match (before, after) {
        (Some(old), Some(new)) if old == new => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                compare(&path, old.get(name), new.get(name), found);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new)))
            if old.iter().chain(new).any(Value::is_object) =>
        {
            for at in 0..old.len().max(new.len()) {
                let element = old.get(at).or_else(|| new.get(at));
                let name = element.and_then(|element| element.get("name")).map(text);
                let name = name.unwrap_or_else(|| at.to_string());
                compare(&format!("{path}[{name}]"), old.get(at), new.get(at), found);
            }
        }
        (old, new) => {
            let of = |value: Option<&Value>| value.map_or_else(|| "-".into(), |v| shown(path, v));
            let place = if path.is_empty() { String::new() } else { format!("{path}: ") };
            found.push(format!("{place}{} → {}", of(old), of(new)));
        }
    }
}

/// A value on one line: times are formatted, and long text is truncated.
fn shown(name: &str, value: &Value) -> String {
    let is_time = name.ends_with("at") || name.ends_with("since") || name.ends_with("until");
    if let Some(ms) = value.as_u64().filter(|ms| is_time && *ms >= 100_000_000_000) {
        return Millis(ms).to_string();
    }
    let text = text(value);
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((cut, _)) => format!("{}… ({} bytes more)", &text[..cut], text.len() - cut),
        None => text,
    }
}

/// A value as text, on one line; `-` if it is empty.
fn text(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => escaped(text).into_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(","),
        Value::Object(map) => {
            let pairs = map.iter().map(|(key, value)| format!("{}={}", escaped(key), text(value)));
            pairs.collect::<Vec<_>>().join(",")
        }
    };
    cell(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A small change in a large topology is a short line.
    #[test]
    fn only_what_differs_is_shown() {
        let groups = |last: &str| {
            let racks = (0..100).map(|n| json!({"name": format!("rack-{n}"), "hosts": []}));
            json!({"networks": [{"name": "n", "cidr": "10.0.0.0/8"}],
                   "map": racks.chain([json!({"name": last, "hosts": []})]).collect::<Vec<_>>()})
        };
        assert_eq!(changed(&groups("a"), &groups("b")), "map[a].name: a → b");
        let mut other = groups("a");
        other["networks"][0]["cidr"] = json!("10.0.0.0/9");
        other["map"] = json!([]);
        let line = changed(&groups("a"), &other);
        assert!(line.ends_with("and 94 more differences (-f json prints all of it)"), "{line}");
        assert!(line.len() < 2000, "{line}");
        let times = [1_795_908_366_022_u64, 7].map(|at| json!({"released_at": at}));
        assert_eq!(changed(&times[0], &times[1]), "released_at: 2026-11-28T23:26:06.022Z → 7");
        let long = shown("x", &json!("y".repeat(1000)));
        assert!(long.ends_with("… (800 bytes more)"), "{long}");
    }
}

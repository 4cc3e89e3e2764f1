//! The log of a program: one line per event on standard error, as text or JSON.
//!
//! Values come from clients, peers, files and kernels, and may contain arbitrary bytes. Each is written
//! through [`Printable`]: an event is always one line of bounded length, without terminal control sequences.
//! Repeated warnings are counted instead of written ([`crate::repeats`]).

use std::fmt;
use std::io::IsTerminal;

use clap::ValueEnum;
use romana_statemachine::Printable;
use serde::Deserialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::FilterExt as _;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::error::Chain;
use crate::repeats::Repeats;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// The log cannot be initialised.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the log filter is not valid")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// It was initialised before.
    #[error("the log is set up already")]
    Twice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Checks a filter, as [`init`] does.
///
/// # Errors
/// [`LogError`].
pub fn check(filter: &str) -> Result<(), LogError> {
    EnvFilter::builder().parse(filter)?;
    Ok(())
}

/// Initialises the log of this process on standard error. `filter` is a level or a list of `target=level`, as
/// in `info,romana_replica::raft=debug`.
///
/// # Errors
/// [`LogError`].
pub fn init(form: Form, filter: &str) -> Result<(), LogError> {
    let repeats = Repeats::default();
    let filter = EnvFilter::builder().parse(filter)?.and(repeats.clone());
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .fmt_fields(Text);
    let registry = tracing_subscriber::registry();
    match form {
        Form::Text => registry.with(layer.with_filter(filter)).try_init(),
        Form::Json => registry.with(layer.event_format(Json).with_filter(filter)).try_init(),
    }
    .map_err(|error| LogError::Twice(error.into()))?;
    repeats.count();
    Ok(())
}

/// Whether a field was added by the `log` bridge instead of the event.
fn is_foreign(field: &Field) -> bool {
    field.name().starts_with("log.")
}

/// Writes events as text: the message, then `name=value`.
#[derive(Clone, Copy, Debug)]
pub struct Text;

impl<'w> FormatFields<'w> for Text {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = TextVisitor { writer, first: true, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct TextVisitor<'w> {
    writer: Writer<'w>,
    first: bool,
    result: fmt::Result,
}

impl TextVisitor<'_> {
    fn put(&mut self, field: &Field, value: impl fmt::Display) {
        if self.result.is_err() || is_foreign(field) {
            return;
        }
        let space = if std::mem::take(&mut self.first) { "" } else { " " };
        let value = Printable(value);
        self.result = match field.name() {
            "message" => write!(self.writer, "{space}{value}"),
            name => write!(self.writer, "{space}{}={value}", name.trim_start_matches("r#")),
        };
    }
}

impl Visit for TextVisitor<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.put(field, value),
            _ => self.put(field, format_args!("{value:?}")),
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, Chain(value));
    }
}

/// Writes events as JSON: `{"timestamp", "level", fields …, "target"}`.
struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut fields = JsonVisitor::default();
        event.record(&mut fields);
        let line = line(&time, event.metadata(), &fields.0).map_err(|_| fmt::Error)?;
        writeln!(writer, "{line}")
    }
}

fn line(
    time: &str,
    metadata: &tracing::Metadata<'_>,
    fields: &[(&'static str, Value)],
) -> Result<String, Box<dyn std::error::Error>> {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut bytes);
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("timestamp", time)?;
    map.serialize_entry("level", metadata.level().as_str())?;
    for (name, value) in fields {
        map.serialize_entry(name, value)?;
    }
    map.serialize_entry("target", metadata.target())?;
    map.end()?;
    Ok(String::from_utf8(bytes)?)
}

#[derive(Default)]
struct JsonVisitor(Vec<(&'static str, Value)>);

impl JsonVisitor {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        if !is_foreign(field) {
            self.0.push((field.name().trim_start_matches("r#"), value.into()));
        }
    }
}

impl Visit for JsonVisitor {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Printable(format_args!("{value:?}")).to_string());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Printable(value).to_string());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, Printable(Chain(value)).to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The log output of `log`.
    fn logged(form: Form, log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let builder = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .fmt_fields(Text);
        match form {
            Form::Text => tracing::subscriber::with_default(builder.finish(), log),
            Form::Json => {
                tracing::subscriber::with_default(builder.event_format(Json).finish(), log);
            }
        }
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn hostile() {
        let name = format!("\u{1b}[2J\nERROR forged\u{202e}{}", "x".repeat(1 << 20));
        let error = io::Error::other(name.clone());
        tracing::warn!(%name, debug = ?name, text = name.as_str(), %error, "it is named {name}");
        tracing::warn!(error = &error as &dyn std::error::Error, count = 7, so = true, "{name}");
    }

    #[test]
    fn nothing_from_outside_breaks_a_line_or_makes_it_long() {
        for form in [Form::Text, Form::Json] {
            let text = logged(form, hostile);
            assert_eq!(text.lines().count(), 2, "{text}");
            assert!(text.len() < 16 << 10, "{} bytes", text.len());
            let bad = text.chars().find(|c| *c != '\n' && !romana_statemachine::is_printable(*c));
            assert_eq!(bad, None);
            assert!(text.contains("bytes more"), "{text}");
        }
    }

    #[test]
    fn lines_for_programs_are_json_in_order() {
        let text = logged(Form::Json, || tracing::info!(count = 7, why = "a\"b", "done"));
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["level"], &value["message"]), (&"INFO".into(), &"done".into()));
        assert_eq!((&value["count"], &value["why"]), (&7.into(), &"a\"b".into()));
        assert!(text.starts_with("{\"timestamp\":\"20"), "{text}");
        assert!(text.ends_with("\"target\":\"romana_daemon::log::tests\"}\n"), "{text}");
    }

    #[test]
    fn lines_for_people_are_as_before() {
        let text = logged(Form::Text, || tracing::info!(count = 7, why = "a", "done"));
        assert!(
            text.ends_with(" INFO romana_daemon::log::tests: done count=7 why=\"a\"\n"),
            "{text}"
        );
    }
}

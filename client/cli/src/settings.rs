//! `romana settings`.

use clap::Subcommand;
use romana_client::Query;
use romana_statemachine::time::{Size, Span};
use serde_json::{Map, Value};

use crate::audit::moment::span;
use crate::context::Context;
use crate::failure::Failure;
use crate::global::duration;
use crate::labels;
use crate::shape::{SETTINGS, Shape};
use crate::table::{Table, text};

/// The settings after a change.
const SHOWN: Shape = SETTINGS.or_changed();

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the cluster settings
    #[command(visible_alias = "list")]
    Show,
    /// Change cluster settings
    Set {
        /// Settings, such as address_reuse_delay=30s, reserve_per_owner=2, host_down_after=10s,
        /// restore_hold_max=1h, history_retention=30d (or off) or history_retention_size=10GiB (or off)
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = labels::pair)]
        changes: Vec<(String, String)>,
    },
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let path = Query::new("/v1/settings");
        match self {
            Self::Show => {
                let settings = ctx.get(path, SETTINGS).await?;
                ctx.out.show(&settings, || table(&settings))
            }
            Self::Set { changes } => {
                let answer = ctx.patch(path, &Value::Object(body(changes)?), SHOWN).await?;
                ctx.out.show(&answer, || table(&answer))
            }
        }
    }
}

/// Settings with a time as value, without the suffix `_ms` of their names in the API.
const TIMES: [&str; 4] =
    ["address_reuse_delay", "vip_lease", "host_down_after", "restore_hold_max"];

/// Parses a time: `500ms`, `10s`, `1h`, `2d`, or `0`.
fn time(value: &str) -> Result<Value, Failure> {
    if matches!(value, "0" | "0s") {
        return Ok(Value::from(0));
    }
    let short = duration(value).ok().and_then(|time| u64::try_from(time.as_millis()).ok());
    let ms = short.or_else(|| u64::try_from(span(value)?.as_millis()).ok());
    ms.map(Value::from).ok_or_else(|| {
        Failure::usage(format!("{value:?} is not a time such as 500ms, 10s, 2m, 1h or 0"))
    })
}

/// Parses a maximum age of the history: `30d`, milliseconds, or `off` for no limit.
fn age(value: &str) -> Result<Value, Failure> {
    if value == "off" {
        return Ok(Value::Null);
    }
    let ms = value.parse::<u64>().ok().or_else(|| u64::try_from(span(value)?.as_millis()).ok());
    ms.map(Value::from).ok_or_else(|| {
        Failure::usage(format!("{value:?} is not how long to keep: 30d, 12h or off"))
    })
}

/// Parses a maximum size of the history: `10GiB`, bytes, or `off` for no limit.
fn size(value: &str) -> Result<Value, Failure> {
    if value == "off" {
        return Ok(Value::Null);
    }
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let (number, unit) = value.split_at(digits);
    let unit: Option<u64> = match unit {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "TiB" => Some(1 << 40),
        "KB" => Some(1_000),
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        "TB" => Some(1_000_000_000_000),
        _ => None,
    };
    let bytes = unit.and_then(|unit| number.parse::<u64>().ok()?.checked_mul(unit));
    bytes.map(Value::from).ok_or_else(|| {
        Failure::usage(format!("{value:?} is not how much to keep: 10GiB, 500MB or off"))
    })
}

/// The change in the form that the server accepts. `X=30s` is short for `X_ms=30000`.
fn body(changes: Vec<(String, String)>) -> Result<Map<String, Value>, Failure> {
    let read = changes.into_iter().map(|(name, value)| {
        match name.as_str() {
            "history_retention" | "history_retention_ms" => {
                return Ok(("history_retention_ms".into(), age(&value)?));
            }
            "history_retention_size" | "history_retention_bytes" => {
                return Ok(("history_retention_bytes".into(), size(&value)?));
            }
            "service_ranges" => {
                let ranges = value.split(',').map(str::trim).filter(|text| !text.is_empty());
                return Ok((name, ranges.map(Value::from).collect()));
            }
            _ => {}
        }
        if TIMES.contains(&name.as_str()) {
            return Ok((format!("{name}_ms"), time(&value)?));
        }
        if let Ok(number) = value.parse::<u64>() {
            return Ok((name, Value::from(number)));
        }
        let time = duration(&value).map_err(Failure::usage)?;
        let name = if name.ends_with("_ms") { name } else { format!("{name}_ms") };
        Ok((name, Value::from(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))))
    });
    read.collect()
}

fn table(settings: &Value) -> Table {
    let mut table = Table::new(&["SETTING", "VALUE"], "no settings");
    if let Value::Object(map) = settings {
        for (name, value) in map {
            let for_ever = name.starts_with("history_retention") && value.is_null();
            let (name, shown) = match (for_ever, value.as_u64()) {
                (true, _) => (name.as_str(), "for ever".into()),
                (false, Some(ms)) if name.ends_with("_ms") => (name.as_str(), Span(ms).to_string()),
                (false, Some(bytes)) if name.ends_with("_bytes") => {
                    (name.as_str(), Size(bytes).to_string())
                }
                _ => (name.as_str(), text(value)),
            };
            table.row(vec![setting(name), shown]);
        }
    }
    table
}

/// The name of a setting in `settings set`, where values have units.
fn setting(name: &str) -> String {
    match name {
        "history_retention_bytes" => "history_retention_size".into(),
        name => name.strip_suffix("_ms").unwrap_or(name).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short_for_milliseconds() {
        let pairs = [("address_reuse_delay", "30s"), ("vip_lease_ms", "500"), ("x_ms", "2m")];
        let pairs = pairs.map(|(name, value)| (name.into(), value.into()));
        let body = Value::from(body(pairs.into()).unwrap());
        let wanted = r#"{"address_reuse_delay_ms":30000,"vip_lease_ms":500,"x_ms":120000}"#;
        assert_eq!(body.to_string(), wanted);
        assert!(super::body(vec![("a".into(), "soon".into())]).is_err());
        for (value, ms) in [("0", 0), ("0s", 0), ("1h", 3_600_000), ("2d", 172_800_000)] {
            let body = super::body(vec![("restore_hold_max".into(), value.into())]).unwrap();
            assert_eq!(body["restore_hold_max_ms"], ms);
        }
    }

    #[test]
    fn the_history_is_kept_for_a_time_or_a_size_or_for_ever() {
        for (name, value, wanted) in [
            ("history_retention", "30d", r#"{"history_retention_ms":2592000000}"#),
            ("history_retention", "off", r#"{"history_retention_ms":null}"#),
            ("history_retention_ms", "60000", r#"{"history_retention_ms":60000}"#),
            ("history_retention_size", "10GiB", r#"{"history_retention_bytes":10737418240}"#),
            ("history_retention_size", "500MB", r#"{"history_retention_bytes":500000000}"#),
            ("history_retention_bytes", "off", r#"{"history_retention_bytes":null}"#),
        ] {
            let body = Value::from(body(vec![(name.into(), value.into())]).unwrap());
            assert_eq!(body.to_string(), wanted);
        }
        for value in ["", "soon", "-1d", "10XB", "99999999TiB"] {
            assert!(body(vec![("history_retention".into(), value.into())]).is_err());
            assert!(body(vec![("history_retention_size".into(), value.into())]).is_err());
        }
    }
}

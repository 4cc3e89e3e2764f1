//! `romana settings`.

use clap::Subcommand;
use hyper::Method;
use romana_api::ObjectOrChange;
use romana_api::settings::ClusterSettings;
use romana_client::Query;
use romana_statemachine::time::{Size, Span};
use serde_json::{Map, Value};

use crate::audit::moment::span;
use crate::context::Context;
use crate::failure::Failure;
use crate::global::duration;
use crate::labels;
use crate::table::{self, Table, cell};

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
            Self::Show => ctx.out.show(&ctx.get(path).await?, table),
            Self::Set { changes } => {
                let answer = ctx.change(Method::PATCH, path, &body(changes)?).await?;
                match &answer.value {
                    ObjectOrChange::Object(settings) => ctx.out.show(&answer, |_| table(settings)),
                    ObjectOrChange::Change(_) => ctx.out.done(&answer, "settings changed"),
                }
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

/// The settings that can be changed. Names of the API, which end with a unit, are understood as well.
const SETTINGS: [&str; 8] = [
    "address_reuse_delay",
    "history_retention",
    "history_retention_size",
    "host_down_after",
    "reserve_per_owner",
    "restore_hold_max",
    "service_ranges",
    "vip_lease",
];

/// The change in the form that the server accepts. `X=30s` is short for `X_ms=30000`.
fn body(changes: Vec<(String, String)>) -> Result<Map<String, Value>, Failure> {
    let read = changes.into_iter().map(|(name, value)| match name.as_str() {
        "history_retention" | "history_retention_ms" => {
            Ok(("history_retention_ms".into(), age(&value)?))
        }
        "history_retention_size" | "history_retention_bytes" => {
            Ok(("history_retention_bytes".into(), size(&value)?))
        }
        "service_ranges" => {
            let ranges = value.split(',').map(str::trim).filter(|text| !text.is_empty());
            Ok((name, ranges.map(Value::from).collect()))
        }
        "reserve_per_owner" => {
            let number = value.parse::<u64>().map(Value::from);
            let bad = |_| Failure::usage(format!("{value:?} is not a number of addresses"));
            Ok((name, number.map_err(bad)?))
        }
        short if TIMES.contains(&short) => Ok((format!("{name}_ms"), time(&value)?)),
        long if long.strip_suffix("_ms").is_some_and(|short| TIMES.contains(&short)) => {
            let number = value.parse::<u64>().map(Value::from);
            Ok((name, number.or_else(|_| time(&value))?))
        }
        unknown => Err(Failure::usage(format!(
            "there is no setting \"{unknown}\"; the settings are {}",
            SETTINGS.join(", ")
        ))),
    });
    read.collect()
}

/// The settings, by name as in `settings set`, where values have units.
fn table(all: &ClusterSettings) -> Table {
    let ClusterSettings { settings, agents, .. } = all;
    let forever = || String::from("for ever");
    let time = |ms: u64| Span(ms).to_string();
    let bytes = |bytes: u64| Size(bytes).to_string();
    let rows = [
        ("address_reuse_delay", time(settings.address_reuse_delay_ms)),
        ("history_retention_size", all.history_retention_bytes.map_or_else(forever, bytes)),
        ("history_retention", all.history_retention_ms.map_or_else(forever, time)),
        ("host_down_after", time(agents.host_down_after_ms)),
        ("reserve_per_owner", cell(agents.reserve_per_owner)),
        ("restore_hold_max", time(agents.restore_hold_max_ms)),
        ("revision", cell(all.revision)),
        ("service_ranges", table::list(&all.service_ranges)),
        ("version", cell(all.version)),
        ("vip_lease", time(settings.vip_lease_ms)),
    ];
    let mut table = Table::new(&["SETTING", "VALUE"], "no settings");
    rows.into_iter().for_each(|(name, value)| table.row(vec![name.into(), value]));
    table
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn times_are_short_for_milliseconds() {
        let pairs =
            [("address_reuse_delay", "30s"), ("host_down_after_ms", "2m"), ("vip_lease_ms", "500")];
        let pairs = pairs.map(|(name, value)| (name.into(), value.into()));
        let body = Value::from(body(pairs.into()).unwrap());
        let wanted =
            r#"{"address_reuse_delay_ms":30000,"host_down_after_ms":120000,"vip_lease_ms":500}"#;
        assert_eq!(body.to_string(), wanted);
        for (name, value) in
            [("vip_lease", "soon"), ("vip_lease_ms", "soon"), ("reserve_per_owner", "2s")]
        {
            assert!(super::body(vec![(name.into(), value.into())]).is_err(), "{name}={value}");
        }
        for (value, ms) in [("0", 0), ("0s", 0), ("1h", 3_600_000), ("2d", 172_800_000)] {
            let body = super::body(vec![("restore_hold_max".into(), value.into())]).unwrap();
            assert_eq!(body["restore_hold_max_ms"], ms);
        }
    }

    /// Every setting of the API has a name here; other names are refused, with a list.
    #[test]
    fn settings_are_known_by_name() {
        let patch = serde_json::to_value(romana_api::settings::SettingsPatch {
            address_reuse_delay_ms: Some(1),
            vip_lease_ms: Some(1),
            reserve_per_owner: Some(1),
            host_down_after_ms: Some(1),
            restore_hold_max_ms: Some(1),
            history_retention_ms: Some(Some(1)),
            history_retention_bytes: Some(Some(1)),
            service_ranges: Some(Vec::new()),
        });
        let patch = patch.unwrap();
        let names: BTreeSet<String> = patch.as_object().unwrap().keys().cloned().collect();
        let set = |names: Vec<String>| -> BTreeSet<String> {
            let value = |name: &str| match name {
                "service_ranges" => "",
                "history_retention" => "1d",
                name if TIMES.contains(&name) => "1s",
                _ => "1",
            };
            let pair = |name: String| (name.clone(), value(&name).to_owned());
            let changes: Vec<(String, String)> = names.into_iter().map(pair).collect();
            body(changes).unwrap().keys().cloned().collect()
        };
        assert_eq!(set(names.iter().cloned().collect()), names);
        assert_eq!(set(SETTINGS.map(String::from).into()), names);
        for unknown in ["x", "version", "vip_lease_s", "reserve_per_owner_ms"] {
            let refused = body(vec![(unknown.into(), "1".into())]).unwrap_err().to_string();
            assert!(refused.contains(unknown) && refused.contains("vip_lease"), "{refused}");
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

//! `romana settings`.

use clap::Subcommand;
use romana_client::Query;
use serde_json::{Map, Value};

use crate::config::duration;
use crate::context::Context;
use crate::failure::Failure;
use crate::labels;
use crate::table::{Table, text};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the cluster settings
    #[command(visible_alias = "list")]
    Show,
    /// Change cluster settings
    Set {
        /// Settings, such as address_reuse_delay_ms=30000 or address_reuse_delay=30s
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = labels::pair)]
        changes: Vec<(String, String)>,
    },
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let path = Query::new("/v1/settings");
        match self {
            Self::Show => {
                let settings = ctx.get(path).await?;
                ctx.out.show(&settings, || table(&settings))
            }
            Self::Set { changes } => {
                let answer = ctx.patch(path, &Value::Object(body(changes)?)).await?;
                ctx.out.show(&answer, || table(&answer))
            }
        }
    }
}

/// The change as the server takes it. `X=30s` is short for `X_ms=30000`.
fn body(changes: Vec<(String, String)>) -> Result<Map<String, Value>, Failure> {
    let read = changes.into_iter().map(|(name, value)| {
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
            table.row(vec![name.clone(), text(value)]);
        }
    }
    table
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
    }
}

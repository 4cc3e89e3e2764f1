//! `romana audit who`.

use std::net::IpAddr;

use clap::Args;
use romana_client::Query;
use serde_json::Value;

use super::moment::{Moment, moment};
use super::show::{time, why};
use crate::context::Context;
use crate::failure::Failure;
use crate::shape::{Kind, Shape};
use crate::table::{Table, Tone, cell, items};

/// A tenure of an address.
const TENURE: Shape = Shape::new(&[("ip", Kind::Text), ("name", Kind::Text)]);

/// Who held an address.
#[derive(Debug, Args)]
pub(crate) struct Who {
    /// The address
    ip: IpAddr,
    /// Only who held it at this revision or time, such as 12345, 2026-11-23T10:00:00Z or -2h
    #[arg(long, value_name = "WHEN", value_parser = moment, allow_hyphen_values = true)]
    at: Option<Moment>,
}

impl Who {
    pub(super) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let query = Query::new("/v1/audit/who").with("ip", Some(self.ip));
        let list = ctx.list(query.with("at", self.at.map(Moment::text)), TENURE).await?;
        ctx.out.show(&list, || table(&list))
    }
}

const COLUMNS: [&str; 8] =
    ["FROM", "UNTIL", "NAME", "HOST", "TENANT", "SEGMENT", "ASKED BY", "ENDED"];

fn table(list: &Value) -> Table {
    let oldest = list.get("oldest").filter(|oldest| oldest["revision"].as_u64() > Some(1));
    let nobody = oldest.map_or_else(
        || String::from("nobody held it"),
        |oldest| {
            let (revision, at) = (&oldest["revision"], time(oldest.get("at")));
            format!(
                "nobody held it since revision {revision} ({at}): what was before is no longer kept"
            )
        },
    );
    let mut table = Table::new(&COLUMNS, nobody);
    for tenure in items(list) {
        let lasts = tenure.get("to").is_none_or(Value::is_null);
        let until = if lasts { "now".into() } else { time(tenure.pointer("/to/at")) };
        let ended = tenure.get("reason").filter(|reason| !reason.is_null());
        let ended = if lasts { "-".into() } else { ended.map_or_else(|| "-".into(), why) };
        // The beginning may have been purged.
        let from =
            tenure.pointer("/from/at").map_or_else(|| "(earlier)".into(), |at| time(Some(at)));
        let mut row = vec![from, until];
        row.extend(["/name", "/host", "/tenant", "/segment", "/actor"].map(|it| cell(tenure, it)));
        row.push(ended);
        table.toned(if lasts { Tone::Good } else { Tone::Plain }, row);
    }
    table
}

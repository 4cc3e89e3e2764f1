//! `romana audit who`.

use std::net::IpAddr;

use clap::Args;
use romana_api::Page;
use romana_client::Query;
use romana_statemachine::audit::Tenure;
use romana_statemachine::event::ReleaseReason;

use super::moment::{Moment, moment};
use crate::context::Context;
use crate::failure::Failure;
use crate::table::{Table, Tone, cell, optional};

/// Who held an address.
#[derive(Debug, Args)]
pub(crate) struct Who {
    /// The address
    ip: IpAddr,
    /// Only the holder at this revision or time, such as 12345, 2026-11-23T10:00:00Z or -2h
    #[arg(long, value_name = "WHEN", value_parser = moment, allow_hyphen_values = true)]
    at: Option<Moment>,
}

impl Who {
    pub(super) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let query = Query::new("/v1/audit/who").with("ip", Some(self.ip));
        let list = ctx.list(query.with("at", self.at.map(Moment::text))).await?;
        ctx.out.show(&list, table)
    }
}

const COLUMNS: [&str; 8] =
    ["FROM", "UNTIL", "NAME", "HOST", "TENANT", "SEGMENT", "ASKED BY", "ENDED"];

fn table(list: &Page<Tenure>) -> Table {
    let oldest = list.oldest.filter(|oldest| oldest.revision > 1);
    let nobody = oldest.map_or_else(
        || String::from("it had no holder"),
        |oldest| {
            format!(
                "it had no holder since revision {} ({}): what was before is no longer kept",
                oldest.revision, oldest.at
            )
        },
    );
    let mut table = Table::new(&COLUMNS, nobody);
    for tenure in &list.items {
        let Tenure { name, host, tenant, segment, actor, from, to, reason, .. } = tenure;
        // The beginning may have been purged.
        let from = from.map_or_else(|| "(earlier)".into(), |from| from.at.to_string());
        let (tone, until, ended) = match to {
            None => (Tone::Good, String::from("now"), String::from("-")),
            Some(to) => (Tone::Plain, to.at.to_string(), optional(reason.map(why))),
        };
        let mut row = vec![from, until, cell(name), cell(host), cell(tenant), cell(segment)];
        row.extend([optional(actor.as_ref()), ended]);
        table.toned(tone, row);
    }
    table
}

/// The reason of a release.
fn why(reason: ReleaseReason) -> String {
    match reason {
        ReleaseReason::Requested => "requested".into(),
        ReleaseReason::Evicted => "evicted".into(),
        ReleaseReason::Reported(revision) => format!("reported ({revision})"),
        ReleaseReason::Claimed => "claimed".into(),
    }
}

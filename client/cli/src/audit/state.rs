//! `romana audit state`.

use clap::Args;
use romana_api::snapshot::Snapshot;
use romana_client::Query;
use romana_statemachine::topology::TopologySpec;

use super::moment::{Moment, moment};
use crate::answer::{Answer, parse};
use crate::context::Context;
use crate::failure::Failure;
use crate::table::{Table, cell, optional};

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
        let state = Answer::read(ctx.patient(super::PATIENCE)?.get(query.build()).await?)?;
        ctx.out.show(&state, table)
    }
}

/// The number of objects of each kind; the full state is for programs.
pub(super) fn table(state: &Snapshot) -> Table {
    let head = &state.head;
    let mut table = Table::new(&["", ""], "nothing");
    for (name, text) in [
        ("revision", cell(head.revision)),
        ("time", cell(head.at)),
        ("digest", cell(head.digest)),
        ("state digest", optional(head.state_digest)),
    ] {
        table.row(vec![name.into(), text]);
    }
    let topology = head.topology.as_ref().and_then(|head| head.topology.as_ref());
    let topology = topology.and_then(|document| parse::<TopologySpec>(document).ok());
    for (name, count) in [
        ("networks", topology.map(|topology| topology.networks.len())),
        ("addresses", state.addresses.as_ref().map(Vec::len)),
        ("blackouts", state.blackouts.as_ref().map(Vec::len)),
        ("blocks", state.blocks.as_ref().map(Vec::len)),
        ("endpoints", state.endpoints.as_ref().map(Vec::len)),
        ("hosts", state.hosts.as_ref().map(Vec::len)),
        ("members", head.cluster.as_ref().map(|cluster| cluster.members.len())),
        ("policies", state.policies.as_ref().map(Vec::len)),
        ("routers", state.routers.as_ref().map(Vec::len)),
        ("tenants", state.tenants.as_ref().map(Vec::len)),
        ("vips", state.vips.as_ref().map(Vec::len)),
    ] {
        if let Some(count) = count {
            table.row(vec![name.into(), cell(count)]);
        }
    }
    table.note("-f json prints all of it");
    table
}

//! `romana audit log`.

use std::net::IpAddr;

use clap::Args;
use romana_api::Page;
use romana_client::follow::Unknown;
use romana_client::{FollowOptions, Item, Query, Tokens};
use romana_statemachine::audit::{Filter, Kind};
use romana_statemachine::{Record, Revision};
use serde::Deserialize;

use super::moment::{Moment, moment};
use crate::answer::Answer;
use crate::context::Context;
use crate::events::{line, line_of};
use crate::failure::Failure;
use crate::table::cell;

/// Prints the events of the history.
#[derive(Debug, Args)]
pub(crate) struct Log {
    /// From this revision or time, such as 12345, 2026-11-23T10:00:00Z or -2h [default: the oldest]
    #[arg(long, value_name = "WHEN", value_parser = moment, allow_hyphen_values = true)]
    from: Option<Moment>,
    /// To this revision or time [default: now]
    #[arg(long, value_name = "WHEN", value_parser = moment, allow_hyphen_values = true)]
    #[arg(conflicts_with = "follow")]
    to: Option<Moment>,
    /// Only events of this name, such as AddressAllocated, or topic, such as addresses
    #[arg(short = 'T', long = "type", value_name = "EVENT|TOPIC")]
    kind: Option<String>,
    /// Only events about this address
    #[arg(long)]
    ip: Option<IpAddr>,
    /// Only events about this host
    #[arg(short = 'H', long)]
    host: Option<String>,
    /// Only events about this tenant
    #[arg(short, long)]
    tenant: Option<String>,
    /// Only events about the address, policy or VIP of this name
    #[arg(short = 'N', long)]
    name: Option<String>,
    /// Only events that this actor requested
    #[arg(short, long)]
    actor: Option<String>,
    /// Stop after this many events
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<u64>,
    /// Keep printing new events as they happen
    #[arg(long)]
    follow: bool,
}

impl Log {
    pub(super) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let mut left = self.count.unwrap_or(u64::MAX);
        let (mut next, mut tokens): (Option<String>, _) = (None, Tokens::default());
        loop {
            let limit = self.count.map(|_| left.min(1000));
            let first = next.is_none();
            let query = self.query().with("limit", limit).with("continue", next.take());
            let mut page: Answer<Page<Line>> = ctx.get(query).await?;
            let Page { revision, oldest, .. } = page.value;
            oldest.filter(|_| first).into_iter().for_each(|oldest| self.note(oldest));
            next = page.value.next.take();
            for record in page.into_items() {
                ctx.out.element(&record.json, || record.value.text())?;
                left -= 1;
                if left == 0 {
                    return Ok(());
                }
            }
            next.iter().try_for_each(|next| tokens.add(next))?;
            if next.is_none() && self.follow {
                return self.follow(ctx, revision, left).await;
            }
            if next.is_none() {
                return Ok(());
            }
        }
    }

    /// Notes that there may have been more events, if the query reaches back before the oldest record kept.
    fn note(&self, oldest: romana_client::audit::Moment) {
        let asked = match self.from {
            None => Revision(1),
            Some(Moment::Revision(revision)) => revision,
            Some(Moment::Time(at)) if Moment::millis(at) < oldest.at => Revision(1),
            Some(Moment::Time(_)) => oldest.revision,
        };
        if asked < oldest.revision {
            anstream::eprintln!(
                "note: events before revision {} are no longer kept",
                oldest.revision
            );
        }
    }

    fn query(&self) -> Query {
        Query::new("/v1/audit/log")
            .with("from", self.from.map(Moment::text))
            .with("to", self.to.map(Moment::text))
            .with("type", self.kind.as_ref())
            .with("ip", self.ip)
            .with("host", self.host.as_ref())
            .with("tenant", self.tenant.as_ref())
            .with("name", self.name.as_ref())
            .with("actor", self.actor.as_ref())
    }

    /// The same filter as the server's.
    fn filter(&self) -> Filter {
        Filter {
            kind: self.kind.as_deref().map(Kind::from_name),
            ip: self.ip,
            name: self.name.clone(),
            host: self.host.as_deref().map(Into::into),
            tenant: self.tenant.as_deref().map(Into::into),
            actor: self.actor.as_deref().map(Into::into),
        }
    }

    /// Prints the events after `revision` that match the same filter as the server's.
    async fn follow(
        &self,
        ctx: &Context,
        revision: Revision,
        mut left: u64,
    ) -> Result<(), Failure> {
        let options = FollowOptions { after: Some(revision), ..FollowOptions::default() };
        let (filter, mut follower) = (self.filter(), ctx.client.follow(options));
        while left > 0 {
            match follower.next().await? {
                Item::Record(record) if filter.wants(&record) => {
                    ctx.out.element(&*record, || line(&record))?;
                    left -= 1;
                }
                // An unknown event cannot be filtered: print it rather than miss it.
                Item::Unknown(unknown) => {
                    ctx.out.element(&*unknown, || unknown_line(&unknown))?;
                    left -= 1;
                }
                Item::Record(_) | Item::Bookmark(_) => {}
                Item::Reset(snapshot) => anstream::eprintln!(
                    "note: older events are no longer kept; going on after revision {}",
                    snapshot.revision
                ),
            }
        }
        Ok(())
    }
}

/// A record of the log.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "it is not a record")]
enum Line {
    Known(Box<Record>),
    /// With an event that this program does not know.
    Unknown(Box<Unknown>),
}

impl Line {
    fn text(&self) -> String {
        match self {
            Self::Known(record) => line(record),
            Self::Unknown(unknown) => unknown_line(unknown),
        }
    }
}

/// A record with an unknown event, which is printed as received.
fn unknown_line(unknown: &Unknown) -> String {
    line_of(unknown.revision, unknown.at, &unknown.actor, &cell(&unknown.event))
}

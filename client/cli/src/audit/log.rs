//! `romana audit log`.

use std::net::IpAddr;

use clap::Args;
use romana_client::model::Page;
use romana_client::{FollowOptions, Item, Query, Tokens};
use romana_statemachine::audit::{Filter, Kind};
use romana_statemachine::{Record, Revision};
use serde_json::Value;

use super::moment::{Moment, moment};
use crate::context::{Context, unfit};
use crate::events::line;
use crate::failure::Failure;
use crate::shape::{Kind as Member, Shape};
use crate::table::cell;

/// A record, possibly with an event that this program does not know.
const RECORD: Shape = Shape::new(&[("revision", Member::Number), ("event", Member::Object)]);

/// Prints what was decided.
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
    /// Only what concerns this address
    #[arg(long)]
    ip: Option<IpAddr>,
    /// Only what concerns this host
    #[arg(short = 'H', long)]
    host: Option<String>,
    /// Only what concerns this tenant
    #[arg(short, long)]
    tenant: Option<String>,
    /// Only what concerns this name of an address, policy or VIP
    #[arg(short = 'N', long)]
    name: Option<String>,
    /// Only what this one asked for
    #[arg(short, long)]
    actor: Option<String>,
    /// Stop after so many events
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<u64>,
    /// Go on with what happens from now on
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
            let page: Page<Value> = ctx.client.get(query.build()).await?;
            page.items.iter().try_for_each(|record| RECORD.check(record)).map_err(unfit)?;
            page.oldest.filter(|_| first).into_iter().for_each(|oldest| self.note(oldest));
            for record in page.items {
                print(ctx, &record)?;
                left -= 1;
                if left == 0 {
                    return Ok(());
                }
            }
            next = page.next;
            next.iter().try_for_each(|next| tokens.add(next))?;
            if next.is_none() && self.follow {
                return self.follow(ctx, page.revision, left).await;
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
                    print(ctx, &serde_json::to_value(&*record).unwrap_or_default())?;
                    left -= 1;
                }
                // An unknown event cannot be filtered: print it rather than miss it.
                Item::Unknown(unknown) => {
                    print(ctx, &serde_json::to_value(&*unknown).unwrap_or_default())?;
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

/// Prints a record as a line; an unknown one as received.
fn print(ctx: &Context, record: &Value) -> Result<(), Failure> {
    ctx.out.element(record, || {
        let known = serde_json::from_value::<Record>(record.clone());
        known.map_or_else(|_| unknown(record), |record| line(&record))
    })
}

/// A record from a newer release, as far as it can be parsed.
fn unknown(record: &Value) -> String {
    let number = record.get("revision").and_then(Value::as_u64).unwrap_or(0);
    let (at, actor) = (super::show::time(record.get("at")), cell(record, "/actor"));
    let event = record.get("event").map_or_else(|| "-".into(), Value::to_string);
    format!("{number:>8}  {at}  {actor}  {event}")
}

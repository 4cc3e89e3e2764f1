//! `romana events`.

use clap::Subcommand;
use romana_api::feed::{Bookmark, BookmarkAt};
use romana_client::follow::Unknown;
use romana_client::{FollowOptions, Follower, Item};
use romana_statemachine::name::HostName;
use romana_statemachine::{Actor, Millis, Printable, Record, Revision, Topic};
use tokio::sync::watch;

use crate::context::Context;
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print events as they happen; reconnects and resumes automatically
    Follow {
        /// Start after this revision; 0 = from the first event [default: now]
        #[arg(long, value_name = "REVISION")]
        from: Option<u64>,
        /// Only these topics, separated by commas
        #[arg(short, long, value_delimiter = ',', value_parser = topic)]
        topics: Vec<Topic>,
        /// Leave out events that concern only other hosts
        #[arg(short = 'H', long)]
        host: Option<String>,
        /// Stop after this many events
        #[arg(short = 'n', long, value_name = "COUNT")]
        count: Option<u64>,
        /// Stop once everything up to this revision has been printed
        #[arg(long, value_name = "REVISION")]
        until: Option<u64>,
        /// Print bookmarks, too
        #[arg(long)]
        bookmarks: bool,
    },
}

fn topic(text: &str) -> Result<Topic, String> {
    Topic::from_name(text).ok_or_else(|| {
        let names: Vec<&str> = Topic::ALL.iter().map(|topic| topic.as_str()).collect();
        format!("{text:?} is not one of {}", names.join(", "))
    })
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let Self::Follow { from, topics, host, count, until, bookmarks } = self;
        let after = match from {
            Some(revision) => Revision(revision),
            None => ctx.client.cluster().await?.revision,
        };
        let host = host.map(HostName::from);
        let options =
            FollowOptions { after: Some(after), topics, host, ..FollowOptions::default() };
        let mut follower = ctx.client.follow(options);
        let mut trouble = Trouble::of(&follower);
        let mut left = count.unwrap_or(u64::MAX);
        while left > 0 && until.is_none_or(|until| follower.revision().is_none_or(|at| at < until))
        {
            let item = tokio::select! {
                item = follower.next() => item?,
                () = trouble.told() => continue,
            };
            match item {
                Item::Record(record) => {
                    left -= 1;
                    ctx.out.element(&*record, || line(&record))?;
                }
                Item::Unknown(unknown) => {
                    left -= 1;
                    ctx.out.element(&*unknown, || unknown_line(&unknown))?;
                }
                Item::Bookmark(revision) if bookmarks => {
                    let bookmark = Bookmark { bookmark: BookmarkAt { revision } };
                    ctx.out
                        .element(&bookmark, || format!("{revision:>8}  (nothing else so far)"))?;
                }
                Item::Bookmark(_) => {}
                Item::Reset(snapshot) => anstream::eprintln!(
                    "note: older events are no longer kept; going on after revision {}",
                    snapshot.revision
                ),
            }
        }
        Ok(())
    }
}

/// Maximum number of reasons printed: a server may give a different one each time.
const SAID_MAX: usize = 10;

/// Prints to stderr why there are no events, once for each reason.
struct Trouble {
    now: watch::Receiver<Option<String>>,
    said: Vec<String>,
}

impl Trouble {
    fn of(follower: &Follower) -> Self {
        Self { now: follower.trouble(), said: Vec::new() }
    }

    /// Waits for a new reason, and prints it. Cancel safe.
    async fn told(&mut self) {
        if self.now.changed().await.is_err() {
            // The follower was dropped, and this future will be as well.
            return std::future::pending().await;
        }
        let Some(why) = self.now.borrow_and_update().clone() else { return };
        if self.said.len() < SAID_MAX && !self.said.contains(&why) {
            anstream::eprintln!("note: {}; trying again", Printable(&why));
            self.said.push(why);
        }
    }
}

/// A record as one line of text.
pub(crate) fn line(record: &Record) -> String {
    line_of(record.revision, record.at, &record.actor, &record.event.to_string())
}

/// The same for a record with an event that this program does not know.
fn unknown_line(unknown: &Unknown) -> String {
    let Unknown { revision, at, actor, event, .. } = unknown;
    line_of(*revision, *at, actor, &format!("{} (newer than this program)", Printable(event)))
}

/// The parts of a record as one line of text.
pub(crate) fn line_of(revision: Revision, at: Millis, actor: &Actor, what: &str) -> String {
    format!("{revision:>8}  {at}  {actor}  {what}")
}

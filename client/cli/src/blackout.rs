//! `romana blackout`.

use clap::Subcommand;
use romana_client::Query;
use romana_statemachine::command::Blackout;
use serde_json::Value;

use crate::context::Context;
use crate::failure::Failure;
use crate::shape::{CHANGED, RANGE};
use crate::table::{Table, items, text};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Exclude a range from allocation
    Add {
        /// The range; no live address may be in it
        cidr: String,
    },
    /// Allocate from a range again
    Remove {
        /// A range that was added
        cidr: String,
    },
    /// List what is excluded
    #[command(visible_alias = "ls")]
    List,
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let path = Query::new("/v1/blackouts");
        match self {
            Self::Add { cidr } => {
                let answer =
                    ctx.post(path, &Blackout { cidr: cidr.clone() }, true, CHANGED).await?;
                ctx.out.done(&answer, format!("{cidr} is blacked out"))
            }
            Self::Remove { cidr } => {
                let answer = ctx.delete(path.with("cidr", Some(&cidr)), false).await?;
                ctx.out.done(&answer, format!("{cidr} is no longer blacked out"))
            }
            Self::List => {
                let list = ctx.list(path, RANGE).await?;
                ctx.out.show(&list, || table(items(&list)))
            }
        }
    }
}

fn table(blackouts: &[Value]) -> Table {
    let mut table = Table::new(&["CIDR"], "nothing is blacked out");
    for blackout in blackouts {
        table.row(vec![text(blackout.get("cidr").unwrap_or(blackout))]);
    }
    table
}

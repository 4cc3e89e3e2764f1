//! `romana blackout`.

use clap::Subcommand;
use romana_api::Changed;
use romana_api::block::Blackout;
use romana_client::Query;
use romana_statemachine::command;

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;
use crate::table::{Table, cell};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Exclude a range from allocation
    Add {
        /// Range to exclude; it must not contain live addresses
        cidr: String,
    },
    /// Allow allocation from a range again
    Remove {
        /// Range, exactly as it was added
        cidr: String,
    },
    /// List the excluded ranges
    #[command(visible_alias = "ls")]
    List,
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let path = Query::new("/v1/blackouts");
        match self {
            Self::Add { cidr } => {
                let body = command::Blackout { cidr: cidr.clone() };
                let answer: Answer<Changed> = ctx.post(path, &body, true).await?;
                ctx.out.done(&answer, format!("{cidr} is blacked out"))
            }
            Self::Remove { cidr } => {
                let answer = ctx.delete(path.with("cidr", Some(&cidr)), false).await?;
                ctx.out.done(&answer, format!("{cidr} is no longer blacked out"))
            }
            Self::List => ctx.show_list(path, table).await,
        }
    }
}

fn table(blackouts: &[Blackout]) -> Table {
    let mut table = Table::new(&["CIDR"], "nothing is blacked out");
    blackouts.iter().for_each(|blackout| table.row(vec![cell(blackout.cidr)]));
    table
}

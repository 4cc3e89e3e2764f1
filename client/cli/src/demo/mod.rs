//! `romana demo`: the tour in one command, on real processes. Every claim printed with a tick was checked against the
//! cluster; if one does not hold, the demo fails.

mod replicas;
mod stream;
mod tour;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;
use tokio::time::timeout;

use crate::failure::Failure;
use crate::signals::interrupted;
use replicas::Replicas;

/// Timeout of the whole tour.
const TOUR_MAX: Duration = Duration::from_secs(60);

/// Starts three replicas on this machine, kills the leader, and shows that nothing is lost.
#[derive(Debug, ClapArgs)]
pub(crate) struct Command {
    /// The romanad to run [default: the one next to this program, then $PATH]
    #[arg(long, value_name = "PATH", env = "ROMANA_ROMANAD")]
    romanad: Option<PathBuf>,
    /// Keep the directory with data and logs, and print its path
    #[arg(long)]
    keep: bool,
}

impl Command {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let romanad = replicas::find(self.romanad)?;
        let mut replicas = Replicas::prepare(romanad, self.keep)?;
        // However the tour ends, the replicas are stopped and their directory is removed.
        let (result, interrupted) = tokio::select! {
            result = timeout(TOUR_MAX, tour::run(&mut replicas)) => {
                let late = || Failure::Broken(String::from("the demo did not end in a minute"));
                (result.unwrap_or_else(|_| Err(late())), false)
            }
            name = interrupted("Ctrl-C") => (Err(Failure::Broken(format!("stopped by {name}"))), true),
        };
        if result.is_err() && !interrupted {
            replicas.show_logs();
        }
        replicas.stop().await;
        result
    }
}

//! `romana demo`.
use crate::failure::Failure;
/// Demo.
#[derive(Debug, clap::Args)]
pub(crate) struct Command {}
impl Command {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        Ok(())
    }
}

//! `romana completion`.

use clap::Args as ClapArgs;
use clap_complete::{Shell, generate};

use crate::failure::Failure;
use crate::output::write;

/// For bash: `romana completion bash > /etc/bash_completion.d/romana`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Command {
    /// Shell to print it for
    shell: Shell,
}

impl Command {
    /// Prints the completion script for this command line.
    pub(crate) fn run(&self, mut romana: clap::Command) -> Result<(), Failure> {
        let mut script = Vec::new();
        generate(self.shell, &mut romana, "romana", &mut script);
        write(&String::from_utf8_lossy(&script))
    }
}

//! `romana completion`.

use clap::{Args as ClapArgs, CommandFactory};
use clap_complete::{Shell, generate};

use crate::args::Args;
use crate::failure::Failure;
use crate::output::write;

/// For bash: `romana completion bash > /etc/bash_completion.d/romana`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Command {
    /// The shell
    shell: Shell,
}

impl Command {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let mut script = Vec::new();
        generate(self.shell, &mut Args::command(), "romana", &mut script);
        write(&String::from_utf8_lossy(&script))
    }
}

//! The CNI plugin without its I/O: maps environment and configuration to an answer.
//!
//! Specification 1.1 (github.com/containernetworking/cni, SPEC.md). Codes and texts follow the reference
//! plugins where those define them. The plugin is stateless: the agent holds all state.
//!
//! Reading order: `env` (the command), `config` (the network), `request`,
//! `result` (the answer in each version).

mod command;
mod config;
mod env;
mod error;
mod request;
mod result;
mod version;

use std::io;

pub use config::NetConf;
pub use env::Env;
pub use error::CniError;
pub use version::Version;

use crate::ipc::{Reply, Request};
use command::Command;
use env::Call;

/// Output and exit status of the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// JSON, or empty.
    pub stdout: String,
    /// Exit status: 0 or 1.
    pub status: u8,
}

/// Client of the agent: sends a request to the socket at a path, and returns the reply.
pub trait Agent {
    /// Sends a request.
    ///
    /// # Errors
    /// The agent is unreachable, or does not answer.
    fn ask(&mut self, socket: &str, request: &Request) -> io::Result<Reply>;

    /// Spools a DEL for the agent's next start.
    ///
    /// # Errors
    /// The DEL cannot be written.
    fn leave(&mut self, state_dir: &str, request: &Request) -> io::Result<()>;
}

/// Executes the runtime's command.
pub fn run(env: &Env, stdin: io::Result<Vec<u8>>, agent: &mut impl Agent) -> Output {
    // Every answer includes a version, also an error for an invalid call (spec, section 5).
    let version = stdin.as_deref().ok().and_then(version::claimed);
    match answer(env, stdin, agent) {
        Ok(stdout) => Output { stdout, status: 0 },
        Err(error) => Output {
            stdout: error.print(&version.unwrap_or_else(|| version::newest().into())),
            status: 1,
        },
    }
}

fn answer(
    env: &Env,
    stdin: io::Result<Vec<u8>>,
    agent: &mut impl Agent,
) -> Result<String, CniError> {
    let command = env.command()?;
    if command == Command::Version {
        return Ok(version::supported(&stdin.unwrap_or_default()));
    }
    let call = Call::read(env, command)?;
    let stdin =
        stdin.map_err(|error| CniError::new(5, "stdin cannot be read", error.to_string()))?;
    let config = NetConf::parse(&stdin)?;
    config.check(command)?;
    let request = request::request(&call, &config)?;
    let reply = match agent.ask(&config.socket, &request) {
        Ok(reply) => reply,
        Err(error) if command == Command::Del => {
            // The DEL is not lost: the agent processes the spool when it starts.
            let left = agent.leave(&config.state_dir, &request);
            let why =
                |left| format!("the agent at {} does not answer ({error}): {left}", config.socket);
            left.map_err(|left| CniError::new(11, "the DEL cannot be kept", why(left)))?;
            Reply::Done {}
        }
        Err(error) => return Err(CniError::no_agent(command, &config.socket, &error)),
    };
    match reply {
        Reply::Added(added) => result::print(&call, &config, added),
        Reply::Done {} => Ok(String::new()),
        Reply::Failed(failed) => Err(CniError::new(failed.code, failed.msg, failed.details)),
    }
}

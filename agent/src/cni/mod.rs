//! The CNI plugin without its I/O: environment and configuration in, an answer out.
//!
//! Specification 1.1 (github.com/containernetworking/cni, SPEC.md). Codes and texts follow the reference
//! plugins where those have them. The plugin holds no state: everything is the agent's.
//!
//! Reading order: `env` (what is asked), `config` (about which network), `request`, `result` (the answer's
//! shape in each version).

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

use crate::wire::{Reply, Request};
use env::{Call, Command};

/// What the plugin prints, and how it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// JSON, or nothing.
    pub stdout: String,
    /// Exit status: 0 or 1.
    pub status: u8,
}

/// A way to the agent: sends a request to the socket at a path, and returns the reply.
pub trait Agent {
    /// Asks.
    ///
    /// # Errors
    /// The agent cannot be reached, or does not answer.
    fn ask(&mut self, socket: &str, request: &Request) -> io::Result<Reply>;

    /// Leaves a DEL for the agent to find when it is back.
    ///
    /// # Errors
    /// It cannot be left.
    fn leave(&mut self, state_dir: &str, request: &Request) -> io::Result<()>;
}

/// Does what the runtime asks.
pub fn run(env: &Env, stdin: io::Result<Vec<u8>>, agent: &mut impl Agent) -> Output {
    // Every answer says its version, also that to a call which makes no sense (spec, section 5).
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
            // Nothing is lost: the agent takes it up when it is back.
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

//! CNI error results.

use std::io;

use serde_json::json;

use super::command::Command;

/// An error of the plugin (spec 1.1, section 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniError {
    pub code: u32,
    pub msg: String,
    /// Further details, or the remedy.
    pub details: String,
}

impl CniError {
    pub(super) fn new(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: details.into() }
    }

    /// The agent does not answer: "not available" for STATUS, else "try again later". Code 51 (limited
    /// connectivity) is not used, as running containers keep their network without the agent.
    pub(super) fn no_agent(command: Command, socket: &str, error: &io::Error) -> Self {
        let code = if command == Command::Status { 50 } else { 11 };
        let details = format!("{error}; is romana-agent running on this host?");
        Self::new(code, format!("the agent at {socket} does not answer"), details)
    }

    /// The JSON form for standard output.
    pub(super) fn print(&self, version: &str) -> String {
        let mut text = json!({"cniVersion": version, "code": self.code, "msg": self.msg});
        if !self.details.is_empty() {
            text["details"] = self.details.as_str().into();
        }
        text.to_string()
    }
}

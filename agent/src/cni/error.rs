//! Errors as CNI wants them.

use std::io;

use serde_json::json;

use super::env::Command;

/// An error of the plugin (spec 1.1, section 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniError {
    /// Its code.
    pub code: u32,
    /// What and why.
    pub msg: String,
    /// More, or what to do.
    pub details: String,
}

impl CniError {
    pub(super) fn new(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: details.into() }
    }

    /// Nobody answers: for STATUS "not available", else "try again later". Whether containers that run
    /// are affected is not ours to know: the host goes on without its agent.
    pub(super) fn no_agent(command: Command, socket: &str, error: &io::Error) -> Self {
        let code = if command == Command::Status { 50 } else { 11 };
        let details = format!("{error}; is romana-agent running on this host?");
        Self::new(code, format!("the agent at {socket} does not answer"), details)
    }

    /// As it goes to stdout.
    pub(super) fn print(&self, version: &str) -> String {
        let mut text = json!({"cniVersion": version, "code": self.code, "msg": self.msg});
        if !self.details.is_empty() {
            text["details"] = self.details.as_str().into();
        }
        text.to_string()
    }
}

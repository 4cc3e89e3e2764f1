//! Printing: tables and sentences for people, JSON or YAML for programs.

use std::io::{self, Write};

use serde_json::Value;

use crate::args::Format;
use crate::failure::Failure;
use crate::table::Table;

/// The way to print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    /// Prints what the server said: as a table, or as it is.
    pub(crate) fn show(&self, value: &Value, table: impl FnOnce() -> Table) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table => table().render(),
            Format::Json | Format::Yaml => self.encode(value)?,
        };
        write(&text)
    }

    /// Prints a sentence about what was done, or what the server said about it.
    pub(crate) fn done(&self, value: &Value, sentence: impl AsRef<str>) -> Result<(), Failure> {
        match self.format {
            Format::Table => write(&format!("{}\n", sentence.as_ref())),
            Format::Json | Format::Yaml => write(&self.encode(value)?),
        }
    }

    /// Prints one element of a stream: a line of text, a line of JSON, a YAML document.
    pub(crate) fn element(
        &self,
        value: &Value,
        line: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => write(&format!("{}\n", line())),
            Format::Json => write(&format!("{value}\n")),
            Format::Yaml => write(&format!("---\n{}", self.encode(value)?)),
        }
    }

    fn encode(&self, value: &Value) -> Result<String, Failure> {
        match self.format {
            Format::Yaml => serde_yaml_ng::to_string(value)
                .map_err(|error| Failure::io("YAML", io::Error::other(error))),
            Format::Json | Format::Table => Ok(format!("{value:#}\n")),
        }
    }
}

/// Writes to stdout, without colours unless it is a terminal.
pub(crate) fn write(text: &str) -> Result<(), Failure> {
    let mut stdout = anstream::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::io("stdout", error))
}

//! Output: tables and sentences for people, JSON or YAML for programs.

use std::io::{self, Write};

use romana_statemachine::{escaped, escaped_json, escaped_lines, is_printable};
use serde::Serialize;
use serde_json::Value;

use crate::answer::{Answer, to_json};
use crate::failure::Failure;
use crate::global::Format;
use crate::table::Table;

/// The output of a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    /// Whether the output is for people, not programs.
    pub(crate) fn is_for_people(&self) -> bool {
        self.format == Format::Table
    }

    /// Prints the server's response: as a table, or unchanged (terminal control characters are escaped).
    pub(crate) fn show<T>(
        &self,
        answer: &Answer<T>,
        table: impl FnOnce(&T) -> Table,
    ) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table => table(&answer.value).render(),
            Format::Json | Format::Yaml => self.encode(&answer.json)?,
        };
        write(&text)
    }

    /// Prints what was done, in a sentence or a few lines, or the server's response.
    pub(crate) fn done<T>(
        &self,
        answer: &Answer<T>,
        sentence: impl AsRef<str>,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => write(&format!("{}\n", escaped_lines(sentence.as_ref()))),
            Format::Json | Format::Yaml => write(&self.encode(&answer.json)?),
        }
    }

    /// Prints one element of a stream: a line of text, a line of JSON, a YAML document.
    pub(crate) fn element(
        &self,
        element: &impl Serialize,
        line: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => write(&format!("{}\n", escaped(&line()))),
            Format::Json => write(&escaped_json(&format!("{}\n", to_json(element)))),
            Format::Yaml => write(&format!("---\n{}", self.encode(&to_json(element))?)),
        }
    }

    /// Prints a document unchanged, as JSON or YAML.
    pub(crate) fn value(&self, json: &Value) -> Result<(), Failure> {
        write(&self.encode(json)?)
    }

    fn encode(&self, value: &Value) -> Result<String, Failure> {
        let json = || escaped_json(&format!("{value:#}\n")).into_owned();
        if self.format != Format::Yaml {
            return Ok(json());
        }
        let yaml = serde_yaml_ng::to_string(value)
            .map_err(|error| Failure::io("YAML", io::Error::other(error)))?;
        // YAML has no escapes outside quotes, but every JSON document is valid YAML.
        let is_plain = yaml.chars().all(|c| is_printable(c) || c == '\n');
        Ok(if is_plain { yaml } else { json() })
    }
}

/// Writes to stdout; with colours only on a terminal.
pub(crate) fn write(text: &str) -> Result<(), Failure> {
    let mut stdout = anstream::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::io("stdout", error))
}

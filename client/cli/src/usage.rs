//! Errors of the command line itself, in the format requested on that command line.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;

use crate::config::Config;
use crate::failure::Failure;
use crate::global::Format;

/// Prints the requested help or version, or the error.
pub(crate) fn report(error: &clap::Error) -> ExitCode {
    let said = OutputOptions::of(env::args_os().skip(1), |name| env::var_os(name));
    let wrong = error.use_stderr();
    if wrong && Config::format_of(said.format, said.config) != Format::Table {
        let (message, hint) = parts(&error.render().to_string());
        return Failure::Syntax(message, hint).report(Format::Json);
    }
    // A closed pipe is not an error here.
    _ = error.print();
    if wrong { ExitCode::from(2) } else { ExitCode::SUCCESS }
}

/// The format options of a command line, even if the rest of it is invalid.
#[derive(Debug, Default, PartialEq)]
struct OutputOptions {
    format: Option<Format>,
    config: Option<PathBuf>,
}

impl OutputOptions {
    fn of(
        words: impl Iterator<Item = OsString>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Self {
        let read = |text: OsString| Format::from_str(text.to_str()?, true).ok();
        let mut said = Self::default();
        let mut words = words.take_while(|word| word != "--");
        while let Some(word) = words.next() {
            let word = word.to_string_lossy().into_owned();
            let (short, rest) = match flag(&word) {
                Some(found) => found,
                None => continue,
            };
            let value = rest.map_or_else(|| words.next(), |rest| Some(OsString::from(rest)));
            match short {
                'f' => said.format = value.and_then(read).or(said.format),
                _ => said.config = value.map(PathBuf::from).or(said.config),
            }
        }
        said.format = said.format.or_else(|| read(variable("ROMANA_FORMAT")?));
        said.config = said.config.or_else(|| variable("ROMANA_CONFIG").map(PathBuf::from));
        said
    }
}

/// `-f` or `-c` in any of its forms, and the value if it is in the same word.
fn flag(word: &str) -> Option<(char, Option<&str>)> {
    for (long, short) in [("--format", 'f'), ("--config", 'c')] {
        match word.strip_prefix(long) {
            Some("") => return Some((short, None)),
            Some(rest) if rest.starts_with('=') => return Some((short, rest.get(1..))),
            _ => {}
        }
    }
    let letters = word.strip_prefix('-')?.trim_start_matches('v');
    let short = letters.chars().next().filter(|c| matches!(c, 'f' | 'c'))?;
    let rest = letters.get(1..).filter(|rest| !rest.is_empty());
    Some((short, rest.map(|rest| rest.strip_prefix('=').unwrap_or(rest))))
}

/// The message, and the rest of clap's output as the hint.
fn parts(text: &str) -> (String, String) {
    let text = text.trim();
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let (message, hint) = text.split_once("\n\n").unwrap_or((text, ""));
    let line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    (line(message), line(hint))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Args;

    fn said(line: &str, format: Option<&str>) -> OutputOptions {
        let words = line.split_whitespace().map(OsString::from);
        OutputOptions::of(words, |name| {
            (name == "ROMANA_FORMAT").then(|| format.map(Into::into)).flatten()
        })
    }

    #[test]
    fn the_format_is_found_wherever_it_stands() {
        for line in [
            "-f json host nonsense",
            "host add -fjson",
            "host --format=json add",
            "host --format json",
            "-vf json",
            "-f=json x",
            "-f table -f json",
        ] {
            assert_eq!(said(line, None).format, Some(Format::Json), "{line}");
        }
        for line in ["host", "host -- -f json", "-f", "-f xml", "--formatjson", "-x json", "-H f"] {
            assert_eq!(said(line, None).format, None, "{line}");
        }
        assert_eq!(said("host", Some("yaml")).format, Some(Format::Yaml));
        assert_eq!(said("-f table", Some("yaml")).format, Some(Format::Table));
        assert_eq!(said("-c a --config=b", None).config, Some(PathBuf::from("b")));
    }

    #[test]
    fn an_error_is_a_sentence_and_a_hint() {
        let error = Args::try_parse_from(["romana", "host", "ad"]).unwrap_err();
        let (message, hint) = parts(&error.render().to_string());
        assert_eq!(message, "unrecognized subcommand 'ad'");
        assert!(hint.contains("add") && hint.contains("Usage: romana host"), "{hint}");
    }
}

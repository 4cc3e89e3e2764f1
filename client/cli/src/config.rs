//! Settings of the CLI: flag > environment > file > default. Reading the file is separate from merging.

use std::env;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use romana_client::{API_PORT, Server};
use romana_daemon::file::{self, CONFIG_BYTES_MAX};
use serde::Deserialize;
use serde_yaml_ng::Value;

use crate::failure::Failure;
use crate::global::{Format, Global, Platform};

/// The effective settings of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) servers: Vec<Server>,
    pub(crate) log_file: Option<PathBuf>,
    pub(crate) format: Format,
    pub(crate) platform: Option<Platform>,
    pub(crate) verbose: bool,
    pub(crate) timeout: Duration,
}

/// The configuration file. Keys are case-insensitive, as in earlier releases.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    rooturl: Option<String>,
    rootport: Option<Port>,
    logfile: Option<PathBuf>,
    format: Option<Format>,
    platform: Option<Platform>,
    verbose: Option<bool>,
}

impl File {
    /// The file that was given, or the first of the default ones that exists.
    fn load(global: &Global) -> Result<Self, Failure> {
        if let Some(path) = &global.config {
            return match read(path)? {
                Some(text) => parse(path, &text),
                None => Err(Failure::usage(format!("{} does not exist", path.display()))),
            };
        }
        let home = env::home_dir().map(|home| home.join(".romana.yaml"));
        for path in home.into_iter().chain([PathBuf::from("/etc/romana/cli.yaml")]) {
            if let Some(text) = read(&path)? {
                return parse(&path, &text);
            }
        }
        Ok(Self::default())
    }
}

/// A port, as a number or as text.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(untagged)]
enum Port {
    Number(u16),
    Text(String),
}

impl Config {
    /// Reads the file, if there is one, and merges it.
    pub(crate) fn load(global: &Global) -> Result<Self, Failure> {
        Self::decide(global, File::load(global)?)
    }

    /// The format for errors of an invalid command line: `said`, if it was given there, or the file's.
    pub(crate) fn format_of(said: Option<Format>, config: Option<PathBuf>) -> Format {
        let file = || File::load(&Global { config, ..Global::default() }).ok()?.format;
        said.or_else(file).unwrap_or_default()
    }

    /// Merges: flags and environment (already merged by clap) over the file over defaults.
    fn decide(global: &Global, file: File) -> Result<Self, Failure> {
        let file_port = match file.rootport {
            None => None,
            Some(Port::Number(port)) => Some(port),
            Some(Port::Text(text)) => Some(text.trim().parse::<u16>().map_err(|_| {
                Failure::usage(format!("RootPort {text:?} is not between 1 and 65535"))
            })?),
        };
        let url = global.root_url.as_deref().or(file.rooturl.as_deref());
        let port = global.root_port.or(file_port).unwrap_or(API_PORT);
        let mut servers = Server::list(url.unwrap_or("http://127.0.0.1"), port)?;
        // A port on the command line takes precedence over one in the file's URL.
        if let (Some(port), None) = (global.root_port, &global.root_url) {
            servers = servers.iter().map(|server| server.with_port(port)).collect();
        }
        Ok(Self {
            servers,
            log_file: file.logfile,
            format: global.format.or(file.format).unwrap_or_default(),
            platform: global.platform.or(file.platform),
            verbose: global.verbose || file.verbose.unwrap_or(false),
            timeout: global.timeout.unwrap_or(Duration::from_secs(10)),
        })
    }
}

/// The text of a file; `None` if it does not exist.
fn read(path: &Path) -> Result<Option<String>, Failure> {
    let bad = |why: String| Failure::usage(format!("{}: {why}", path.display()));
    match file::read_text(path, CONFIG_BYTES_MAX) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(bad(error.to_string())),
    }
}

fn parse(path: &Path, text: &str) -> Result<File, Failure> {
    let bad = |why: String| Failure::usage(format!("{}: {why}", path.display()));
    let value: Value = serde_yaml_ng::from_str(text).map_err(|error| bad(error.to_string()))?;
    let mapping = match value {
        Value::Null => return Ok(File::default()),
        Value::Mapping(mapping) => mapping,
        _ => return Err(bad(String::from("it is not a mapping such as `RootURL: http://…`"))),
    };
    let lower = mapping.into_iter().map(|(key, value)| match key {
        Value::String(key) => (Value::String(key.to_lowercase()), value),
        other => (other, value),
    });
    serde_yaml_ng::from_value(Value::Mapping(lower.collect()))
        .map_err(|error| bad(error.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::global::duration;

    fn global(url: Option<&str>, port: Option<u16>) -> Global {
        Global { root_url: url.map(String::from), root_port: port, ..Global::default() }
    }

    fn decide(global: &Global, file: &str) -> Result<Config, Failure> {
        Config::decide(global, parse(Path::new("test.yaml"), file)?)
    }

    #[test]
    fn the_seeds_sample_is_read() {
        let sample = "#\n# Default romana configuration file.\nRootURL: \"http://192.168.99.10\"\n\
            RootPort: 9600\nLogFile: \"/var/tmp/romana.log\"\n\
            Format: \"table\" # options are table/json\nPlatform: \"openstack\"\nVerbose: false\n";
        let config = decide(&Global::default(), sample).unwrap();
        assert_eq!(config.servers[0].to_string(), "http://192.168.99.10:9600");
        assert_eq!(config.log_file, Some(PathBuf::from("/var/tmp/romana.log")));
        assert_eq!((config.format, config.platform), (Format::Table, Some(Platform::Openstack)));
        assert!(!config.verbose);
    }

    #[test]
    fn servers_follow_the_precedence() {
        for (url, port, file, expected) in [
            (None, None, "", "http://127.0.0.1:9600"),
            (None, None, "RootPort: 1", "http://127.0.0.1:1"),
            (None, None, "rootport: '2'", "http://127.0.0.1:2"),
            (None, None, "RootURL: http://a:3\nRootPort: 1", "http://a:3"),
            (None, Some(4), "RootURL: http://a:3", "http://a:4"),
            (Some("b"), None, "RootURL: http://a:3", "http://b:9600"),
            (Some("b"), None, "RootPort: 5", "http://b:5"),
            (Some("b:6"), Some(7), "RootPort: 5", "http://b:6"),
            (Some("b"), Some(7), "RootPort: 5", "http://b:7"),
            (Some("[::1]"), Some(7), "", "http://[::1]:7"),
        ] {
            let config = decide(&global(url, port), file).unwrap();
            assert_eq!(config.servers[0].to_string(), expected, "{url:?} {port:?} {file:?}");
        }
        let config = decide(&global(Some("a, http://b:1"), None), "").unwrap();
        assert_eq!(config.servers.len(), 2);
    }

    #[test]
    fn flags_go_before_the_file() {
        let flags = Global { format: Some(Format::Json), verbose: true, ..Global::default() };
        let config = decide(&flags, "Format: yaml\nVerbose: false").unwrap();
        assert_eq!((config.format, config.verbose), (Format::Json, true));
        let config = decide(&Global::default(), "Format: yaml\nVerbose: true").unwrap();
        assert_eq!((config.format, config.verbose), (Format::Yaml, true));
    }

    #[test]
    fn bad_files_are_refused() {
        for file in [
            "RootPort: 0x",
            "RootPort: 70000",
            "Format: xml",
            "Colour: red",
            "[1]",
            ": :",
            "RootURL: https://a",
            "RootURL: ''",
        ] {
            assert!(decide(&Global::default(), file).is_err(), "{file}");
        }
    }

    #[test]
    fn times_are_read() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("3"), Ok(Duration::from_secs(3)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "s", "0", "-1s", "1h", "99999999999999999999s", "61m"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_file_panics(text in ".*") {
            _ = decide(&Global::default(), &text);
            _ = duration(&text);
        }
    }
}

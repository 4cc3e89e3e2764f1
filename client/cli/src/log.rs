//! Logging: to stderr with `-v`, and to `LogFile`.

use std::io::{self, IsTerminal};

use romana_daemon::file;
use romana_daemon::log::Text;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use crate::config::Config;

/// Starts logging. If the log file cannot be written, prints a warning and continues without it.
///
/// The file has each command and its result; with `-v` or `Verbose` also each attempt, as on stderr.
pub(crate) fn start(config: &Config) {
    let level = if config.verbose { LevelFilter::DEBUG } else { LevelFilter::INFO };
    let ours = || Targets::new().with_target("romana", level).with_target("romana_client", level);
    let mut layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = Vec::new();
    if config.verbose {
        let colours = io::stderr().is_terminal();
        let lines = layer().fmt_fields(Text).with_ansi(colours).with_writer(io::stderr);
        layers.push(lines.with_filter(ours()).boxed());
    }
    if let Some(path) = &config.log_file {
        match file::append(path) {
            Ok(file) => {
                let writer = std::sync::Mutex::new(file);
                layers.push(
                    layer()
                        .fmt_fields(Text)
                        .with_ansi(false)
                        .with_writer(writer)
                        .with_filter(ours())
                        .boxed(),
                );
            }
            Err(error) => eprintln!("warning: no log in {}: {error}", path.display()),
        }
    }
    // Fails only if a subscriber is already set.
    _ = tracing_subscriber::registry().with(layers).try_init();
}

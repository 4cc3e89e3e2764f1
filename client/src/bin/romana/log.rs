//! What is tried, for whoever asks: to stderr with `-v`, and to `LogFile`.

use std::fs::OpenOptions;
use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::Config;

/// Starts logging. A log that cannot be written is said once and does without.
pub(crate) fn start(config: &Config) {
    let ours = || Targets::new().with_target("romana", LevelFilter::DEBUG);
    let client = || ours().with_target("romana_client", LevelFilter::DEBUG);
    let stderr = config.verbose.then(|| layer().with_writer(io::stderr).with_filter(client()));
    let file = config.log_file.as_ref().and_then(|path| {
        let opened = OpenOptions::new().create(true).append(true).open(path);
        if let Err(error) = &opened {
            eprintln!("warning: no log in {}: {error}", path.display());
        }
        let writer = std::sync::Mutex::new(opened.ok()?);
        Some(layer().with_ansi(false).with_writer(writer).with_filter(client()))
    });
    // Fails only if there is a subscriber already.
    _ = tracing_subscriber::registry().with(stderr).with(file).try_init();
}

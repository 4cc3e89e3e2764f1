//! Signals that end a command early.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for a signal to stop, and returns its name; `interrupt`: the name for SIGINT.
pub(crate) async fn interrupted(interrupt: &'static str) -> &'static str {
    let wait = async |kind, name| match signal(kind) {
        Ok(mut signal) => {
            signal.recv().await;
            name
        }
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        name = wait(SignalKind::interrupt(), interrupt) => name,
        name = wait(SignalKind::terminate(), "SIGTERM") => name,
        name = wait(SignalKind::hangup(), "SIGHUP") => name,
    }
}

//! A daemon with a task that dies, to test that the process exits and says why.

use std::process::ExitCode;

use romana_daemon::log::Form;
use romana_daemon::process::Process;

fn main() -> ExitCode {
    Process("dies").run(Form::Text, "info", |mut tasks| async move {
        let stop = tasks.stop();
        tasks.spawn("well", async move { stop.cancelled().await });
        tasks.spawn("ill", async { assert!(std::process::id() == 0, "it was to die") });
        tasks.run().await
    })
}

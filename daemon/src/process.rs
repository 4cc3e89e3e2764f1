//! The frame of `main`: log, runtime, signals, tasks, and the exit code. 0: stopped as requested; 1: failed;
//! 2: usage or configuration error.

use std::error::Error;
use std::future::Future;
use std::process::ExitCode;

use romana_statemachine::escaped_lines;

use crate::error::{AnyError, chain};
use crate::log::{self, Form};
use crate::tasks::{Tasks, stop_signal};

/// Exit code of a failure at run time.
pub const FAILED: u8 = 1;
/// Exit code of invalid arguments or configuration.
pub const USAGE: u8 = 2;

/// This process, with the name of its program.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub &'static str);

impl Process {
    /// Prints on standard error why the process ends.
    pub fn say(self, text: &str) {
        // Parts of the text may come from files and peers.
        eprintln!("{}: {}", self.0, escaped_lines(text));
    }

    /// Prints an error and its causes.
    pub fn fail(self, error: &dyn Error, code: u8) -> ExitCode {
        self.say(&chain(error));
        ExitCode::from(code)
    }

    /// Returns [`ExitCode::SUCCESS`], or calls [`Process::fail`].
    pub fn end<E: Into<AnyError>>(self, result: Result<(), E>, code: u8) -> ExitCode {
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => self.fail(&*error.into(), code),
        }
    }

    /// Ends `--check` of a valid configuration: checks the log's filter, as [`Process::run`] would.
    pub fn checked(self, filter: &str) -> ExitCode {
        self.end(log::check(filter), USAGE)
    }

    /// Runs a daemon: initialises the log and starts `work` on a runtime. SIGTERM and SIGINT stop its
    /// [`Tasks`]; `work` starts tasks and ends with [`Tasks::run`].
    pub fn run<F, E>(self, form: Form, filter: &str, work: impl FnOnce(Tasks) -> F) -> ExitCode
    where
        F: Future<Output = Result<(), E>>,
        E: Into<AnyError>,
    {
        if let Err(error) = log::init(form, filter) {
            return self.fail(&error, USAGE);
        }
        let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return self.fail(&error, FAILED),
        };
        let ended = runtime.block_on(async {
            let stop = stop_signal().map_err(|error| format!("cannot receive signals: {error}"))?;
            Box::pin(work(Tasks::new(stop))).await.map_err(Into::into)
        });
        self.end::<AnyError>(ended, FAILED)
    }
}

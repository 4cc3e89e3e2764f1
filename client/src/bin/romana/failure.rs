//! How a command fails: message, hint, exit code.

use std::io;
use std::process::ExitCode;

use romana_client::{ApiError, Error};
use romana_statemachine::Refusal;
use serde_json::{Value, json};

use crate::args::Format;

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The cluster, or the way to it.
    Client(Error),
    /// The command cannot be carried out as written.
    Usage(String),
    /// A check that the command makes found something; it was printed already.
    Found,
    /// The cluster has no leader that a majority confirms.
    NoLeader,
    /// Reading or writing here.
    Io(String, io::Error),
    /// A file is not what it should be.
    Damaged(String),
    /// Something that was claimed did not hold (demo).
    Broken(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Config { why } => Self::Usage(why),
            other => Self::Client(other),
        }
    }
}

/// What the CLI itself finds, in the words that the cluster has for it.
impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let details = serde_json::to_value(&refusal).unwrap_or_default();
        let details = details.get(refusal.code()).cloned().unwrap_or_default();
        let (code, hint) = (refusal.code().into(), refusal.hint().into());
        let message = refusal.to_string();
        let error = ApiError { code, message, hint, details, status: 409 };
        Self::Client(Error::Refused(Box::new(error)))
    }
}

impl Failure {
    pub(crate) fn usage(why: impl Into<String>) -> Self {
        Self::Usage(why.into())
    }

    pub(crate) fn io(what: impl Into<String>, error: io::Error) -> Self {
        Self::Io(what.into(), error)
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Client(Error::Unavailable { .. }) | Self::NoLeader => 3,
            Self::Client(Error::Unknown { .. }) => 4,
            Self::Usage(_) => 2,
            Self::Client(_) | Self::Found | Self::Io(..) | Self::Damaged(_) | Self::Broken(_) => 1,
        }
    }

    /// Code, message, hint and details.
    fn parts(&self) -> (String, String, String, Value) {
        let own = |code: &str, message: String, hint: &str| {
            (String::from(code), message, String::from(hint), json!({}))
        };
        match self {
            Self::Client(Error::Refused(error)) => {
                let ApiError { code, message, hint, details, .. } = &**error;
                (code.clone(), message.clone(), hint.clone(), details.clone())
            }
            Self::Client(error @ Error::Unavailable { .. }) => own(
                "Unavailable",
                with_causes(error),
                "Nothing happened. Check -r/--rootURL and that romanad runs there.",
            ),
            Self::Client(error @ Error::Unknown { .. }) => own(
                "OutcomeUnknown",
                with_causes(error),
                "Look before you repeat it; allocating by the same name again is safe.",
            ),
            Self::Client(error) => own("Protocol", with_causes(error), ""),
            Self::Usage(why) => own("Usage", why.clone(), "romana help shows the commands."),
            Self::Found => own("Found", String::from("something is wrong, see above"), ""),
            Self::NoLeader => own(
                "Unavailable",
                String::from(
                    "no majority of the replicas confirms a leader: nothing can be changed",
                ),
                "Start more than half of the replicas, and let them reach each other.",
            ),
            Self::Io(what, error) => own("Io", format!("{what}: {error}"), ""),
            Self::Damaged(what) => {
                own("Damaged", what.clone(), "Nothing of it was used. Get the file again.")
            }
            Self::Broken(what) => own("Broken", what.clone(), ""),
        }
    }

    /// Tells the user, and gives the exit code.
    pub(crate) fn report(&self, format: Format) -> ExitCode {
        let code = ExitCode::from(self.exit_code());
        match self {
            // The reader of our output has gone: not our failure.
            Self::Io(_, error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return ExitCode::SUCCESS;
            }
            Self::Found => return code,
            _ => {}
        }
        let (name, message, hint, details) = self.parts();
        if format == Format::Table {
            anstream::eprintln!("\u{1b}[1;31merror:\u{1b}[0m {message}");
            if !hint.is_empty() {
                anstream::eprintln!("\u{1b}[36mhint:\u{1b}[0m  {hint}");
            }
        } else {
            let error = json!({"code": name, "message": message, "hint": hint, "details": details});
            anstream::eprintln!("{:#}", json!({ "error": error }));
        }
        code
    }
}

/// What is wrong, in a sentence.
impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (_, message, ..) = self.parts();
        f.write_str(&message)
    }
}

/// The message with the chain of its causes, each once.
fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

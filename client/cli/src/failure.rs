//! How a command fails: message, hint, exit code.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use romana_api::ErrorAnswer;
use romana_client::{ApiError, Error};
use romana_daemon::error::chain;
use romana_statemachine::{Refusal, escaped, escaped_json};
use serde_json::{Value, json};

use crate::global::Format;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The cluster refused the request, or could not be reached.
    Client(Error),
    /// The response to a read has a form that this program does not know: a newer replica's, or no replica's.
    Foreign { json: Value, why: String },
    /// The command is invalid as written.
    Usage(String),
    /// A document cannot be read, or is not valid for the command.
    Document(String),
    /// The command line is invalid: clap's message and hint.
    Syntax(String, String),
    /// A check found a problem, which was printed already.
    Found,
    /// No replica answers, which was printed already.
    Unreachable,
    /// The cluster has no leader that a majority confirms.
    NoLeader,
    /// A local read or write failed.
    Io(String, io::Error),
    /// A file is damaged.
    Damaged(String),
    /// The command was carried out in part; the second text is the hint.
    Incomplete(String, &'static str),
    /// A claim of the demo does not hold.
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

/// A refusal by the CLI itself, in the same form as the cluster's.
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

    pub(crate) fn document(why: impl Into<String>) -> Self {
        Self::Document(why.into())
    }

    pub(crate) fn io(what: impl Into<String>, error: io::Error) -> Self {
        Self::Io(what.into(), error)
    }

    /// A file that the command line names cannot be opened for reading.
    pub(crate) fn file(path: &Path, error: &io::Error) -> Self {
        Self::Usage(format!("{}: {error}", path.display()))
    }

    /// The CLI itself found that something does not exist: in the same form as the cluster's refusals.
    pub(crate) fn not_found(code: &str, message: impl Into<String>, hint: &str) -> Self {
        let (code, message, hint) = (code.into(), message.into(), hint.into());
        let error = ApiError { code, message, hint, details: json!({}), status: 404 };
        Self::Client(Error::Refused(Box::new(error)))
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Client(Error::Unavailable { .. }) | Self::NoLeader | Self::Unreachable => 3,
            Self::Client(Error::Unknown { .. }) | Self::Incomplete(..) => 4,
            Self::Usage(_) | Self::Document(_) | Self::Syntax(..) => 2,
            Self::Client(_)
            | Self::Foreign { .. }
            | Self::Found
            | Self::Io(..)
            | Self::Damaged(_)
            | Self::Broken(_) => 1,
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
            // The replica responded that it is damaged, with the remedy.
            Self::Client(error @ Error::Unavailable { .. })
                if let Some(said) = error.said().filter(|said| said.status == 500) =>
            {
                (said.code.clone(), chain(error), said.hint.clone(), said.details.clone())
            }
            // A replica gave a reason, or timed out.
            Self::Client(error @ Error::Unavailable { source, .. })
                if source.is_none() || error.said().is_some() =>
            {
                own(
                    "Unavailable",
                    chain(error),
                    "Nothing happened. Try again; romana cluster status says what is wrong.",
                )
            }
            Self::Client(error @ Error::Unavailable { .. }) => own(
                "Unavailable",
                chain(error),
                "Nothing happened. Check -r/--rootURL and that romanad runs there.",
            ),
            Self::Client(error @ Error::Unknown { .. }) => own(
                "OutcomeUnknown",
                chain(error),
                "Look before you repeat it; allocating by the same name again is safe.",
            ),
            Self::Client(error) => own("Protocol", chain(error), ""),
            Self::Foreign { why, .. } => own(
                "Protocol",
                format!("not an answer of a Romana replica: {why}"),
                "-f json prints it as it came. If the replicas are newer, upgrade this program.",
            ),
            Self::Usage(why) => {
                own("Usage", why.clone(), "romana COMMAND --help shows how a command is used.")
            }
            Self::Document(why) => {
                own("Document", why.clone(), "Nothing was sent. Correct the document first.")
            }
            Self::Syntax(why, hint) => own("Usage", why.clone(), hint),
            Self::Found => own("Found", String::from("something is wrong, see above"), ""),
            Self::Unreachable => own("Unavailable", "no replica answers, see above".into(), ""),
            Self::NoLeader => own(
                "Unavailable",
                "no majority of the replicas confirms a leader: nothing can be changed".into(),
                "Start more than half of the replicas, and let them reach each other.",
            ),
            Self::Io(what, error) => own("Io", format!("{what}: {error}"), ""),
            Self::Damaged(what) => {
                own("Damaged", what.clone(), "Nothing of it was used. Get the file again.")
            }
            Self::Incomplete(what, hint) => own("Incomplete", what.clone(), hint),
            Self::Broken(what) => own("Broken", what.clone(), ""),
        }
    }

    /// Code and message, for the log.
    pub(crate) fn summary(&self) -> String {
        let (code, message, ..) = self.parts();
        format!("{code}: {message}")
    }

    /// Prints the failure, and returns the exit code.
    pub(crate) fn report(&self, format: Format) -> ExitCode {
        let code = ExitCode::from(self.exit_code());
        match self {
            // The reader of the output has closed the pipe: not a failure.
            Self::Io(_, error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return ExitCode::SUCCESS;
            }
            Self::Found | Self::Unreachable => return code,
            _ => {}
        }
        let (name, message, hint, details) = self.parts();
        if format == Format::Table {
            // Server messages are untrusted: escaped, so that they cannot control the terminal or add lines.
            anstream::eprintln!("\u{1b}[1;31merror:\u{1b}[0m {}", escaped(&message));
            if !hint.is_empty() {
                anstream::eprintln!("\u{1b}[36mhint:\u{1b}[0m  {}", escaped(&hint));
            }
        } else {
            let error = ApiError { code: name, message, hint, details, status: 0 };
            let answer = serde_json::to_value(ErrorAnswer { error }).unwrap_or_default();
            let text = format!("{answer:#}");
            anstream::eprintln!("{}", escaped_json(&text));
        }
        code
    }
}

/// The message, as a sentence.
impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (_, message, ..) = self.parts();
        f.write_str(&message)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A file that is not there is wrong usage; an object that is not there is a refusal.
    #[test]
    fn what_is_missing_has_its_exit_code() {
        let missing = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(Failure::file(Path::new("/nope"), &missing).exit_code(), 2);
        let failure = Failure::not_found("BlockNotFound", "no block", "look");
        assert_eq!(failure.exit_code(), 1);
        let (code, message, hint, _) = failure.parts();
        assert_eq!((&*code, &*message, &*hint), ("BlockNotFound", "no block", "look"));
    }

    /// Every kind of failure has a message without debug representations.
    #[test]
    fn failures_are_sentences() {
        let cause = || Some(Arc::new(io::Error::other("refused")) as romana_client::Cause);
        let why = || String::from("http://h1: no answer");
        let refused = Refusal::AddressCoolingDown {
            ip: [10, 0, 0, 1].into(),
            released_at: romana_statemachine::Millis(1_795_908_366_022),
            reuse_delay_ms: 30_000,
        };
        let failures = [
            Failure::from(refused),
            Failure::Client(Error::Unavailable { why: why(), source: cause() }),
            Failure::Client(Error::Unavailable { why: why(), source: None }),
            Failure::Client(Error::Unknown { why: why(), source: cause() }),
            Failure::Client(Error::Protocol { why: why() }),
            Failure::from(Error::Config { why: why() }),
            Failure::Foreign { json: json!({}), why: why() },
            Failure::usage("x"),
            Failure::document("x"),
            Failure::not_found("X", "x", "y"),
            Failure::file(Path::new("x"), &io::Error::other("y")),
            Failure::Found,
            Failure::Unreachable,
            Failure::NoLeader,
            Failure::io("x", io::Error::other("y")),
            Failure::Damaged(why()),
            Failure::Broken(why()),
        ];
        for failure in failures {
            let (_, message, hint, _) = failure.parts();
            let text = format!("{message} {hint}");
            let machine = ["Some(", "None", "source:", "1795908366022", " ms", "Error", "{ "];
            assert_eq!(machine.iter().find(|word| text.contains(**word)), None, "{text}");
        }
    }
}

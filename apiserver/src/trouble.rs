//! Why the API server cannot be followed.

use kube::runtime::watcher;
use romana_daemon::error::chain;

use crate::AccessError;

/// Longest text of an error, characters: a server may answer with a page.
const TEXT_CHARS_MAX: usize = 300;

/// The API server does not answer, or answers with an error.
const UNREACHABLE: &str = "KubernetesUnreachable";
/// The API server refuses the credentials, or what they may do.
const FORBIDDEN: &str = "KubernetesForbidden";

/// Why a session with the API server ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Stable code of the problem, in CamelCase; `None` if it is none: a gap in a watch, which a list closes.
    pub code: Option<&'static str>,
    /// What happened, and what to do.
    pub what: String,
}

impl Trouble {
    /// The credentials cannot be used.
    #[must_use]
    pub fn access(error: &AccessError) -> Self {
        Self { code: Some(UNREACHABLE), what: chain(error) }
    }

    /// A request failed; `doing` says which one.
    #[must_use]
    pub fn request(doing: &str, error: &kube::Error) -> Self {
        let (code, why) = match error {
            kube::Error::Api(status) => match status.code {
                401 => (FORBIDDEN, "the API server does not accept the credentials".to_owned()),
                403 => (FORBIDDEN, format!("{}: check the user's ClusterRole", status.message)),
                code => {
                    (UNREACHABLE, format!("the API server answered {code}: {}", status.message))
                }
            },
            other => (UNREACHABLE, chain(other)),
        };
        Self::new(code, doing, &why)
    }

    /// A list or watch of a resource, as in `services`, failed.
    #[must_use]
    pub fn watch(kind: &str, error: &watcher::Error) -> Self {
        match error {
            watcher::Error::InitialListFailed(error) => {
                Self::request(&format!("cannot list {kind}"), error)
            }
            watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
                Self::request(&format!("cannot watch {kind}"), error)
            }
            watcher::Error::WatchError(status) if status.code == 410 => {
                let why =
                    "the API server no longer has the changes since the last one: listing again";
                Self {
                    code: None,
                    ..Self::new(UNREACHABLE, &format!("the watch of {kind} ended"), why)
                }
            }
            watcher::Error::WatchError(status) => {
                let why = format!("the API server answered {}: {}", status.code, status.message);
                Self::new(UNREACHABLE, &format!("the watch of {kind} ended"), &why)
            }
            watcher::Error::NoResourceVersion => {
                let why = "an answer has no resource version";
                Self::new(UNREACHABLE, &format!("cannot watch {kind}"), why)
            }
        }
    }

    /// No answer came in time; `doing` says to what.
    #[must_use]
    pub fn silent(doing: &str) -> Self {
        Self::new(UNREACHABLE, doing, "the API server does not answer in time")
    }

    fn new(code: &'static str, doing: &str, why: &str) -> Self {
        let text = format!("{doing}: {why}");
        let what = match text.char_indices().nth(TEXT_CHARS_MAX) {
            Some((at, _)) => format!("{}…", &text[..at]),
            None => text,
        };
        Self { code: Some(code), what }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_gap_in_a_watch_is_no_problem() {
        let ended = |code: u16| {
            let status = Status::failure("too old", "Expired").with_code(code);
            Trouble::watch("pods", &watcher::Error::WatchError(status.boxed()))
        };
        let gap = ended(410);
        assert_eq!(gap.code, None);
        assert!(gap.what.contains("listing again"), "{}", gap.what);
        assert_eq!(ended(500).code, Some(UNREACHABLE));
    }
}

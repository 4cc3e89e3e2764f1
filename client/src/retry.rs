//! Decides on retries: pure decisions about one attempt. Which commands may be repeated is defined in
//! their table (`Command::meta`).

use std::sync::Arc;
use std::time::Duration;

use crate::error::{ApiError, Cause, Error};
use crate::transport::{Fault, Reply};

/// The effect of repeating a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    Read,
    Idempotent,
    /// It must not be resent once it may have been committed.
    Once,
}

/// How much of an answer was received, in ascending order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Heard {
    /// Nothing: the connection was refused or broke.
    #[default]
    Nobody,
    /// Nothing before the timeout.
    Silence,
    /// A reply, which may say why the cluster cannot answer.
    Reply,
}

/// The verdict on one attempt.
#[derive(Debug)]
pub(crate) enum Verdict {
    Answer(Reply),
    /// An error that a retry would not change.
    Fail(Error),
    /// Retry, on another replica if there is one.
    Again {
        why: String,
        source: Option<Cause>,
        /// Whether this attempt may have been committed.
        maybe: bool,
        heard: Heard,
        /// The server's `Retry-After`.
        wait: Option<Duration>,
    },
}

/// Judges one attempt.
pub(crate) fn judge(attempt: Result<Reply, Fault>, nature: Nature) -> Verdict {
    let verdict = match attempt {
        Err(fault) => judge_fault(fault),
        Ok(reply) => judge_reply(reply),
    };
    match verdict {
        Verdict::Again { why, source, maybe: true, .. } if nature == Nature::Once => {
            Verdict::Fail(Error::Unknown { why, source })
        }
        Verdict::Again { why, source, heard, wait, .. } if nature == Nature::Read => {
            Verdict::Again { why, source, heard, wait, maybe: false }
        }
        other => other,
    }
}

fn judge_fault(fault: Fault) -> Verdict {
    let why = fault.why();
    let (source, maybe, heard) = match fault {
        Fault::NotSent(cause) => (Some(cause), false, Heard::Nobody),
        Fault::Lost(cause) => (Some(cause), true, Heard::Nobody),
        Fault::TimedOut => (None, true, Heard::Silence),
        Fault::Unfit(error) => return Verdict::Fail(error),
    };
    Verdict::Again { why, source, maybe, heard, wait: None }
}

fn judge_reply(reply: Reply) -> Verdict {
    let status = reply.status;
    if (200..300).contains(&status) {
        return Verdict::Answer(reply);
    }
    let wait = reply.retry_after;
    let again =
        |why, source, maybe| Verdict::Again { why, source, maybe, heard: Heard::Reply, wait };
    let Some(error) = ApiError::from_body(status, &reply.body) else {
        let why = format!("status {status} without an error of Romana");
        return match status {
            408 | 429 | 503 => again(why, None, false),
            500..600 => again(why, None, true),
            _ => Verdict::Fail(Error::protocol(why)),
        };
    };
    let why = error.message.clone();
    let unknown = error.code.contains("Unknown");
    match status {
        408 | 429 | 503 => again(why, None, unknown),
        500 | 502 | 504 => again(why, said(error), true),
        _ => Verdict::Fail(Error::Refused(Box::new(error))),
    }
}

/// The error of a failing replica, as the cause: if no other replica can
/// answer, its code and hint are useful.
fn said(error: ApiError) -> Option<Cause> {
    Some(Arc::new(error))
}

/// Exponential back-off with jitter.
#[derive(Debug)]
pub(crate) struct Backoff {
    tries: u32,
}

impl Backoff {
    const FIRST_MS: u64 = 10;
    /// An election takes some hundred milliseconds; during that, retry often enough to notice its end.
    const ELECTION_MS: u64 = 100;
    const ELECTION_TRIES: u32 = 20;
    const LAST_MS: u64 = 1_000;

    pub(crate) fn new() -> Self {
        Self { tries: 0 }
    }

    /// The next pause. `asked` is the server's `Retry-After`. Its unit, a second, is longer than an
    /// election: values up to one second mean "soon" and our own back-off applies; larger ones are obeyed.
    /// `roll` is a random number in 0..1.
    pub(crate) fn next(&mut self, asked: Option<Duration>, roll: f64) -> Duration {
        let early = Self::ELECTION_MS.min(Self::FIRST_MS << self.tries.min(10));
        let late = self.tries.saturating_sub(Self::ELECTION_TRIES);
        let ceiling = Self::LAST_MS.min(early << late.min(10));
        self.tries += 1;
        let jittered = Duration::from_millis(ceiling).mul_f64(0.5 + roll.clamp(0.0, 1.0) / 2.0);
        match asked {
            Some(asked) if asked > Duration::from_secs(1) => asked + jittered,
            _ => jittered,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn reply(status: u16, body: &'static str) -> Result<Reply, Fault> {
        Ok(Reply { status, retry_after: None, body: Bytes::from_static(body.as_bytes()) })
    }

    fn lost() -> Result<Reply, Fault> {
        Err(Fault::Lost(std::sync::Arc::new(std::io::Error::other("cut"))))
    }

    fn shown(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Answer(_) => "answer",
            Verdict::Fail(Error::Refused(_)) => "refused",
            Verdict::Fail(Error::Unknown { .. }) => "unknown",
            Verdict::Fail(Error::Protocol { .. }) => "protocol",
            Verdict::Fail(_) => "other",
            Verdict::Again { maybe: true, .. } => "again, maybe",
            Verdict::Again { maybe: false, .. } => "again",
        }
    }

    #[test]
    fn every_attempt_is_judged() {
        use Nature::{Idempotent, Once, Read};
        let refusal = r#"{"error":{"code":"HostNotFound","message":"no"}}"#;
        let unknown = r#"{"error":{"code":"OutcomeUnknown","message":"lost the leader"}}"#;
        let busy = r#"{"error":{"code":"Busy","message":"queue full"}}"#;
        let not_sent = || {
            Err::<Reply, _>(Fault::NotSent(std::sync::Arc::new(std::io::Error::other("refused"))))
        };
        for (attempt, nature, expected) in [
            (reply(200, "{}"), Once, "answer"),
            (reply(201, "garbage"), Once, "answer"),
            (reply(404, refusal), Once, "refused"),
            (reply(507, refusal), Idempotent, "refused"),
            (reply(404, "<html>"), Read, "protocol"),
            (reply(503, "<html>"), Once, "again"),
            (reply(503, busy), Once, "again"),
            (reply(429, busy), Once, "again"),
            (reply(503, unknown), Once, "unknown"),
            (reply(504, unknown), Idempotent, "again, maybe"),
            (reply(504, unknown), Read, "again"),
            (reply(500, "oops"), Once, "unknown"),
            (reply(500, "oops"), Idempotent, "again, maybe"),
            (lost(), Once, "unknown"),
            (lost(), Idempotent, "again, maybe"),
            (lost(), Read, "again"),
            (Err(Fault::TimedOut), Once, "unknown"),
            (not_sent(), Once, "again"),
        ] {
            let case = format!("{attempt:?} {nature:?}");
            assert_eq!(shown(&judge(attempt, nature)), expected, "{case}");
        }
    }

    #[test]
    fn pauses_grow_to_a_bound_and_keep_to_what_is_asked() {
        let mut backoff = Backoff::new();
        let pauses: Vec<_> = (0..26).map(|_| backoff.next(None, 1.0).as_millis()).collect();
        assert_eq!(pauses[..6], [10, 20, 40, 80, 100, 100]);
        assert_eq!(pauses[19..], [100, 100, 200, 400, 800, 1000, 1000]);
        assert!(Backoff::new().next(Some(Duration::from_secs(1)), 0.0).as_millis() == 5);
        assert!(Backoff::new().next(Some(Duration::from_secs(3)), 0.0).as_secs() == 3);
    }
}

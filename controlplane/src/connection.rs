//! Answers to malformed request heads, in the form of all API errors.

use std::sync::Arc;

use romana_daemon::listener::{BadHead, HEAD_BYTES_MAX, HEADERS_MAX, HeadAnswer, OnBadHead};

use crate::error::{Code, Failure};

/// Header lines common to all answers.
pub(crate) type Stamp = Arc<dyn Fn(&Failure) -> String + Send + Sync>;

/// The header lines while there is no replica.
pub(crate) fn no_replica() -> Stamp {
    Arc::new(|_| String::from("x-romana-revision: 0\r\n"))
}

/// Answers request heads that cannot be parsed.
pub(crate) fn on_bad_head(stamp: Stamp) -> OnBadHead {
    Arc::new(move |why| {
        let failure = failure(why);
        let (status, headers) = (failure.problem().status, stamp(&failure));
        HeadAnswer { status, content_type: "application/json", headers, body: failure.into_body() }
    })
}

fn failure(why: BadHead) -> Failure {
    match why {
        BadHead::UriTooLong => {
            let message = format!("the request's target is longer than {HEAD_BYTES_MAX} bytes");
            Failure::new(Code::UriTooLong, message).with("max_bytes", HEAD_BYTES_MAX)
        }
        BadHead::TooLarge => {
            let message = format!(
                "the request's head has more than {HEADERS_MAX} headers or {HEAD_BYTES_MAX} bytes"
            );
            let failure = Failure::new(Code::HeadTooLarge, message);
            failure.with("max_headers", HEADERS_MAX).with("max_bytes", HEAD_BYTES_MAX)
        }
        BadHead::Malformed => {
            Failure::new(Code::MalformedHead, "the request's head is no head of HTTP/1.1")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_head_is_answered_as_other_errors_are() {
        for (why, status, code) in [
            (BadHead::UriTooLong, 414, "\"UriTooLong\""),
            (BadHead::TooLarge, 431, "\"HeadTooLarge\""),
            (BadHead::Malformed, 400, "\"MalformedHead\""),
        ] {
            let answer = on_bad_head(no_replica())(why);
            assert_eq!((answer.status.as_u16(), answer.content_type), (status, "application/json"));
            assert_eq!(answer.headers, "x-romana-revision: 0\r\n");
            assert!(answer.body.starts_with("{\"error\":{"), "{}", answer.body);
            assert!(answer.body.contains(code), "{}", answer.body);
        }
    }
}

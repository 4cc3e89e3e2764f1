//! The one table from what went wrong to what the caller is told: status, code, message, hint.
//!
//! Two sources feed it: refusals (the state machine's answers, by [`Kind`]) and the codes below
//! (HTTP's own and the cluster's). The body is `{"error": {"code", "message", "hint", "details"}}`.
//! A caller can tell *refused* (nothing happened) from *unknown* (may have happened): only
//! `OutcomeUnknown` means the latter.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use bytes::{BufMut, BytesMut};
use romana_statemachine::Refusal;
use romana_statemachine::refusal::Kind;
use serde::Serialize;
use serde_json::{Map, Value, json};

macro_rules! codes {
    ($($(#[$doc:meta])* $code:ident => $status:ident, $retry:expr, $hint:literal;)*) => {
        /// What can go wrong outside the rules of the state machine.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code { $($(#[$doc])* $code,)* }

        impl Code {
            /// All codes.
            pub const ALL: &[Self] = &[$(Self::$code,)*];

            /// The stable code.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$code => stringify!($code),)* }
            }

            /// Its HTTP status.
            #[must_use]
            pub fn status(self) -> StatusCode {
                match self { $(Self::$code => StatusCode::$status,)* }
            }

            /// After how many seconds a retry makes sense.
            #[must_use]
            pub fn retry_after_secs(self) -> Option<u32> {
                match self { $(Self::$code => $retry,)* }
            }

            /// What to do about it.
            #[must_use]
            pub fn hint(self) -> &'static str {
                match self { $(Self::$code => $hint,)* }
            }
        }
    };
}

codes! {
    /// The body is not the JSON that the route takes.
    MalformedBody => BAD_REQUEST, None,
        "details.field says where; /v1/openapi.json describes the body.";
    /// A query parameter is unknown, repeated or has a bad value.
    MalformedQuery => BAD_REQUEST, None,
        "details.parameter says which; /v1/openapi.json lists the parameters of every route.";
    /// A header has a bad value.
    MalformedHeader => BAD_REQUEST, None, "details.header says which.";
    /// The head of the request is not one.
    MalformedHead => BAD_REQUEST, None,
        "Nothing happened. Look at the request line, Content-Length and Transfer-Encoding, and at what stands between you and the server.";
    /// The head of the request is too large.
    HeadTooLarge => REQUEST_HEADER_FIELDS_TOO_LARGE, None,
        "Nothing happened. Send fewer and shorter headers.";
    /// The target of the request is too long.
    UriTooLong => URI_TOO_LONG, None, "Nothing happened. Ask for less at once.";
    /// A page of another site sent it.
    CrossSite => FORBIDDEN, None,
        "Nothing happened. Changes are not made for pages of other sites; send the request without Origin and Sec-Fetch-Site, or from this server's own origin.";
    /// A path segment is not UTF-8 or not what belongs there.
    MalformedPath => BAD_REQUEST, None, "Percent-encode names in paths as UTF-8.";
    /// Virtual IPs are not served yet.
    VipsNotServed => UNPROCESSABLE_ENTITY, None,
        "Nothing happened. Use what your platform has for virtual IPs; those that an earlier release accepted can be shown and removed.";
    /// No such route.
    PathNotFound => NOT_FOUND, None, "/v1/openapi.json lists all routes.";
    /// The endpoint does not exist.
    EndpointNotFound => NOT_FOUND, None, "GET /v1/endpoints shows the endpoints.";
    /// There is no topology yet.
    TopologyNotFound => NOT_FOUND, None, "Set one: romana topology update FILE.";
    /// The group does not exist.
    GroupNotFound => NOT_FOUND, None, "GET /v1/topology shows the groups with their CIDRs.";
    /// The route exists, not with this method.
    MethodNotAllowed => METHOD_NOT_ALLOWED, None, "The Allow header lists the methods.";
    /// The caller accepts no form that the route can answer in.
    NotAcceptable => NOT_ACCEPTABLE, None, "Accept what details.types lists, or send no Accept.";
    /// The client was too slow with its body.
    RequestTimeout => REQUEST_TIMEOUT, None,
        "Nothing happened. Send the whole body at once, or allow more time with X-Romana-Timeout-Ms.";
    /// What the follower wants next is no longer kept.
    RevisionCompacted => GONE, None,
        "Ask from details.oldest on, the oldest kept; what is older is in backups and exports only. Followers take GET /v1/snapshot and follow from its revision.";
    /// The follower has seen more than this cluster decided.
    RevisionAhead => CONFLICT, None,
        "This is another cluster or a restored one: take GET /v1/snapshot and follow from its revision.";
    /// No member of the cluster has this id.
    MemberNotFound => NOT_FOUND, None, "`romana cluster status` shows the members.";
    /// Without this member the cluster could not go on.
    MemberNeeded => CONFLICT, None,
        "Add a replica or bring the others back first; `--force` (in the API ?force=true) removes it all the same, but not the last voter.";
    /// Somebody would not understand what is decided by the next version.
    VersionNotRaised => CONFLICT, None,
        "Upgrade what details.obstacle names; agents are not waited for with `romana cluster raise-version --force`.";
    /// Leadership goes to a member that votes only.
    MemberNotVoter => CONFLICT, None,
        "`romana cluster status` shows the members; a learner votes when it has caught up.";
    /// Another member is in its place already.
    MemberReplaced => CONFLICT, None,
        "Nothing happened. Start that one, or take it back first: romana cluster remove ID, with details.by.";
    /// Leadership goes to a member that can take over.
    MemberNotHealthy => CONFLICT, None,
        "Nothing happened. `romana cluster status` shows who is healthy; bring it back first.";
    /// The command has checks of its own, which a batch would go around.
    NotInBatch => UNPROCESSABLE_ENTITY, None,
        "Nothing happened. Take the route or the task of its own: members are changed under /v1/cluster/members.";
    /// A backup was sent to a cluster that exists.
    ClusterNotEmpty => CONFLICT, None,
        "A backup begins a new cluster: start romanad with --await-restore (or --restore FILE) on empty data directories.";
    /// What was sent is no backup, or a damaged one.
    BackupUnusable => UNPROCESSABLE_ENTITY, None,
        "Nothing was restored. `romana backup verify FILE` says what is wrong; take another backup.";
    /// This replica has no data yet: it waits for a backup.
    AwaitingRestore => SERVICE_UNAVAILABLE, Some(5),
        "Send it one: romana backup restore FILE -r URL,URL,URL (all founders).";
    /// The body is larger than the route takes.
    BodyTooLarge => PAYLOAD_TOO_LARGE, None, "Split the request; details.max_bytes is the bound.";
    /// The body is not JSON.
    UnsupportedMediaType => UNSUPPORTED_MEDIA_TYPE, None, "Send Content-Type: application/json.";
    /// Too much is waiting already.
    Busy => TOO_MANY_REQUESTS, Some(1), "Nothing happened. Retry after the time in Retry-After.";
    /// A defect of this program.
    Internal => INTERNAL_SERVER_ERROR, None, "Look into this replica's log and report the defect.";
    /// No leader, no quorum, or this replica is stopping.
    Unavailable => SERVICE_UNAVAILABLE, Some(1),
        "Nothing happened. Retry, at another replica if there is one; `romana cluster status` shows them.";
    /// The index that the question needs is being built.
    IndexRebuilding => SERVICE_UNAVAILABLE, Some(1),
        "Ask another replica, or retry: details.reached says how far the index is.";
    /// The disk of this replica is full.
    DiskFull => SERVICE_UNAVAILABLE, Some(5),
        "Nothing happened. Retry at another replica; make room on this one's disk, and it comes back by itself.";
    /// The data directory of this replica is an older copy of itself.
    OlderCopy => SERVICE_UNAVAILABLE, None,
        "Ask another replica, and put a new member in this one's place: `romana cluster replace ID`. Starting this one again does not help.";
    /// A file of this replica's history is not what was written.
    HistoryDamaged => INTERNAL_SERVER_ERROR, None,
        "Ask another replica, and seed this one anew from the others: `romana cluster replace ID`.";
    /// The command was handed over and its fate is not known.
    OutcomeUnknown => SERVICE_UNAVAILABLE, Some(1),
        "It may have happened. A retry with the same name is safe, or read the state first.";
}

/// The status of a class of refusals.
#[must_use]
pub fn status_of(kind: Kind) -> StatusCode {
    match kind {
        Kind::Malformed => StatusCode::BAD_REQUEST,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Forbidden => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::Exhausted => StatusCode::INSUFFICIENT_STORAGE,
    }
}

/// Why a request was not answered as asked. Boxed: failures are rare, results are everywhere.
#[derive(Debug)]
pub struct Failure(Box<Problem>);

/// What a failure says.
#[derive(Debug)]
pub struct Problem {
    /// HTTP status.
    pub status: StatusCode,
    /// Stable code.
    pub code: &'static str,
    /// What was asked and why not.
    pub message: String,
    /// What to do.
    pub hint: &'static str,
    /// The facts, for programs.
    pub details: Map<String, Value>,
    /// Seconds after which a retry makes sense.
    pub retry_after_secs: Option<u32>,
}

/// The `error` member of an error body.
#[derive(Serialize)]
struct ErrorBody<'a> {
    code: &'a str,
    message: &'a str,
    hint: &'a str,
    details: &'a Map<String, Value>,
}

impl Failure {
    /// A failure with a message.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Problem {
            status: code.status(),
            code: code.as_str(),
            message: message.into(),
            hint: code.hint(),
            details: Map::new(),
            retry_after_secs: code.retry_after_secs(),
        }))
    }

    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.details.insert(key.into(), value.into());
        self
    }

    /// What it says.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.0
    }

    /// The `error` member as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let Problem { code, message, hint, details, .. } = &*self.0;
        json!({"code": code, "message": message, "hint": hint, "details": details})
    }

    /// The answer, without `X-Romana-Revision`.
    #[must_use]
    pub fn into_response(self) -> Response<Body> {
        let Problem { code, message, hint, details, .. } = &*self.0;
        let mut body = BytesMut::with_capacity(512);
        body.put_slice(b"{\"error\":");
        let error = ErrorBody { code, message, hint, details };
        if serde_json::to_writer((&mut body).writer(), &error).is_err() {
            body.put_slice(b"null"); // strings and JSON values always serialise
        }
        body.put_u8(b'}');
        self.respond_with(body.freeze(), "application/json")
    }

    /// An answer with this failure's status and a given body.
    pub(crate) fn respond_with(
        &self,
        body: bytes::Bytes,
        content_type: &'static str,
    ) -> Response<Body> {
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.0.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(secs) = self.0.retry_after_secs {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        response
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let details = match serde_json::to_value(&refusal) {
            // Externally tagged: {"Code": {details}}, or "Code" when there are none.
            Ok(Value::Object(tagged)) => match tagged.into_iter().next() {
                Some((_, Value::Object(details))) => details,
                _ => Map::new(),
            },
            _ => Map::new(),
        };
        Self(Box::new(Problem {
            status: status_of(refusal.kind()),
            code: refusal.code(),
            message: refusal.to_string(),
            hint: refusal.hint(),
            details,
            retry_after_secs: None,
        }))
    }
}

/// The header that carries the revision an answer is based on.
pub const REVISION_HEADER: HeaderName = HeaderName::from_static("x-romana-revision");

/// The header that carries the id of the cluster.
pub const CLUSTER_HEADER: HeaderName = HeaderName::from_static("x-romana-cluster");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_from_each_other_and_from_refusals() {
        let mut all: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        all.extend(Refusal::TABLE.iter().map(|(code, ..)| *code));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn a_refusal_keeps_its_details() {
        let host = romana_statemachine::name::HostName::from("h9");
        let failure = Failure::from(Refusal::HostNotFound { host });
        assert_eq!(failure.problem().status, StatusCode::NOT_FOUND);
        assert_eq!(failure.to_json()["details"], json!({"host": "h9"}));
        let none = Failure::from(Refusal::NoTopology);
        assert_eq!(none.problem().status, StatusCode::CONFLICT);
        assert!(none.problem().details.is_empty());
    }
}

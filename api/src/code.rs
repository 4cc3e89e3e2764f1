//! The table of error codes with HTTP status, hint and retry time.
//!
//! There are two sources of errors: refusals (the state machine's answers, by [`Kind`]) and the codes below
//! (HTTP's and the cluster's). A caller can distinguish *refused* (nothing was committed) from *unknown* (it
//! may have been committed): only [`Code::OutcomeUnknown`] means the latter.

use romana_statemachine::Refusal;
use romana_statemachine::refusal::Kind;

macro_rules! codes {
    ($($(#[$doc:meta])* $code:ident => $status:literal, $retry:expr, $hint:literal;)*) => {
        /// Errors other than the state machine's refusals.
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

            /// The HTTP status (RFC 9110).
            #[must_use]
            pub fn status(self) -> u16 {
                match self { $(Self::$code => $status,)* }
            }

            /// Seconds after which a retry is useful.
            #[must_use]
            pub fn retry_after_secs(self) -> Option<u32> {
                match self { $(Self::$code => $retry,)* }
            }

            /// What the caller can do about it.
            #[must_use]
            pub fn hint(self) -> &'static str {
                match self { $(Self::$code => $hint,)* }
            }
        }
    };
}

codes! {
    /// The body is not the JSON expected by the route.
    MalformedBody => 400, None,
        "details.field says where; /v1/openapi.json describes the body.";
    /// A query parameter is unknown, repeated or invalid.
    MalformedQuery => 400, None,
        "details.parameter says which; /v1/openapi.json lists the parameters of every route.";
    /// A header is invalid.
    MalformedHeader => 400, None, "details.header says which.";
    /// The head of the request is invalid.
    MalformedHead => 400, None,
        "Nothing happened. Look at the request line, Content-Length and Transfer-Encoding, and at what stands between you and the server.";
    /// The head of the request is too large.
    HeadTooLarge => 431, None,
        "Nothing happened. Send fewer and shorter headers.";
    /// The target of the request is too long.
    UriTooLong => 414, None, "Nothing happened. Ask for less at once.";
    /// The request was sent by a page of another site.
    CrossSite => 403, None,
        "Nothing happened. Changes are not made for pages of other sites; send the request without Origin and Sec-Fetch-Site, or from this server's own origin.";
    /// A path segment is not UTF-8, or invalid.
    MalformedPath => 400, None, "Percent-encode names in paths as UTF-8.";
    /// The route does not exist.
    PathNotFound => 404, None, "/v1/openapi.json lists all routes.";
    /// The endpoint does not exist.
    EndpointNotFound => 404, None, "GET /v1/endpoints shows the endpoints.";
    /// There is no topology yet.
    TopologyNotFound => 404, None, "Set one: romana topology update FILE.";
    /// The group does not exist.
    GroupNotFound => 404, None, "GET /v1/topology shows the groups with their CIDRs.";
    /// The route exists, but not with this method.
    MethodNotAllowed => 405, None, "The Allow header lists the methods.";
    /// The caller accepts no content type that the route can produce.
    NotAcceptable => 406, None, "Accept what details.types lists, or send no Accept.";
    /// The client was too slow with its body.
    RequestTimeout => 408, None,
        "Nothing happened. Send the whole body at once, or allow more time with X-Romana-Timeout-Ms.";
    /// The revision to resume from is no longer kept.
    RevisionCompacted => 410, None,
        "Ask from details.oldest on, the oldest kept; what is older is in backups and exports only. Followers take GET /v1/snapshot and follow from its revision.";
    /// The follower has seen a revision that this cluster has not reached.
    RevisionAhead => 409, None,
        "This is another cluster or a restored one: take GET /v1/snapshot and follow from its revision.";
    /// No member of the cluster has this id.
    MemberNotFound => 404, None, "`romana cluster status` shows the members.";
    /// The cluster would lose its quorum without this member.
    MemberNeeded => 409, None,
        "Add a replica or bring the others back first; `--force` (in the API ?force=true) removes it all the same, but not the last voter.";
    /// A replica or agent does not support the next version.
    VersionNotRaised => 409, None,
        "Upgrade what details.obstacle names; agents are not waited for with `romana cluster raise-version --force`.";
    /// Leadership can only be transferred to a voter.
    MemberNotVoter => 409, None,
        "`romana cluster status` shows the members; a learner votes when it has caught up.";
    /// Another member has replaced it already.
    MemberReplaced => 409, None,
        "Nothing happened. Start that one, or take it back first: romana cluster remove ID, with details.by.";
    /// Leadership can only be transferred to a healthy member.
    MemberNotHealthy => 409, None,
        "Nothing happened. `romana cluster status` shows who is healthy; bring it back first.";
    /// The command has checks of its own, which a batch would bypass.
    NotInBatch => 422, None,
        "Nothing happened. Take the route or the task of its own: members are changed under /v1/cluster/members.";
    /// A backup was sent to an existing cluster.
    ClusterNotEmpty => 409, None,
        "A backup begins a new cluster: start romanad with --await-restore (or --restore FILE) on empty data directories.";
    /// The upload is not a backup, or damaged.
    BackupUnusable => 422, None,
        "Nothing was restored. `romana backup verify FILE` says what is wrong; take another backup.";
    /// This replica has no data yet: it waits for a backup.
    AwaitingRestore => 503, Some(5),
        "Send it one: romana backup restore FILE -r URL,URL,URL (all founders).";
    /// The body is larger than the route takes.
    BodyTooLarge => 413, None, "Split the request; details.max_bytes is the bound.";
    /// The body is not JSON.
    UnsupportedMediaType => 415, None, "Send Content-Type: application/json.";
    /// Too many requests are waiting.
    Busy => 429, Some(1), "Nothing happened. Retry after the time in Retry-After.";
    /// A bug in this program.
    Internal => 500, None, "Look into this replica's log and report the defect.";
    /// No leader, no quorum, or this replica is stopping.
    Unavailable => 503, Some(1),
        "Nothing happened. Retry, at another replica if there is one; `romana cluster status` shows them.";
    /// The index for this query is being built.
    IndexRebuilding => 503, Some(1),
        "Ask another replica, or retry: details.reached says how far the index is.";
    /// The disk of this replica is full.
    DiskFull => 503, Some(5),
        "Nothing happened. Retry at another replica; make room on this one's disk, and it comes back by itself.";
    /// The data directory of this replica is an older copy of itself.
    OlderCopy => 503, None,
        "Ask another replica, and put a new member in this one's place: `romana cluster replace ID`. Starting this one again does not help.";
    /// A file of this replica's history is damaged.
    HistoryDamaged => 500, None,
        "Ask another replica, and seed this one anew from the others: `romana cluster replace ID`.";
    /// The command was proposed, but its outcome is unknown.
    OutcomeUnknown => 503, Some(1),
        "It may have happened. A retry with the same name is safe, or read the state first.";
}

/// The status of a class of refusals.
#[must_use]
pub fn status_of(kind: Kind) -> u16 {
    match kind {
        Kind::Malformed => 400,
        Kind::NotFound => 404,
        Kind::Conflict => 409,
        Kind::Forbidden => 422,
        Kind::Exhausted => 507,
    }
}

/// The status of a code of either table; `None`: a code of another version.
#[must_use]
pub fn status_of_code(code: &str) -> Option<u16> {
    let own = Code::ALL.iter().find(|known| known.as_str() == code).map(|known| known.status());
    let refusal = || Refusal::TABLE.iter().find(|(known, ..)| *known == code);
    own.or_else(|| refusal().map(|(_, kind, _)| status_of(*kind)))
}

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
    fn every_code_has_a_status() {
        assert_eq!(status_of_code("HostNotFound"), Some(404));
        assert_eq!(status_of_code("NetworkExhausted"), Some(507));
        assert_eq!(status_of_code("Busy"), Some(429));
        assert_eq!(status_of_code("OfALaterVersion"), None);
    }
}

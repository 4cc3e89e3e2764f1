//! Headers of requests and answers, in lower case as HTTP libraries compare them.

/// In answers: the revision that the answer is based on.
pub const REVISION: &str = "x-romana-revision";
/// In answers: id of the cluster.
pub const CLUSTER: &str = "x-romana-cluster";
/// In requests: the actor, for the audit log. Visible ASCII, at most 253 bytes.
pub const ACTOR: &str = "x-romana-actor";
/// In requests: the replica's time limit, milliseconds, at most 60 000.
pub const TIMEOUT_MS: &str = "x-romana-timeout-ms";
/// In followers' requests: the newest version of behaviour that they know.
pub const VERSION: &str = "x-romana-version";

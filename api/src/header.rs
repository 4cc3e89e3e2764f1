//! Headers of requests and answers, in the lower case that HTTP libraries compare.

/// Of answers: the revision that the answer is based on.
pub const REVISION: &str = "x-romana-revision";
/// Of answers: id of the cluster that answered.
pub const CLUSTER: &str = "x-romana-cluster";
/// Of requests: who asks, for the audit log. Visible ASCII, at most 253 bytes.
pub const ACTOR: &str = "x-romana-actor";
/// Of requests: how long the replica may take, milliseconds, at most 60 000.
pub const TIMEOUT_MS: &str = "x-romana-timeout-ms";
/// Of followers: the newest version of behaviour that they know.
pub const VERSION: &str = "x-romana-version";

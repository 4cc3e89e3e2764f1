//! What an operator can do about a replica that cannot go on.

/// What the operator does about a replica with damaged data. All messages use this text.
#[must_use]
pub fn reseed(id: u64) -> String {
    format!(
        "nothing was changed; what this replica had acknowledged is on the others: \
         `romana cluster replace {id}` says how to start it again with an empty data directory. If \
         it is the only replica, start it with an empty data directory and --restore of the last \
         backup"
    )
}

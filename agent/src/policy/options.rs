//! What the operator chose about policy, and the directions in which it works.

use std::collections::BTreeSet;

use romana_statemachine::policy::evaluate::Direction;

/// Both directions, in the order in which they are compiled.
pub(super) const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// What the operator chose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Log what is denied.
    pub log: bool,
    /// TCP ports, of the replicas, that no policy for hosts closes.
    pub failsafe: BTreeSet<u16>,
}

//! The operator's options for policy, and the directions of enforcement.

use std::collections::BTreeSet;

use romana_statemachine::policy::evaluate::Direction;

/// Both directions, in the order in which they are compiled.
pub(super) const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// The operator's options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Log denied packets.
    pub log: bool,
    /// TCP ports of the replicas, which policies for hosts never close.
    pub failsafe: BTreeSet<u16>,
}

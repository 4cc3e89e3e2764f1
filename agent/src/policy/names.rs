//! Names of chains and sets. A chain's name has at most 28 bytes, a set's 31 with the digit of its family;
//! what is longer is cut, and told apart by a digest.

use std::fmt::Write as _;

use romana_statemachine::Digest;
use romana_statemachine::name::PolicyName;
use romana_statemachine::policy::Peer;
use romana_statemachine::policy::evaluate::Direction;

use super::model::Name;
pub use super::model::{LINKS, PORTS};

/// Hooks: where packets come in.
pub const INPUT: &str = "ROMANA-INPUT";
/// Packets from the host itself.
pub const OUTPUT: &str = "ROMANA-OUTPUT";
/// Packets that are forwarded.
pub const FORWARD: &str = "ROMANA-FORWARD";
/// The built-in chains, and our chain that each jumps to first.
pub const HOOKS: [(&str, &str); 3] = [("INPUT", INPUT), ("FORWARD", FORWARD), ("OUTPUT", OUTPUT)];
/// What our endpoints' packets end with: forwarded whatever the host's own rules say.
pub const PASS: &str = "ROMANA-PASS";

/// Endpoints of this host.
pub const LOCAL: &str = "ROMANA-local";
/// Those of Kubernetes namespaces whose pods are known.
pub const KUBERNETES: &str = "ROMANA-kubernetes";

/// Names of a direction.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    /// Set: what is closed in that direction, but for what policies allow.
    pub closed: &'static str,
    /// Chain: allowed, or dropped.
    pub judge: &'static str,
    /// Chain: the policies.
    pub policies: &'static str,
    /// Chain: what is dropped.
    pub deny: &'static str,
    /// Chain: counts what is dropped, by policy.
    pub denied: &'static str,
    /// Chain: `judge` for this host itself.
    pub host_judge: &'static str,
    /// Chain: policies of this host itself.
    pub host_policies: &'static str,
    /// Begins names of policies' chains.
    pub policy: &'static str,
    /// For people.
    pub word: &'static str,
}

/// Names of a direction.
#[must_use]
pub fn side(direction: Direction) -> &'static Side {
    match direction {
        Direction::Ingress => &Side {
            closed: "ROMANA-closed-in",
            judge: "ROMANA-INGRESS",
            policies: "ROMANA-POLICIES-IN",
            deny: "ROMANA-DENY-IN",
            denied: "ROMANA-DENIED-IN",
            host_judge: "ROMANA-HOST-IN",
            host_policies: "ROMANA-HOST-POLICIES-IN",
            policy: "ROMANA-I-",
            word: "in",
        },
        Direction::Egress => &Side {
            closed: "ROMANA-closed-out",
            judge: "ROMANA-EGRESS",
            policies: "ROMANA-POLICIES-OUT",
            deny: "ROMANA-DENY-OUT",
            denied: "ROMANA-DENIED-OUT",
            host_judge: "ROMANA-HOST-OUT",
            host_policies: "ROMANA-HOST-POLICIES-OUT",
            policy: "ROMANA-E-",
            word: "out",
        },
    }
}

/// A policy's chain of a direction.
#[must_use]
pub fn policy_chain(policy: &PolicyName, direction: Direction) -> Name {
    named(side(direction).policy, short(policy), policy.as_str())
}

/// The chain of one rule of a policy, by its place.
#[must_use]
pub fn rule_chain(policy: &PolicyName, direction: Direction, place: usize) -> Name {
    let key = format!("{policy} {} {place}", side(direction).word);
    named("ROMANA-R-", short(policy), &key)
}

/// The set of what a policy applies to on this host.
#[must_use]
pub fn target_set(policy: &PolicyName) -> Name {
    named("ROMANA-T-", short(policy), policy.as_str())
}

/// The set of what a peer means.
#[must_use]
pub fn peer_set(peer: &Peer) -> Name {
    let word = match peer {
        Peer::Tenant(tenant) => tenant.as_str(),
        Peer::Segment(_, segment) => segment.as_str(),
        Peer::Cidr { .. } => "cidr",
        _ => "labels",
    };
    // Every field is in the debug form, quoted where it is text.
    named("ROMANA-G-", word, &format!("{peer:?}"))
}

/// The set of ports of a name.
#[must_use]
pub fn port_set(name: &str, protocol: &str) -> Name {
    named(PORTS, name, &format!("{name} {protocol}"))
}

/// The part of a policy's name that people look for: `kube.shop.web` is `web`.
fn short(policy: &PolicyName) -> &str {
    policy.as_str().rsplit('.').next().unwrap_or_default()
}

/// The prefix, up to 8 letters of `word`, and 10 of a digest of `key` (50 bits).
fn named(prefix: &str, word: &str, key: &str) -> Name {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let plain = |c: &char| c.is_ascii_alphanumeric() || *c == '_' || *c == '-';
    let mut name = prefix.to_owned();
    name.extend(word.chars().filter(plain).take(8));
    name.push('-');
    let Digest(digest) = Digest::of(key.as_bytes());
    let bits = digest.iter().take(8).fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    for at in 0..10_u32 {
        let letter = LETTERS[(bits >> (5 * at) & 31) as usize];
        // Writing to a string does not fail.
        _ = name.write_char(char::from(letter));
    }
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_say_what_they_are_of() {
        let policy = PolicyName::from("kube.shop.frontend-to-backend");
        let chain = policy_chain(&policy, Direction::Ingress);
        assert!(chain.starts_with("ROMANA-I-frontend-") && chain.len() <= 28, "{chain}");
        assert!(target_set(&policy).len() <= 30);
        let other =
            policy_chain(&PolicyName::from("kube.other.frontend-to-backend"), Direction::Ingress);
        assert_ne!(chain, other);
        for direction in [Direction::Ingress, Direction::Egress] {
            let Side { closed, judge, policies, deny, denied, host_judge, host_policies, .. } =
                side(direction);
            for name in [closed, judge, policies, deny, denied, host_judge, host_policies] {
                assert!(name.len() <= 28, "{name}");
            }
        }
    }
}

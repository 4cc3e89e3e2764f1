//! Names of chains and sets. A chain's name has at most 28 bytes, a set's 31 including the digit of its
//! family; longer names are truncated and distinguished by a digest.

use std::fmt::Write as _;

use romana_statemachine::Digest;
use romana_statemachine::name::PolicyName;
use romana_statemachine::policy::Peer;
use romana_statemachine::policy::evaluate::Direction;

use super::model::Name;
pub use super::model::{LINKS, PORTS};

/// Hook for packets to the host.
pub const INPUT: &str = "ROMANA-INPUT";
/// Hook for packets from the host.
pub const OUTPUT: &str = "ROMANA-OUTPUT";
/// Hook for forwarded packets.
pub const FORWARD: &str = "ROMANA-FORWARD";
/// The built-in chains, and our chain that is the first jump of each.
pub const HOOKS: [(&str, &str); 3] = [("INPUT", INPUT), ("FORWARD", FORWARD), ("OUTPUT", OUTPUT)];
/// The last chain for packets of our endpoints: accepts them whatever the host's own rules are.
pub const PASS: &str = "ROMANA-PASS";

/// Endpoints of this host.
pub const LOCAL: &str = "ROMANA-local";
/// Endpoints of Kubernetes namespaces whose pods are known.
pub const KUBERNETES: &str = "ROMANA-kubernetes";

/// Names for a direction.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    /// Set: what is isolated in this direction.
    pub closed: &'static str,
    /// Chain: allows or drops.
    pub judge: &'static str,
    /// Chain: the policies.
    pub policies: &'static str,
    /// Chain: drops.
    pub deny: &'static str,
    /// Chain: counts drops by policy.
    pub denied: &'static str,
    /// Chain: `judge` for this host itself.
    pub host_judge: &'static str,
    /// Chain: policies of this host itself.
    pub host_policies: &'static str,
    /// Prefix of policies' chains.
    pub policy: &'static str,
    /// For messages.
    pub word: &'static str,
}

/// The names for a direction.
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

/// A policy's chain for a direction.
#[must_use]
pub fn policy_chain(policy: &PolicyName, direction: Direction) -> Name {
    named(side(direction).policy, short(policy), policy.as_str())
}

/// The chain of a single rule of a policy, by index.
#[must_use]
pub fn rule_chain(policy: &PolicyName, direction: Direction, place: usize) -> Name {
    let key = format!("{policy} {} {place}", side(direction).word);
    named("ROMANA-R-", short(policy), &key)
}

/// The set of a policy's targets on this host.
#[must_use]
pub fn target_set(policy: &PolicyName) -> Name {
    named("ROMANA-T-", short(policy), policy.as_str())
}

/// The set of addresses that match a peer.
#[must_use]
pub fn peer_set(peer: &Peer) -> Name {
    let word = match peer {
        Peer::Tenant(tenant) => tenant.as_str(),
        Peer::Segment(_, segment) => segment.as_str(),
        Peer::Cidr { .. } => "cidr",
        _ => "labels",
    };
    // The debug form contains every field, with text quoted.
    named("ROMANA-G-", word, &format!("{peer:?}"))
}

/// The set of endpoints' ports with a name.
#[must_use]
pub fn port_set(name: &str, protocol: &str) -> Name {
    named(PORTS, name, &format!("{name} {protocol}"))
}

/// The significant part of a policy's name: `kube.shop.web` is `web`.
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

//! Policy counters, from the output of `iptables-save -c`.
//!
//! Allowed: the marking rules of a policy's own chains and of the chains that only it calls. Denied: the
//! policy's line in the chain of dropped packets. Both count since the rule was last written.

use std::collections::BTreeMap;

use romana_statemachine::policy::evaluate::Direction;

use super::names::side;

/// A counter of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    pub policy: String,
    /// `in` or `out`.
    pub direction: &'static str,
    /// `false`: denied.
    pub allowed: bool,
    pub packets: u64,
    pub bytes: u64,
}

/// Parses the counters and adds those of both families.
#[must_use]
pub fn counters(text: &str) -> Vec<Counter> {
    let mut owners: BTreeMap<&str, (String, &'static str)> = BTreeMap::new();
    let mut sums: BTreeMap<(String, &'static str, bool), (u64, u64)> = BTreeMap::new();
    let parsed = || text.lines().filter_map(parse);
    // Callers of chains must be known before rules are counted.
    for (_, chain, rule) in parsed() {
        let directions = [Direction::Ingress, Direction::Egress].map(side);
        if let Some(side) = directions.iter().find(|side| chain.starts_with(side.policy)) {
            if let Some(name) = between(rule, "\"policy ", ", revision ") {
                owners.insert(chain, (name.to_owned(), side.word));
            } else if let (Some(owner), Some(called)) =
                (owners.get(chain).cloned(), rule.rsplit_once("-j ROMANA-R-").map(|(_, name)| name))
            {
                let called = rule.len() - called.len() - "ROMANA-R-".len();
                owners.insert(&rule[called..], owner);
            }
        }
    }
    for ((packets, bytes), chain, rule) in parsed() {
        let allowed = owners.get(chain).filter(|_| rule.contains("-j MARK"));
        let key = match allowed {
            Some((name, word)) => Some((name.clone(), *word, true)),
            None => denied(chain, rule),
        };
        if let Some(key) = key {
            let sum = sums.entry(key).or_default();
            *sum = (sum.0 + packets, sum.1 + bytes);
        }
    }
    let counter = |((policy, direction, allowed), (packets, bytes))| Counter {
        policy,
        direction,
        allowed,
        packets,
        bytes,
    };
    sums.into_iter().map(counter).collect()
}

fn denied(chain: &str, rule: &str) -> Option<(String, &'static str, bool)> {
    let directions = [Direction::Ingress, Direction::Egress].map(side);
    let side = directions.into_iter().find(|side| chain == side.denied)?;
    // Skip logging rules, which precede the counting ones.
    let counts = !rule.contains("-j ");
    let name = between(rule, "\"policy ", "\"").filter(|_| counts)?;
    Some((name.trim_end_matches(", for hosts").to_owned(), side.word, false))
}

/// Parses `[packets:bytes] -A CHAIN rule`.
fn parse(line: &str) -> Option<((u64, u64), &str, &str)> {
    let (counts, rest) = line.strip_prefix('[')?.split_once("] -A ")?;
    let (packets, bytes) = counts.split_once(':')?;
    let (chain, rule) = rest.split_once(' ').unwrap_or((rest, ""));
    Some(((packets.parse().ok()?, bytes.parse().ok()?), chain, rule))
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_policy() {
        let text = r#"*filter
:ROMANA-I-web-abc - [0:0]
[9:900] -A ROMANA-I-web-abc -m comment --comment "policy kube.x.web, revision 12"
[3:300] -A ROMANA-I-web-abc -p tcp -m comment --comment "from anybody" -j MARK --set-xmark 0x1/0x1
[4:400] -A ROMANA-I-web-abc -m set --match-set ROMANA-G-x4 src -j ROMANA-R-web-def
[2:200] -A ROMANA-R-web-def -p udp -j MARK --set-xmark 0x1/0x1
[5:500] -A ROMANA-DENIED-IN -m set --match-set T4 dst -m comment --comment "policy kube.x.web"
[5:500] -A ROMANA-DENIED-IN -m set --match-set T4 dst -m comment --comment "policy kube.x.web" -j NFLOG
[1:100] -A FORWARD -j ROMANA-FORWARD
COMMIT
"#;
        let of = |allowed, packets, bytes| Counter {
            policy: "kube.x.web".into(),
            direction: "in",
            allowed,
            packets,
            bytes,
        };
        assert_eq!(counters(text), [of(false, 5, 500), of(true, 5, 500)]);
    }
}

//! Counters of policies, from what `iptables-save -c` prints.
//!
//! Allowed: the rules of a policy's own chains that mark, and those of the chains that it alone calls.
//! Denied: the policy's line in the chain of what is dropped. Both since the rule was written last.

use std::collections::BTreeMap;

use romana_statemachine::policy::evaluate::Direction;

use super::names::side;

/// What a policy decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its name.
    pub policy: String,
    /// `in` or `out`.
    pub direction: &'static str,
    /// Allowed, or denied.
    pub allowed: bool,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Reads them. Both families count together.
#[must_use]
pub fn counters(text: &str) -> Vec<Counter> {
    let mut owners: BTreeMap<&str, (String, &'static str)> = BTreeMap::new();
    let mut sums: BTreeMap<(String, &'static str, bool), (u64, u64)> = BTreeMap::new();
    let parsed = || text.lines().filter_map(parse);
    // Who calls which chain is known before its rules count.
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
    // Lines that log are beside those that count.
    let counts = !rule.contains("-j ");
    let name = between(rule, "\"policy ", "\"").filter(|_| counts)?;
    Some((name.trim_end_matches(", for hosts").to_owned(), side.word, false))
}

/// `[packets:bytes] -A CHAIN rule`.
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

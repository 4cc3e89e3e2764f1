//! Reports a run over time: faults, throughput, latency. Pure: evidence in, text or one HTML page out.

mod html;
mod text;

use std::collections::BTreeMap;

use crate::evidence::{Evidence, Nanos, Outcome};
use crate::nemesis::Injected;
use crate::oracle::{LAWS, Violation};

pub use html::html;
pub use text::text;

/// Limit of intervals in a report.
const PARTS_MAX: u64 = 120;
/// Shortest interval.
const PART_MIN: Nanos = 100_000_000;

/// An interval of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    pub from: Nanos,
    /// Calls acknowledged in the interval.
    pub acked: u64,
    /// Calls refused in the interval.
    pub refused: u64,
    /// Calls that no replica accepted, or whose outcome is unknown.
    pub failed: u64,
    /// Latency of acknowledged calls, nanoseconds: median, 99th percentile, maximum; 0 if there are none.
    pub latency: [Nanos; 3],
}

/// The report of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Story {
    /// The command that reproduces it.
    pub command: String,
    /// Counts as lines of name and value.
    pub facts: Vec<(String, String)>,
    /// Length of an interval.
    pub part: Nanos,
    /// The intervals, in order.
    pub parts: Vec<Part>,
    /// Faults, by their beginning.
    pub faults: Vec<Injected>,
    /// Laws: name, description, number of violations. Those that are not in the list of laws come last.
    pub laws: Vec<(String, String, usize)>,
    pub violations: Vec<Violation>,
    /// Longest time between two acknowledged writes, and when it began.
    pub gap: (Nanos, Nanos),
}

impl Story {
    /// Creates the report of a run.
    #[must_use]
    pub fn new(
        command: String,
        facts: Vec<(String, String)>,
        evidence: &Evidence,
        violations: &[Violation],
    ) -> Self {
        let end = evidence.calls.iter().map(|call| call.returned).max().unwrap_or_default();
        let part = (end / PARTS_MAX).max(PART_MIN);
        let mut faults = evidence.faults.clone();
        faults.sort_by_key(|fault| fault.from);
        Self {
            command,
            facts,
            part,
            parts: parts(evidence, part, end),
            faults,
            laws: laws(violations),
            violations: violations.to_vec(),
            gap: longest_gap(evidence),
        }
    }

    /// The end of the last interval.
    #[must_use]
    pub fn end(&self) -> Nanos {
        self.part * self.parts.len() as u64
    }

    /// Faults that were in force in an interval.
    pub fn faults_in(&self, from: Nanos, until: Nanos) -> impl Iterator<Item = &Injected> {
        self.faults.iter().filter(move |fault| fault.from < until && fault.until > from)
    }
}

fn parts(evidence: &Evidence, part: Nanos, end: Nanos) -> Vec<Part> {
    let count = usize::try_from(end / part + 1).unwrap_or(1);
    let mut parts: Vec<Part> =
        (0..count).map(|at| Part { from: at as u64 * part, ..Part::default() }).collect();
    let mut latencies: BTreeMap<usize, Vec<Nanos>> = BTreeMap::new();
    for call in &evidence.calls {
        let at = usize::try_from(call.returned / part).unwrap_or_default();
        let Some(part) = parts.get_mut(at) else { continue };
        match call.outcome {
            Outcome::Acked { .. } => {
                part.acked += 1;
                latencies.entry(at).or_default().push(call.returned - call.invoked);
            }
            Outcome::Refused { .. } => part.refused += 1,
            Outcome::Unavailable | Outcome::Unknown => part.failed += 1,
        }
    }
    for (at, mut all) in latencies {
        all.sort_unstable();
        let quantile = |percent: usize| all[(all.len() - 1) * percent / 100];
        parts[at].latency = [quantile(50), quantile(99), quantile(100)];
    }
    parts
}

fn laws(violations: &[Violation]) -> Vec<(String, String, usize)> {
    let count = |name: &str| violations.iter().filter(|broken| broken.law == name).count();
    let mut laws: Vec<(String, String, usize)> = LAWS
        .iter()
        .map(|law| (law.name.to_owned(), law.says.to_owned(), count(law.name)))
        .collect();
    for Violation { law, .. } in violations {
        if !laws.iter().any(|(name, ..)| name == law) {
            laws.push(((*law).to_owned(), String::from("seen while it ran"), count(law)));
        }
    }
    laws
}

/// The longest time between two acknowledged writes, and when it began.
#[must_use]
pub fn longest_gap(evidence: &Evidence) -> (Nanos, Nanos) {
    let acked = evidence
        .calls
        .iter()
        .filter(|call| call.command().is_some() && matches!(call.outcome, Outcome::Acked { .. }));
    let mut times: Vec<Nanos> = acked.map(|call| call.returned).collect();
    times.sort_unstable();
    let gaps = times.windows(2).map(|pair| (pair[1] - pair[0], pair[0]));
    gaps.max_by_key(|(gap, _)| *gap).unwrap_or_default()
}

/// Seconds with one decimal.
fn seconds(nanos: Nanos) -> String {
    let tenths = nanos / 100_000_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// Milliseconds with significant digits.
fn millis(nanos: Nanos) -> String {
    match nanos {
        0 => String::from("-"),
        1..10_000_000 => format!("{:.1}", nanos as f64 / 1e6),
        _ => (nanos / 1_000_000).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use romana_statemachine::Revision;

    use super::*;
    use crate::evidence::{Ask, Call};

    /// Two seconds with a call every ten milliseconds; none is answered for half a second.
    pub(super) fn story() -> Story {
        let mut evidence = Evidence::default();
        for n in 0..200_u64 {
            let invoked = n * 10_000_000;
            let outcome = match n {
                80..130 => Outcome::Unknown,
                n if n % 20 == 0 => Outcome::Refused { code: String::from("AddressInUse") },
                _ => Outcome::Acked { revision: Revision(n), changed: None, held: None },
            };
            let ask = Ask::Command(Box::new(crate::workload::world().remove(0)));
            let returned = invoked + 1_000_000 + n * 10_000;
            evidence.calls.push(Call {
                client: 1,
                invoked,
                returned,
                ask,
                outcome,
                retried: false,
            });
        }
        let fault = |name: &str, from, until| Injected {
            fault: name.parse().expect("a fault"),
            hit: String::from("replica <2>"),
            from,
            until,
        };
        evidence.faults = vec![
            fault("pause", 1_100_000_000, 1_200_000_000),
            fault("kill-leader", 800_000_000, 1_000_000_000),
        ];
        let broken = Violation { law: "acked", what: String::from("a & b") };
        let facts = vec![(String::from("calls"), String::from("200"))];
        Story::new(String::from("chaos run --seed 1"), facts, &evidence, &[broken])
    }

    #[test]
    fn a_story_has_all_of_it() {
        let story = story();
        assert_eq!(story.parts.iter().map(|part| part.acked).sum::<u64>(), 143);
        assert_eq!(story.parts.iter().map(|part| part.refused).sum::<u64>(), 7);
        assert_eq!(story.parts.iter().map(|part| part.failed).sum::<u64>(), 50);
        assert_eq!(story.faults[0].fault.to_string(), "kill-leader");
        assert_eq!(story.laws.iter().filter(|(.., broken)| *broken > 0).count(), 1);
        let (gap, at) = story.gap;
        assert!((510_000_000..=520_000_000).contains(&gap) && at < 800_000_000, "{gap} {at}");
    }
}

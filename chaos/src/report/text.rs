//! The timeline as text: one line for each interval.

use std::fmt::Write;

use super::{Story, millis, seconds};

/// Limit of lines.
const LINES_MAX: usize = 60;
/// Width of the bar of acknowledged calls.
const BAR: u64 = 24;

/// Renders the timeline.
#[must_use]
pub fn text(story: &Story) -> String {
    let merged = story.parts.len().div_ceil(LINES_MAX).max(1);
    let lines: Vec<_> = story.parts.chunks(merged).collect();
    let acked = |parts: &[super::Part]| parts.iter().map(|part| part.acked).sum::<u64>();
    let most = lines.iter().map(|parts| acked(parts)).max().unwrap_or(0).max(1);
    let mut text = String::new();
    // Writing to a String cannot fail.
    _ = writeln!(
        text,
        "{:>7}  {:>6} {:>6} {:>6}  {:>6} {:>6} {:>6}  {:24}  faults",
        "s", "acked", "refus.", "failed", "p50 ms", "p99", "max", ""
    );
    for parts in lines {
        let (from, until) = (parts[0].from, parts[0].from + story.part * parts.len() as u64);
        let sum = |of: fn(&super::Part) -> u64| parts.iter().map(of).sum::<u64>();
        let most_of = |at: usize| parts.iter().map(|part| part.latency[at]).max().unwrap_or(0);
        let faults: Vec<String> = story
            .faults_in(from, until)
            .map(|it| match it.from >= from {
                true => format!("{} ({})", it.fault, it.hit),
                false => format!("{} …", it.fault),
            })
            .collect();
        let line = format!(
            "{:>7}  {:>6} {:>6} {:>6}  {:>6} {:>6} {:>6}  {:24}  {}",
            seconds(from),
            sum(|part| part.acked),
            sum(|part| part.refused),
            sum(|part| part.failed),
            millis(most_of(0)),
            millis(most_of(1)),
            millis(most_of(2)),
            "#".repeat(usize::try_from(acked(parts) * BAR / most).unwrap_or_default()),
            faults.join(", ")
        );
        _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_run_as_text() {
        let text = super::text(&super::super::tests::story());
        let wanted = include_str!("../../tests/timeline.txt");
        assert_eq!(text, wanted, "\n{text}");
    }
}

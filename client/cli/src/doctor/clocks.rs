//! Checks whether the replicas' clocks agree, and whether log time matches them.

use romana_client::model::{ClocksStatus, ClusterStatus};
use romana_statemachine::time::Span;

use super::{Finding, good, warning};

/// Offset of log time without a warning, milliseconds.
const LOG_OFF_MAX: u64 = 10_000;
const SET: &str = "set it: is NTP running there? (chronyc tracking, timedatectl)";

/// No findings if the cluster does not report its clocks.
pub(super) fn check(cluster: &ClusterStatus) -> Vec<Finding> {
    let Some(clocks) = &cluster.clocks else { return Vec::new() };
    let mut findings = Vec::new();
    let name = |id: u64| {
        let member = cluster.members.iter().find(|member| member.id == id);
        let peer = member.map_or("", |member| &member.peer);
        format!("replica {id} ({peer})")
    };
    if !clocks.agreed {
        findings.push(disagree(clocks, cluster.members.len(), name));
    }
    for clock in clocks.members.iter().filter(|clock| clock.far) {
        let what = format!("the clock of {} is {}", name(clock.id), off(clock.ahead_ms));
        let what = format!("{what} the others', and is ignored");
        findings.push(warning("clocks", what).remedy(SET));
    }
    if clocks.log_ahead_ms.unsigned_abs() > LOG_OFF_MAX {
        let what =
            format!("log time is {} what the replicas' clocks say", off(clocks.log_ahead_ms));
        let remedy = if clocks.log_ahead_ms > 0 {
            "nothing: it goes on at half the pace until it is right; delays take twice as long"
        } else {
            "nothing: it gains a sixteenth until it is right"
        };
        findings.push(warning("clocks", what).remedy(remedy));
    }
    if findings.is_empty() {
        let widest = clocks.members.iter().map(|clock| clock.ahead_ms.unsigned_abs()).max();
        let what = format!("they agree, within {} ms", widest.unwrap_or(0));
        findings.push(good("clocks", what));
    }
    findings
}

fn disagree(clocks: &ClocksStatus, members: usize, name: impl Fn(u64) -> String) -> Finding {
    let known = clocks.members.len();
    if known <= members / 2 {
        let what = format!("only {known} of {members} are known, which is no majority");
        return warning("clocks", what)
            .remedy("start the replicas, or update them to this release");
    }
    let all = clocks.members.iter();
    let all: Vec<String> = all
        .map(|clock| format!("{} is {} log time", name(clock.id), off(clock.ahead_ms)))
        .collect();
    let what = format!("no majority of them agree: {}", all.join(", "));
    let remedy = "set them: is NTP running? Until then nothing is purged by age";
    warning("clocks", what).remedy(remedy)
}

/// `1h30s ahead of`, rounded: an offset of days without seconds, an offset of seconds without milliseconds.
fn off(ahead_ms: i64) -> String {
    let ms = ahead_ms.unsigned_abs();
    let unit = match ms {
        0..1_000 => 1,
        1_000..86_400_000 => 1_000,
        _ => 60_000,
    };
    let side = if ahead_ms < 0 { "behind" } else { "ahead of" };
    format!("{} {side}", Span(ms / unit * unit))
}

#[cfg(test)]
mod tests {
    use romana_client::model::{MemberClock, MemberStatus};

    use super::*;

    fn said(agreed: bool, log_ahead_ms: i64, clocks: &[(u64, i64, bool)]) -> Vec<String> {
        let member =
            |id| MemberStatus { id, peer: format!("10.0.0.{id}:9601"), ..MemberStatus::default() };
        let clock = |(id, ahead_ms, far): &(u64, i64, bool)| MemberClock {
            id: *id,
            ahead_ms: *ahead_ms,
            far: *far,
        };
        let members = clocks.iter().map(clock).collect();
        let clocks = ClocksStatus { agreed, log_ahead_ms, members, ..ClocksStatus::default() };
        let cluster = ClusterStatus {
            members: (1..=3).map(member).collect(),
            clocks: Some(clocks),
            ..ClusterStatus::default()
        };
        check(&cluster).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn clocks_that_are_off_are_named() {
        let three = [(1, 0, false), (2, 2, false), (3, -7, false)];
        assert_eq!(said(true, 0, &three), ["they agree, within 7 ms"]);
        let one_off = [(1, 0, false), (2, 2, false), (3, 3_600_050, true)];
        assert_eq!(
            said(true, 0, &one_off),
            ["the clock of replica 3 (10.0.0.3:9601) is 1h ahead of the others', and is ignored"]
        );
        assert_eq!(
            said(false, 0, &[(1, 0, false), (2, 90_000, false), (3, -90_500, false)]),
            [
                "no majority of them agree: replica 1 (10.0.0.1:9601) is 0s ahead of log time, replica 2 \
              (10.0.0.2:9601) is 1m30s ahead of log time, replica 3 (10.0.0.3:9601) is 1m30s behind log time"
            ]
        );
        assert_eq!(
            said(false, 0, &[(1, 0, false)]),
            ["only 1 of 3 are known, which is no majority"]
        );
        assert_eq!(
            said(true, 3_600_000, &three),
            ["log time is 1h ahead of what the replicas' clocks say"]
        );
        assert_eq!(
            said(true, -34_559_999_503, &three),
            ["log time is 399d23h59m behind what the replicas' clocks say"]
        );
        assert_eq!(check(&ClusterStatus::default()), []);
    }
}

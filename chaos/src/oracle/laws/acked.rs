//! Law 1: acknowledged changes are in the history, at the revision of the answer.

use romana_statemachine::Command;

use super::super::timeline::Span;
use super::super::{Case, Law, Verdict};
use crate::evidence::{Ask, Call, HeldAddress, Outcome};

pub(in super::super) const LAW: Law = Law {
    name: "acked",
    says: "an acknowledged answer agrees with the history at its revision",
    check,
};

fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let timeline = &case.timeline;
    for call in &case.evidence.calls {
        let Outcome::Acked { revision, held, .. } = &call.outcome else { continue };
        if *revision > timeline.last {
            let last = timeline.last;
            let what =
                format!("{}: answered at {revision}, the history ends at {last}", told(call));
            verdict.broken(what);
            continue;
        }
        match &call.ask {
            // Not found: the answer does not contain the revision of the change, so `real-time` judges it.
            Ask::Read(_) if held.is_none() => {}
            // Judged by `local-reads` and `who`.
            Ask::Local(..) | Ask::Who(_) => {}
            Ask::Read(name) => {
                agree(call, held.as_ref(), timeline.held_at(name, *revision), verdict);
            }
            Ask::Command(command) => match &**command {
                Command::AllocateAddress(ask) => {
                    if held.as_ref().is_some_and(|held| held.host != ask.host) {
                        verdict.broken(format!("{}: another host was answered", told(call)));
                    }
                    agree(call, held.as_ref(), timeline.held_at(&ask.name, *revision), verdict);
                }
                Command::ReleaseAddress(ask) => {
                    agree(call, None, timeline.held_at(&ask.address, *revision), verdict);
                }
                _ => {}
            },
        }
    }
}

/// A call as text.
pub(super) fn told(call: &Call) -> String {
    format!("client {} at {} ms, {:?}", call.client, call.invoked / 1_000_000, call.ask)
}

/// Checks that an answer agrees with the history.
pub(super) fn agree(
    call: &Call,
    answer: Option<&HeldAddress>,
    truth: Option<&Span>,
    verdict: &mut Verdict,
) {
    let same = match (answer, truth) {
        (None, None) => true,
        (Some(held), Some(span)) => {
            held.name == span.name
                && held.ip == span.ip
                && held.host == span.host
                && held.revision == span.from
        }
        _ => false,
    };
    if !same {
        let what =
            format!("{}: answered {:?}, the history has {truth:?}", told(call), call.outcome);
        verdict.broken(what);
    }
}

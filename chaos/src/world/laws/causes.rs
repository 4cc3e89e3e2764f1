//! Law 7: nothing is released on a guess.

use romana_statemachine::command::ObjectKey;
use romana_statemachine::event::ReleaseReason;
use romana_statemachine::{Command, Event};

use super::super::{Law, World};

pub(in super::super) const LAW: Law = Law {
    name: "causes",
    says: "every release is a request's, the owning host's report's or an eviction's, and says which",
    check,
};

fn check(world: &World) -> Result<(), String> {
    for (command, outcome, records) in &world.last {
        for record in records {
            let Event::AddressReleased(gone) = &record.event else { continue };
            let right = match (command, gone.reason) {
                (Command::ReleaseAddress(ask), ReleaseReason::Requested) => {
                    ask.address == gone.name || ask.address.as_str() == gone.ip.to_string()
                }
                (Command::ReportAttachments(report), ReleaseReason::Reported(revision)) => {
                    report.host == gone.host && report.revision == revision
                }
                (Command::RemoveHost(remove), ReleaseReason::Evicted) => {
                    remove.force && remove.name == gone.host
                }
                (Command::WithdrawObject(withdraw), ReleaseReason::Evicted) => {
                    withdraw.object == ObjectKey::Host(gone.host.clone())
                }
                _ => false,
            };
            if !right {
                return Err(format!("{command:?} caused {gone:?}"));
            }
        }
        if outcome.result.is_err() && !records.is_empty() {
            return Err(format!("{command:?} was refused and caused {records:?}"));
        }
    }
    Ok(())
}

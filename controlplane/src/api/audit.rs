//! `/v1/audit/who` and `/v1/audit/log`: who held an address, and what happened to an object.

use std::net::IpAddr;

use jiff::Timestamp;
use romana_replica::audit::{Audit, AuditError, Page, lasting};
use romana_statemachine::audit::{Filter, Kind, Moment, Tenure};
use romana_statemachine::name::{Actor, HostName, TenantId};
use romana_statemachine::{Event, Record, Revision, Topic};
use romana_storage::history::HistoryError;
use tokio::time::timeout_at;

use super::call::Call;
use super::head::bad_query;
use super::operation::{CONSISTENCY, CONTINUE, LIMIT, Operation, Param, Verb, handler, of};
use super::{addresses, reply};
use crate::budget::Cancel;
use crate::error::{Code, Failure};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new(
        Verb::Get,
        "/v1/audit/who",
        "audit",
        "Every holder of an address, oldest first: from when to when, where, for whom, who asked, and \
         why it ended.",
        &[(200, of::<romana_api::Page<Tenure>>)],
        handler!(who),
    )
    .query(&[
        Param::required("ip", "The address"),
        Param::optional("at", "Only the holder at this revision or RFC 3339 time"),
        LIMIT,
        CONTINUE,
        CONSISTENCY,
    ]),
    Operation::new(
        Verb::Get,
        "/v1/audit/log",
        "audit",
        "Records of the history, oldest first: those that fit everything that is asked for. A page may \
         have fewer than `limit` items, even none, and a `continue`.",
        &[(200, of::<romana_api::Page<Record>>)],
        handler!(log),
    )
    .query(&[
        Param::optional("from", "Not before this revision or RFC 3339 time"),
        Param::optional("to", "Not after this revision or RFC 3339 time"),
        Param::optional("type", "Events of this name (`AddressAllocated`) or topic (`addresses`)"),
        Param::optional("ip", "Events that concern this address, or a range around it"),
        Param::optional("name", "Events that concern the address, policy or VIP of this name"),
        Param::optional("host", "Events that concern this host"),
        Param::optional("tenant", "Events that concern this tenant"),
        Param::optional("actor", "What this actor asked for"),
        LIMIT,
        CONTINUE,
        CONSISTENCY,
    ]),
];

/// One page of a long answer in the API's form.
fn shown<T>((page, oldest): (Page<T>, Option<Moment>), revision: Revision) -> romana_api::Page<T> {
    let next = page.next.map(|next| next.to_string());
    romana_api::Page { items: page.items, revision, next, oldest }
}

/// Refuses a query about a revision before the kept history, because no answer would be correct.
fn still_kept(oldest: Option<Moment>, last: Revision) -> Result<(), Failure> {
    match oldest.filter(|oldest| oldest.revision > 1 && last < oldest.revision) {
        None => Ok(()),
        Some(Moment { revision, at }) => {
            let time = i64::try_from(at.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
            let time = time.map_or_else(String::new, |time| format!(", of {time:.3}"));
            let message =
                format!("revision {last} is no longer kept: the oldest is {revision}{time}");
            let failure = Failure::new(Code::RevisionCompacted, message);
            Err(failure.with("oldest", revision.get()).with("oldest_at", at.0))
        }
    }
}

async fn who(call: Call) -> reply::Result {
    let text = addresses::required(&call, "ip")?;
    let ip: IpAddr = text.parse().map_err(|_| bad_query("ip", text, "it is not an address"))?;
    let (revision, live) = call.look(|state| (state.revision(), lasting(state, ip))).await?;
    let (at, limit) = (moment(&call, "at", revision).await?, call.limit()?);
    let after = call.query_as::<Revision>("continue")?.unwrap_or(Revision(0));
    let ask = move |audit: &Audit| match at {
        Some(at) => audit
            .who_at(ip, at, revision)
            .map(|held| Page { items: held.into_iter().collect(), next: None }),
        None => audit.who(ip, revision, after, limit),
    };
    let ask = move |audit: &Audit, _: &Cancel| Ok((ask(audit)?, audit.kept()?));
    let (mut page, oldest) = ask_audit(&call, revision, ask).await?;
    still_kept(oldest, at.unwrap_or(revision))?;
    if page.items.is_empty() && after == 0 && at.is_none_or(|at| at == revision) {
        // Allocated before the oldest kept record.
        page.items.extend(live);
    }
    reply::ok(revision, &shown((page, oldest), revision))
}

async fn log(call: Call) -> reply::Result {
    let revision = call.look(romana_statemachine::State::revision).await?;
    let filter = filter(&call)?;
    let from = moment(&call, "from", revision).await?;
    let from = if call.query("from").is_some_and(|text| text.parse::<Revision>().is_err()) {
        // For a time: the first record at or after it.
        from.map(|last| last.plus(1))
    } else {
        from
    };
    let upto = moment(&call, "to", revision).await?.unwrap_or(revision);
    let next = call.query_as::<Revision>("continue")?;
    let start = next.or(from).unwrap_or(Revision(0));
    let limit = call.limit()?;
    let ask = move |audit: &Audit, cancel: &Cancel| {
        let page = audit.log(&filter, start, upto, limit, cancel)?;
        let oldest = audit.kept()?;
        // Serialize the large page here, under the pool's permit, and not on a runtime thread.
        Ok((reply::ok(revision, &shown((page, oldest), revision)), oldest))
    };
    let (answer, oldest) = ask_audit(&call, upto, ask).await?;
    still_kept(oldest, upto)?;
    answer
}

fn filter(call: &Call) -> Result<Filter, Failure> {
    let checked = |key, check: Result<(), romana_statemachine::Refusal>, text: &str| {
        check.map_err(|why| bad_query(key, text, &why.to_string()))
    };
    let kind = call.query("type").map(|name| (name, Kind::from_name(name)));
    if let Some((name, Kind::Name(_))) = &kind
        && !Event::TABLE.iter().any(|meta| meta.name == *name)
    {
        let topics = Topic::ALL.map(Topic::as_str).join(", ");
        let why = format!("it is no event, nor one of the topics {topics}");
        return Err(bad_query("type", name, &why));
    }
    let host = call.query("host").map(HostName::from);
    if let Some(host) = &host {
        checked("host", host.check(), host.as_str())?;
    }
    let tenant = call.query("tenant").map(TenantId::from);
    if let Some(tenant) = &tenant {
        checked("tenant", tenant.check(), tenant.as_str())?;
    }
    Ok(Filter {
        kind: kind.map(|(_, kind)| kind),
        ip: call.query_as("ip")?,
        name: call.query("name").map(Into::into),
        host,
        tenant,
        actor: call.query("actor").map(Actor::from),
    })
}

/// Resolves a revision, or the last one that was not after a time.
pub(super) async fn moment(
    call: &Call,
    name: &'static str,
    last: Revision,
) -> Result<Option<Revision>, Failure> {
    let Some(text) = call.query(name) else { return Ok(None) };
    if let Ok(revision) = text.parse::<Revision>() {
        if revision > last {
            let message = format!("revision {revision} is after the last one, {last}");
            return Err(Failure::new(Code::RevisionAhead, message).with("revision", last.get()));
        }
        return Ok(Some(revision));
    }
    let time: Timestamp = text
        .parse()
        .map_err(|_| bad_query(name, text, "it is no revision and no RFC 3339 time"))?;
    let at = romana_statemachine::Millis(u64::try_from(time.as_millisecond()).unwrap_or(0));
    let revision = ask_audit(call, Revision(0), move |audit, _| audit.revision_at(at)).await?;
    Ok(Some(revision.min(last)))
}

/// Queries this replica's audit, once it has indexed up to `upto`.
pub(super) async fn ask_audit<T: Send + 'static>(
    call: &Call,
    upto: Revision,
    ask: impl FnOnce(&Audit, &Cancel) -> Result<T, AuditError> + Send + 'static,
) -> Result<T, Failure> {
    let audit = call.api.replica().audit().clone();
    // On timeout, the query itself reports how far the index reaches.
    _ = timeout_at(call.deadline, audit.reached(upto)).await;
    let lookups = &call.api.budgets().lookups;
    call.work(lookups, move |cancel| ask(&audit, cancel)).await?.map_err(failure)
}

fn failure(error: AuditError) -> Failure {
    let message = error.to_string();
    match error {
        AuditError::Rebuilding { reached } => {
            Failure::new(Code::IndexRebuilding, message).with("reached", reached.get())
        }
        AuditError::History(error) => history_failure(&error),
        AuditError::Stuck(error) => history_failure(&error),
        AuditError::Cancelled => Failure::new(Code::Internal, message),
    }
}

/// The failure for an unreadable history.
pub(super) fn history_failure(error: &HistoryError) -> Failure {
    match error {
        HistoryError::Compacted { oldest } => {
            let message = format!("that is no longer kept: the oldest revision is {oldest}");
            Failure::new(Code::RevisionCompacted, message).with("oldest", oldest.get())
        }
        error => {
            let damaged = matches!(error, HistoryError::Damaged { .. });
            let code = if damaged { Code::HistoryDamaged } else { Code::Internal };
            Failure::new(code, format!("the history cannot be read: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use romana_statemachine::Millis;

    use super::*;

    #[test]
    fn nothing_is_said_of_what_is_no_longer_kept() {
        let kept = |revision| Some(Moment { revision, at: Millis(1_700_000_000_000) });
        for (oldest, last) in
            [(None, 0), (kept(Revision(1)), 0), (kept(Revision(7)), 7), (kept(Revision(7)), 20)]
        {
            assert!(still_kept(oldest, Revision(last)).is_ok(), "{oldest:?} {last}");
        }
        assert!(still_kept(kept(Revision(7)), Revision(6)).is_err());
    }
}

//! The digest covers every field: takes one record of each kind of event, and changes each of
//! its values in turn. The digest must become invalid; a digest that skips a field would hide
//! a difference between replicas.

use std::collections::BTreeSet;

use romana_statemachine::{Digest, Record};
use serde_json::Value;

use super::super::{Case, Law, Verdict};

pub(in super::super) const LAW: Law = Law {
    name: "digest",
    says: "no value of any record can be changed without its digest becoming wrong",
    check,
};

fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let mut kinds = BTreeSet::new();
    let mut previous = Digest::default();
    for record in &case.witness.records {
        let shown = serde_json::to_value(record).unwrap_or_default();
        let kind = kind(&shown["event"]);
        // A record that is invalid as it is belongs to the law `chain`.
        if record.follows(&previous) && kinds.insert(kind.clone()) {
            for path in unnoticed(&shown, &|record| record.follows(&previous)) {
                verdict.broken(format!("{kind}: {path} can be changed"));
            }
        }
        previous = record.digest;
    }
}

fn kind(event: &Value) -> String {
    let named = event.as_object().and_then(|object| object.keys().next().cloned());
    named.unwrap_or_else(|| event.as_str().unwrap_or_default().to_owned())
}

/// Paths of values that can be changed without making the record invalid.
fn unnoticed(shown: &Value, is_right: &dyn Fn(&Record) -> bool) -> Vec<String> {
    let mut paths = Vec::new();
    leaves(shown, String::new(), &mut paths);
    let unnoticed = |path: &String| {
        let Some(value) = shown.pointer(path) else { return false };
        others(value).into_iter().any(|other| {
            let mut changed = shown.clone();
            if let Some(place) = changed.pointer_mut(path) {
                *place = other;
            }
            // Skip changes that do not parse, or parse to the same record.
            let record = serde_json::from_value::<Record>(changed).ok();
            let record = record.filter(|it| serde_json::to_value(it).ok().as_ref() != Some(shown));
            record.is_some_and(|record| is_right(&record))
        })
    };
    paths.into_iter().filter(unnoticed).collect()
}

fn leaves(value: &Value, path: String, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let key = key.replace('~', "~0").replace('/', "~1");
                leaves(value, format!("{path}/{key}"), found);
            }
        }
        Value::Array(items) => {
            for (at, value) in items.iter().enumerate() {
                leaves(value, format!("{path}/{at}"), found);
            }
        }
        _ => found.push(path),
    }
}

/// Other values of the same type.
fn others(value: &Value) -> Vec<Value> {
    match value {
        Value::Bool(is) => vec![(!is).into()],
        Value::Number(number) => {
            number.as_u64().map(|n| Value::from(n.wrapping_add(1))).into_iter().collect()
        }
        Value::String(text) => {
            let longer = ["x", "1"].map(|more| format!("{text}{more}"));
            longer.into_iter().chain(another_digit(text)).map(Value::from).collect()
        }
        _ => Vec::new(),
    }
}

/// A text with another first digit: addresses, prefixes and digests stay well-formed.
fn another_digit(text: &str) -> Option<String> {
    let at = text.find(|c: char| c.is_ascii_digit())?;
    let digit = text[at..].chars().next()?.to_digit(10)?;
    let other = char::from_digit((digit + 1) % 10, 10)?;
    Some(format!("{}{other}{}", &text[..at], &text[at + 1..]))
}

#[cfg(test)]
mod tests {
    use romana_statemachine::event::AddressReleased;
    use romana_statemachine::{Actor, Event, Index, Millis, Revision};

    use super::*;

    /// A digest that skips any one field is detected.
    #[test]
    fn what_a_digest_skips_is_named() {
        let event = Event::AddressReleased(AddressReleased {
            name: "a".into(),
            ip: "10.0.0.1".parse().unwrap(),
            block: "10.0.0.0/29".parse().unwrap(),
            tenant: "t".into(),
            segment: "s".into(),
            host: "h".into(),
            reason: romana_statemachine::event::ReleaseReason::Requested,
        });
        let (actor, at) = (Actor::from("me"), Millis(5));
        let digest = Record::chain(&Digest::default(), Revision(1), Index(2), at, &actor, &event);
        let record = Record { revision: Revision(1), index: Index(2), at, actor, event, digest };
        let shown = serde_json::to_value(&record).unwrap();
        assert_eq!(unnoticed(&shown, &|it| it.follows(&Digest::default())), Vec::<String>::new());
        let chain = |it: &Record, actor: &Actor, at| {
            Record::chain(&Digest::default(), it.revision, it.index, at, actor, &it.event)
                == it.digest
        };
        assert_eq!(unnoticed(&shown, &|it| chain(it, &record.actor, it.at)), ["/actor"]);
        assert_eq!(unnoticed(&shown, &|it| chain(it, &it.actor, record.at)), ["/at"]);
    }
}

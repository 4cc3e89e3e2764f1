//! Objects from outside belong to their source: an import takes nothing from an operator and removes nothing, and a
//! withdrawal removes what its source owns, and only that.

use std::collections::BTreeMap;

use romana_statemachine::command::{ImportObject, ObjectKey, Source};
use romana_statemachine::{Command, Event, Record};

use super::super::{Law, World};

pub(in super::super) const LAW: Law = Law {
    name: "imports",
    says: "an import changes no object of an operator and removes none; a withdrawal removes what its source owns",
    check,
};

/// All objects; those with a source belong to it, the others to an operator.
type Owners = BTreeMap<ObjectKey, Option<Source>>;

fn check(world: &World) -> Result<(), String> {
    let concerns = |command: &Command| {
        matches!(command, Command::ImportObject(_) | Command::WithdrawObject(_))
    };
    if !world.last.iter().any(|(command, ..)| concerns(command)) {
        return Ok(());
    }
    let new: usize = world.last.iter().map(|(.., records)| records.len()).sum();
    let mut owners = Owners::new();
    let old = world.records.len().saturating_sub(new);
    world.records[..old].iter().for_each(|record| follow(&mut owners, &record.event));
    for (command, _, records) in &world.last {
        match command {
            Command::ImportObject(import) => imported(&owners, import, records)?,
            Command::WithdrawObject(withdraw) if !records.is_empty() => {
                let source = owners.get(&withdraw.object).and_then(Option::as_ref);
                if source.is_none_or(|source| source.uid != withdraw.uid) {
                    return Err(format!("{command} removed what belongs to {source:?}"));
                }
                if let Some(other) = removed_besides(&withdraw.object, records) {
                    return Err(format!("{command} removed {other}"));
                }
            }
            _ => {}
        }
        records.iter().for_each(|record| follow(&mut owners, &record.event));
    }
    Ok(())
}

fn imported(owners: &Owners, import: &ImportObject, records: &[Record]) -> Result<(), String> {
    let key = import.object.key();
    let is_operators = owners.get(&key).is_some_and(Option::is_none);
    for record in records {
        let wrong = match &record.event {
            Event::SourceSet(set) => {
                let taken = is_operators && !is_open(&key, owners);
                set.object != key || set.source != import.source || taken
            }
            // Its labels and its info are those of its namespace and its Node.
            Event::TenantCreated(_) | Event::HostUpdated(_) => false,
            Event::EndpointSet(endpoint) => key != ObjectKey::Endpoint(endpoint.ip),
            Event::HostAdded(host) => key != ObjectKey::Host(host.name.clone()) || is_operators,
            Event::PolicySet(policy) => {
                key != ObjectKey::Policy(policy.name.clone()) || is_operators
            }
            Event::VipRequested(vip) => key != ObjectKey::Vip(vip.name.clone()) || is_operators,
            // Before its address changes.
            Event::VipUnassigned(vip) => key != ObjectKey::Vip(vip.name.clone()) || is_operators,
            _ => true,
        };
        if wrong {
            return Err(format!("the import of {key} caused {record}"));
        }
    }
    Ok(())
}

/// Whether an object may come to belong to a source although an operator made it: endpoints have one writer, the
/// importer.
fn is_open(key: &ObjectKey, owners: &Owners) -> bool {
    matches!(key, ObjectKey::Endpoint(_)) && owners.contains_key(key)
}

/// What records remove besides an object. With a host go its endpoints.
fn removed_besides(object: &ObjectKey, records: &[Record]) -> Option<ObjectKey> {
    let removed = records.iter().filter_map(|record| removed(&record.event));
    let mut others = removed.filter(|removed| removed != object);
    others.find(|other| !matches!((object, other), (ObjectKey::Host(_), ObjectKey::Endpoint(_))))
}

fn removed(event: &Event) -> Option<ObjectKey> {
    Some(match event {
        Event::HostRemoved(host) => ObjectKey::Host(host.name.clone()),
        Event::TenantDeleted(tenant) => ObjectKey::Tenant(tenant.id.clone()),
        Event::EndpointRemoved(endpoint) => ObjectKey::Endpoint(endpoint.ip),
        Event::PolicyRemoved(policy) => ObjectKey::Policy(policy.name.clone()),
        Event::VipRemoved(vip) => ObjectKey::Vip(vip.name.clone()),
        _ => return None,
    })
}

/// Keeps the owners up to date.
fn follow(owners: &mut Owners, event: &Event) {
    let made = match event {
        Event::HostAdded(host) => ObjectKey::Host(host.name.clone()),
        Event::TenantCreated(tenant) => ObjectKey::Tenant(tenant.id.clone()),
        Event::EndpointSet(endpoint) => ObjectKey::Endpoint(endpoint.ip),
        Event::PolicySet(policy) => ObjectKey::Policy(policy.name.clone()),
        Event::VipRequested(vip) => ObjectKey::Vip(vip.name.clone()),
        Event::SourceSet(set) => {
            owners.insert(set.object.clone(), Some(set.source.clone()));
            return;
        }
        event => {
            if let Some(gone) = removed(event) {
                owners.remove(&gone);
            }
            return;
        }
    };
    owners.entry(made).or_default();
}

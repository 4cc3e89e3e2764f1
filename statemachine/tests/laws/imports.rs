//! The laws of objects that come from outside: an import changes nothing that an operator owns, a withdrawal removes
//! what belongs to its source and nothing else, and nobody else gives an object a source.
//!
//! By design, an operator's host takes the info of its Node, and an operator's tenant the labels of its namespace, by
//! which policies select. Endpoints have one writer, the importer.

use romana_statemachine::agent::REGISTERED_INFO;
use romana_statemachine::command::{HostSource, ImportObject, ObjectKey, WithdrawObject};
use romana_statemachine::{Command, Entry, Host, Position, Record, State};

/// Applies the commands of an entry one by one to copies of a state, and checks each.
pub(crate) fn check(state: &State, position: Position, entry: &Entry) {
    let mut state = state.clone();
    for proposal in &entry.proposals {
        let before = state.clone();
        let one = Entry { at: entry.at, proposals: vec![proposal.clone()] };
        let (_, records) = state.apply(position, &one);
        match &proposal.command {
            Command::ImportObject(import) => imported(&before, import, &records, &state),
            Command::WithdrawObject(withdraw) => withdrawn(&before, withdraw, &records, &state),
            Command::FollowKubernetes(_) => only(&before, &state, &ObjectKey::Kubernetes),
            // The source of what is removed ends; none begins.
            command => {
                let mut sources = state.sources();
                let old = sources.all(|(key, source)| before.source(key) == Some(source));
                assert!(old, "{command} has given an object a source");
            }
        }
    }
}

/// Checks that the source of one object at most differs.
fn only(before: &State, after: &State, key: &ObjectKey) {
    let others = |state: &State| {
        let others = state.sources().filter(|(other, _)| *other != key);
        others.map(|(key, source)| (key.clone(), source.clone())).collect::<Vec<_>>()
    };
    assert_eq!(others(before), others(after), "more than {key} has changed");
}

fn imported(before: &State, import: &ImportObject, records: &[Record], after: &State) {
    let key = import.object.key();
    only(before, after, &key);
    let source = after.source(&key);
    assert!(
        source == before.source(&key) || source == Some(&import.source),
        "{key} belongs to {source:?}"
    );
    if is_operators(before, &key) {
        assert_eq!(source, None, "{key} is an operator's");
    }
    operators_stay(before, after, &key, records);
    let removed: Vec<_> = keys(before).into_iter().filter(|key| !exists(after, key)).collect();
    assert_eq!(removed, [], "an import has removed something: {records:?}");
    let addresses = |state: &State| state.ipam().addresses_after(None).collect::<Vec<_>>();
    assert_eq!(addresses(before), addresses(after), "an import has changed addresses");
}

fn withdrawn(before: &State, withdraw: &WithdrawObject, records: &[Record], after: &State) {
    let key = &withdraw.object;
    let is_own = before.source(key).is_some_and(|source| source.uid == withdraw.uid);
    assert!(is_own || records.is_empty(), "{key} is not of {}: {records:?}", withdraw.uid);
    let host = match key {
        ObjectKey::Host(name) => Some(name),
        _ => None,
    };
    operators_stay(before, after, key, records);
    for other in keys(before).into_iter().filter(|other| other != key && !exists(after, other)) {
        // With a host go its endpoints.
        let ObjectKey::Endpoint(ip) = other else { panic!("{other} went with {key}") };
        let was_there = before.endpoint(ip).is_some_and(|endpoint| Some(&endpoint.host) == host);
        assert!(was_there, "endpoint {ip} went with {key}");
    }
}

/// Whether an object is an operator's alone.
fn is_operators(state: &State, key: &ObjectKey) -> bool {
    if let ObjectKey::Host(name) = key {
        return state.host(name).is_some_and(|host| !is_importable(host));
    }
    let one_writer = matches!(key, ObjectKey::Endpoint(_) | ObjectKey::Kubernetes);
    !one_writer && exists(state, key) && state.source(key).is_none()
}

/// Whether a host came from Kubernetes, or only its agent has asked for it.
fn is_importable(host: &Host) -> bool {
    host.source == HostSource::Kubernetes || host.info.contains_key(REGISTERED_INFO)
}

/// Checks that everything of an operator is as it was, except for what the object `key` may take from outside.
fn operators_stay(before: &State, after: &State, key: &ObjectKey, records: &[Record]) {
    for object in keys(before).into_iter().filter(|object| is_operators(before, object)) {
        let is_it = object == *key;
        let same = match &object {
            ObjectKey::Host(name) => {
                let [old, new] = [before, after].map(|state| state.host(name).cloned());
                let new = new.map(|mut host| {
                    let old = old.as_ref().filter(|_| is_it);
                    old.into_iter().for_each(|old| host.info.clone_from(&old.info));
                    host
                });
                old == new
            }
            ObjectKey::Tenant(id) => {
                let [old, new] = [before, after].map(|state| state.tenant(id));
                old.zip(new).is_some_and(|(old, new)| {
                    old.segments == new.segments && (is_it || old.labels == new.labels)
                })
            }
            ObjectKey::Policy(name) => before.policy(name) == after.policy(name),
            // The host that holds it may be evicted.
            ObjectKey::Vip(name) => {
                let [old, new] = [before, after].map(|state| state.vip(name));
                old.zip(new).is_some_and(|(old, new)| {
                    (old.ip, &old.candidates) == (new.ip, &new.candidates)
                })
            }
            ObjectKey::Endpoint(_) | ObjectKey::Kubernetes => true,
        };
        assert!(same, "{object} is an operator's, and was changed: {records:?}");
    }
}

/// All objects that may belong to a source.
fn keys(state: &State) -> Vec<ObjectKey> {
    let hosts = state.hosts().map(|host| ObjectKey::Host(host.name.clone()));
    let tenants = state.tenants().map(|(id, _)| ObjectKey::Tenant(id.clone()));
    let endpoints = state.endpoints().map(|endpoint| ObjectKey::Endpoint(endpoint.ip));
    let policies = state.policies().map(|policy| ObjectKey::Policy(policy.name.clone()));
    let vips = state.vips().map(|vip| ObjectKey::Vip(vip.name.clone()));
    hosts.chain(tenants).chain(endpoints).chain(policies).chain(vips).collect()
}

fn exists(state: &State, key: &ObjectKey) -> bool {
    match key {
        ObjectKey::Host(name) => state.host(name).is_some(),
        ObjectKey::Tenant(id) => state.tenant(id).is_some(),
        ObjectKey::Endpoint(ip) => state.endpoint(*ip).is_some(),
        ObjectKey::Policy(name) => state.policy(name).is_some(),
        ObjectKey::Vip(name) => state.vip(name).is_some(),
        ObjectKey::Kubernetes => true,
    }
}

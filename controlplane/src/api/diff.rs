//! Differences between two states, in the API's form. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use romana_api::audit::Change;
use romana_api::block::Block;
use romana_api::snapshot::{routers, sources};
use romana_statemachine::State;
use serde::Serialize;
use serde_json::Value;

use super::{blackouts, tenants};

/// Objects of one kind, by key. Used for everything except addresses, of which there may be millions.
type Section = fn(&State) -> BTreeMap<String, Value>;

const SECTIONS: [(&str, Section); 16] = [
    ("version", |state| one("version", Some(state.version()))),
    ("held", |state| {
        state.held().map(|held| ("held".into(), value(&held.waiting))).into_iter().collect()
    }),
    ("conflicts", |state| {
        state.conflicts().map(|(host, conflicts)| (host.to_string(), value(conflicts))).collect()
    }),
    ("topology", |state| one("topology", state.topology_document())),
    ("settings", |state| one("settings", Some(state.settings()))),
    ("retention", |state| one("retention", Some(state.retention()))),
    ("blackout", |state| all(blackouts::all(state), |shown| shown.cidr.to_string())),
    ("host", |state| all(state.hosts(), |host| host.name.to_string())),
    ("block", |state| all(state.ipam().blocks().map(Block::from), |block| block.cidr.to_string())),
    ("tenant", |state| all(tenants::all(state), |tenant| tenant.id.to_string())),
    ("policy", |state| all(state.policies(), |policy| policy.name.to_string())),
    ("endpoint", |state| all(state.endpoints(), |endpoint| endpoint.ip.to_string())),
    ("vip", |state| all(state.vips(), |vip| vip.name.to_string())),
    ("router", |state| all(routers(state), |router| format!("{} {}", router.prefix, router.table))),
    ("source", |state| all(sources(state), |sourced| sourced.object.to_string())),
    ("member", |state| all(state.members(), |member| member.id.to_string())),
];

fn value(of: impl Serialize) -> Value {
    // The API types have string keys and finite numbers only, so they always serialize.
    serde_json::to_value(of).unwrap_or_default()
}

fn one(key: &str, of: Option<impl Serialize>) -> BTreeMap<String, Value> {
    of.map(|of| (key.to_owned(), value(of))).into_iter().collect()
}

fn all<T: Serialize>(
    things: impl Iterator<Item = T>,
    key: impl Fn(&T) -> String,
) -> BTreeMap<String, Value> {
    things.map(|thing| (key(&thing), value(&thing))).collect()
}

/// The differences from one state to another, by kind and key; at most `limit`, and whether there
/// are more.
pub(super) fn diff(before: &State, after: &State, limit: usize) -> (Vec<Change>, bool) {
    let mut changes = Vec::new();
    for (kind, section) in SECTIONS {
        let (mut old, mut new) = (section(before), section(after));
        old.retain(|key, value| {
            let same = new.get(key) == Some(value);
            if same {
                new.remove(key);
            }
            !same
        });
        let keys: std::collections::BTreeSet<String> =
            old.keys().chain(new.keys()).cloned().collect();
        changes.extend(keys.into_iter().map(|key| {
            let (before, after) = (old.remove(&key), new.remove(&key));
            Change { kind: kind.into(), key, before, after }
        }));
        if changes.len() > limit {
            changes.truncate(limit);
            return (changes, true);
        }
    }
    addresses(before, after, limit, &mut changes)
}

/// Merges the two sorted lists of addresses.
fn addresses(
    before: &State,
    after: &State,
    limit: usize,
    changes: &mut Vec<Change>,
) -> (Vec<Change>, bool) {
    let mut old = before.ipam().addresses_after(None).peekable();
    let mut new = after.ipam().addresses_after(None).peekable();
    loop {
        let ips = [old.peek(), new.peek()].map(|address| address.map(|address| address.ip));
        let Some(ip): Option<IpAddr> = ips.into_iter().flatten().min() else {
            return (std::mem::take(changes), false);
        };
        let old = old.next_if(|address| address.ip == ip);
        let new = new.next_if(|address| address.ip == ip);
        if old == new {
            continue;
        }
        if changes.len() == limit {
            return (std::mem::take(changes), true);
        }
        let (before, after) = (old.map(value), new.map(value));
        changes.push(Change { kind: "address".into(), key: ip.to_string(), before, after });
    }
}

#[cfg(test)]
mod tests {
    use romana_statemachine::{Entry, Millis, Position, Proposal, Term};
    use serde_json::json;

    use super::*;

    fn apply(state: &State, commands: &[Value]) -> State {
        let proposal = |command: &Value| Proposal {
            actor: "test".into(),
            command: serde_json::from_value(command.clone()).unwrap(),
        };
        let proposals = commands.iter().map(proposal).collect();
        let mut next = state.clone();
        let position = Position { term: Term(1), index: state.index().next() };
        let (outcomes, _) = next.apply(position, &Entry { at: Millis(1), proposals });
        outcomes.into_iter().for_each(|outcome| _ = outcome.result.unwrap());
        next
    }

    #[test]
    fn what_changed_is_shown_and_nothing_else() {
        let first = apply(
            &State::new(),
            &[
                json!({"SetTopology": {"networks": [{"name": "n", "cidr": "10.0.0.0/24", "block_mask": 29}],
                    "topologies": [{"networks": ["n"], "map": [{}]}]}}),
                json!({"AddHost": {"name": "h1", "ip": "192.168.0.1"}}),
                json!({"AllocateAddress": {"name": "a", "host": "h1", "tenant": "t", "segment": "s"}}),
            ],
        );
        assert_eq!(diff(&first, &first, 10), (vec![], false));
        let second = apply(
            &first,
            &[
                json!({"AllocateAddress": {"name": "b", "host": "h1", "tenant": "t", "segment": "s"}}),
                json!({"ReleaseAddress": {"address": "a"}}),
                json!({"CreateTenant": {"id": "t", "labels": {"k": "v"}}}),
                json!({"ChangeSettings": {"vip_lease_ms": 500}}),
            ],
        );
        let (changes, more) = diff(&first, &second, 10);
        let said: Vec<_> = changes
            .iter()
            .map(|c| (&*c.kind, c.key.as_str(), c.before.is_some(), c.after.is_some()))
            .collect();
        assert_eq!(
            said,
            [
                ("settings", "settings", true, true),
                ("tenant", "t", false, true),
                ("address", "10.0.0.0", true, false),
                ("address", "10.0.0.1", false, true),
            ]
        );
        assert!(!more);
        assert_eq!(diff(&first, &second, 3), (changes[..3].to_vec(), true));
        assert_eq!(diff(&first, &second, 1), (changes[..1].to_vec(), true));
        // In the other direction, before and after are swapped.
        let (back, _) = diff(&second, &first, 10);
        assert_eq!(back[2].after, changes[2].before);
    }
}

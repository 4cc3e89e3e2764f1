//! Where objects come from. An object that an import created belongs to its source, and only for that source it is
//! withdrawn: what an operator made is never removed because Kubernetes does not have it. The source of an object ends
//! with the object, by whichever command that is removed.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::agent::REGISTERED_INFO;
use crate::command::{
    EndpointRef, FollowKubernetes, HostSource, ImportObject, Imported, ObjectKey, PolicyRef,
    RemoveHost, Source, TenantRef, VipRef, WithdrawObject,
};
use crate::endpoint;
use crate::event::{Event, SourceSet};
use crate::host::{self, Host};
use crate::name::SourceUid;
use crate::policy;
use crate::refusal::Refusal;
use crate::state::{Now, State};
use crate::tenant;
use crate::vip;

/// Decides as the command for that object would; then the object belongs to the source, unless it is an operator's.
pub(crate) fn decide_import(state: &State, import: &ImportObject) -> Result<Vec<Event>, Refusal> {
    let ImportObject { source, object: imported, .. } = import;
    source.kind.check()?;
    source.uid.check()?;
    let object = imported.key();
    let owns = owns(state, &object);
    let mut events = match imported {
        Imported::Host(spec) => host::decide_import(state, spec)?,
        Imported::Tenant(spec) => tenant::decide_create(state, spec)?,
        Imported::Endpoint(endpoint) => endpoint::decide_set(state, endpoint)?,
        // Kubernetes could not remove it again, and an operator relies on it.
        Imported::Policy(_) | Imported::Vip(_) if !owns => {
            return Err(Refusal::MadeByOperator { object });
        }
        Imported::Policy(policy) => policy::decide_set(state, policy)?,
        Imported::Vip(spec) => vip::decide_request(state, spec)?,
    };
    if owns && state.source(&object) != Some(source) {
        events.push(Event::SourceSet(SourceSet { object, source: source.clone() }));
    }
    Ok(events)
}

/// Whether an object belongs to a source that imports it: it is new, or has a source already. Endpoints have one
/// writer, the importer. Hosts that name Kubernetes as their source were meant for it; those that only an agent has
/// registered are taken over, so that they go with their Node.
fn owns(state: &State, object: &ObjectKey) -> bool {
    match object {
        ObjectKey::Endpoint(_) => true,
        ObjectKey::Host(name) => state.host(name).is_none_or(is_importable),
        _ => state.source(object).is_some() || !exists(state, object),
    }
}

/// Whether a host may belong to Kubernetes: it came from there, or nobody but its agent asked for it.
pub(crate) fn is_importable(host: &Host) -> bool {
    host.source == HostSource::Kubernetes || host.info.contains_key(REGISTERED_INFO)
}

fn exists(state: &State, object: &ObjectKey) -> bool {
    match object {
        ObjectKey::Host(name) => state.host(name).is_some(),
        ObjectKey::Tenant(id) => state.tenant(id).is_some(),
        ObjectKey::Endpoint(ip) => state.endpoint(*ip).is_some(),
        ObjectKey::Policy(name) => state.policy(name).is_some(),
        ObjectKey::Vip(name) => state.vip(name).is_some(),
        ObjectKey::Kubernetes => true,
    }
}

/// The kind of the source of [`ObjectKey::Kubernetes`]: a cluster that is followed, and one that an operator has just
/// named, which confirms what was held back until the leader has acted on it.
const FOLLOWED: &str = "Followed";
const CONFIRMED: &str = "Confirmed";
/// The uid of a cluster of which none is known.
const UNKNOWN: &str = "unknown";

/// The Kubernetes cluster whose objects are imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// The uid of its namespace `kube-system`; `None`: the API server did not show it.
    pub cluster: Option<SourceUid>,
    /// Whether an operator has confirmed what was held back, and the leader has not acted on it yet.
    pub confirmed: bool,
}

/// A leader task records the first cluster that it sees, and the end of a confirmation; an operator any cluster.
pub(crate) fn decide_follow(
    state: &State,
    follow: &FollowKubernetes,
) -> Result<Vec<Event>, Refusal> {
    follow.cluster.as_ref().map_or(Ok(()), SourceUid::check)?;
    let known = state.kubernetes().and_then(|followed| followed.cluster);
    let by_task = follow.term.is_some();
    if let (Some(cluster), Some(followed), true) = (&follow.cluster, &known, by_task)
        && cluster != followed
    {
        let (cluster, followed) = (cluster.clone(), followed.clone());
        return Err(Refusal::OtherKubernetes { cluster, followed });
    }
    let uid = follow.cluster.clone().or(known).unwrap_or_else(|| UNKNOWN.into());
    let kind = if by_task { FOLLOWED } else { CONFIRMED }.into();
    let (object, source) = (ObjectKey::Kubernetes, Source { kind, uid });
    if state.source(&object) == Some(&source) {
        return Ok(Vec::new());
    }
    Ok(vec![Event::SourceSet(SourceSet { object, source })])
}

/// Decides as the command that removes such an object would. A host is evicted: that its source was deleted is the
/// explicit eviction (P7).
pub(crate) fn decide_withdraw(
    state: &State,
    withdraw: &WithdrawObject,
    now: Now,
) -> Result<Vec<Event>, Refusal> {
    let WithdrawObject { object, uid, .. } = withdraw.clone();
    let source = state.source(&object);
    if source.is_none_or(|source| source.uid != uid) {
        return Err(Refusal::SourceDiffers { object, uid, origin: source.cloned() });
    }
    match object {
        ObjectKey::Host(name) => host::decide_remove(state, &RemoveHost { name, force: true }, now),
        ObjectKey::Tenant(id) => tenant::decide_delete(state, &TenantRef { id }),
        ObjectKey::Endpoint(ip) => endpoint::decide_remove(state, &EndpointRef { ip }),
        ObjectKey::Policy(name) => policy::decide_remove(state, &PolicyRef { name }),
        ObjectKey::Vip(name) => vip::decide_remove(state, &VipRef { name }),
        ObjectKey::Kubernetes => Ok(Vec::new()),
    }
}

/// The object that an event removes, and with it its source.
fn removed(event: &Event) -> Option<ObjectKey> {
    match event {
        Event::HostRemoved(removed) => Some(ObjectKey::Host(removed.name.clone())),
        Event::TenantDeleted(deleted) => Some(ObjectKey::Tenant(deleted.id.clone())),
        Event::EndpointRemoved(removed) => Some(ObjectKey::Endpoint(removed.ip)),
        Event::PolicyRemoved(removed) => Some(ObjectKey::Policy(removed.name.clone())),
        Event::VipRemoved(removed) => Some(ObjectKey::Vip(removed.name.clone())),
        _ => None,
    }
}

impl State {
    /// The source that an object belongs to; `None`: an operator's, or no such object.
    #[must_use]
    pub fn source(&self, object: &ObjectKey) -> Option<&Source> {
        self.sources.get(object)
    }

    /// The Kubernetes cluster whose objects are imported; `None`: none has been seen yet.
    #[must_use]
    pub fn kubernetes(&self) -> Option<Followed> {
        let source = self.source(&ObjectKey::Kubernetes)?;
        let cluster = Some(source.uid.clone()).filter(|uid| uid.as_str() != UNKNOWN);
        Some(Followed { cluster, confirmed: source.kind.as_str() == CONFIRMED })
    }

    /// All objects that belong to a source, in order.
    pub fn sources(&self) -> impl Iterator<Item = (&ObjectKey, &Source)> {
        self.sources.iter()
    }

    pub(crate) fn evolve_source(&mut self, set: &SourceSet) {
        if let ObjectKey::Host(name) = &set.object {
            self.hosts.import(name);
        }
        self.sources.insert(set.object.clone(), set.source.clone());
    }

    /// Ends the source of the object that an event removes.
    pub(crate) fn end_source(&mut self, event: &Event) {
        if self.sources.is_empty() {
            return;
        }
        if let Some(object) = removed(event) {
            self.sources.remove(&object);
        }
    }

    /// Each source is one of an object that exists; a host with a source is Kubernetes'.
    pub(crate) fn check_sources(&self, wrong: &mut Vec<String>) {
        for object in self.sources.keys() {
            if !exists(self, object) || !owns(self, object) {
                wrong.push(format!("{object} has a source, and is not there or an operator's"));
            }
        }
    }
}

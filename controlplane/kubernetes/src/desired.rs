//! What the log should have.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::{Metadata, Resource};
use romana_statemachine::command::{Imported, ObjectKey, Source, VipFromPool};
use romana_statemachine::name::HostName;
use romana_statemachine::{Command, Refusal};

use crate::objects::ObjectName;
use crate::problem::{ObjectRef, Problem};
use crate::shown::ShownVip;

/// The entry of a host's info that says whether its Node was unschedulable when it was last imported: a host that was
/// drained for that reason is put back in service when the Node is schedulable again; one that an operator drains stays
/// drained.
pub(crate) const UNSCHEDULABLE: &str = "kubernetes.unschedulable";

/// What a Kubernetes object asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    Object(Imported),
    /// A VIP. Its address is taken from a pool when it is imported; then it has that one.
    VipFromPool(VipFromPool),
}

impl Wanted {
    /// The key of the object.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Object(object) => object.key(),
            Self::VipFromPool(vip) => ObjectKey::Vip(vip.name.clone()),
        }
    }
}

impl From<Imported> for Wanted {
    fn from(object: Imported) -> Self {
        Self::Object(object)
    }
}

/// One object that the log should have.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// The Kubernetes object that asks for it.
    pub object: ObjectRef,
    pub source: Source,
    pub wanted: Wanted,
    /// When the Kubernetes object was created: of two Services that ask for one address, the older one is first.
    pub(crate) created: Option<Time>,
    /// Whether the Kubernetes object is being deleted.
    pub(crate) ending: bool,
}

impl Desired {
    /// An object that a Kubernetes object asks for.
    pub(crate) fn of<K>(object: &K, wanted: impl Into<Wanted>) -> Self
    where
        K: Resource + Metadata<Ty = ObjectMeta>,
    {
        let meta = object.metadata();
        let object = ObjectRef::of(object);
        let source = Source { kind: object.kind.into(), uid: object.uid.as_str().into() };
        let (created, ending) =
            (meta.creation_timestamp.clone(), meta.deletion_timestamp.is_some());
        Self { object, source, wanted: wanted.into(), created, ending }
    }
}

/// What the log should have, and what of Kubernetes it cannot have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Translation {
    pub desired: BTreeMap<ObjectKey, Desired>,
    /// Endpoints of older pods that show the same address as the one in `desired`, newest first. The allocation of the
    /// address may say that it is one of theirs.
    pub(crate) rivals: BTreeMap<ObjectKey, Vec<Desired>>,
    /// Problems of the objects themselves. What the rules of the log refuse is found by [`diff`](crate::diff()).
    pub problems: Vec<Problem>,
    /// Objects that Kubernetes has and that cannot be translated: the log keeps what it has of them.
    pub(crate) kept: BTreeSet<ObjectKey>,
    /// The VIP that the API server is to show at each Service, if the log has it.
    pub(crate) shown: BTreeMap<ObjectName, ShownVip>,
    /// Hosts of pods that have addresses or are about to get them.
    pub(crate) occupied: BTreeSet<HostName>,
    /// Ranges that Kubernetes has assigned to Nodes, as text.
    pub(crate) pod_cidrs: Vec<(ObjectRef, String)>,
}

impl Translation {
    /// Adds an object. If another one has its key already, the second is a problem.
    pub(crate) fn want(&mut self, desired: Desired) {
        let key = desired.wanted.key();
        if let Some(first) = self.desired.get(&key) {
            let message =
                format!("{} asks for {key} already. Give this one another name.", first.object);
            self.problems.push(desired.object.problem("NameTaken", message));
            return;
        }
        self.desired.insert(key, desired);
    }

    /// Whether Kubernetes has the object, translated or not.
    pub(crate) fn has(&self, key: &ObjectKey) -> bool {
        self.desired.contains_key(key) || self.kept.contains(key)
    }

    /// Adds a problem of an object.
    pub(crate) fn problem(&mut self, object: &ObjectRef, reason: &str, message: impl Into<String>) {
        self.problems.push(object.problem(reason, message));
    }

    /// The problem that the refusal of a proposed command is; `None`: it concerns no object of Kubernetes, or the next
    /// leader decides again.
    #[must_use]
    pub fn refused(&self, command: &Command, refusal: &Refusal) -> Option<Problem> {
        let desired = match command {
            _ if matches!(refusal, Refusal::StaleTerm { .. }) => return None,
            Command::ImportObject(import) => {
                let key = import.object.key();
                let rivals = self.rivals.get(&key).into_iter().flatten();
                let mut all = self.desired.get(&key).into_iter().chain(rivals);
                all.find(|desired| desired.source == import.source)?
            }
            Command::SetHostState(change) => {
                self.desired.get(&ObjectKey::Host(change.name.clone()))?
            }
            _ => return None,
        };
        Some(desired.object.refused(refusal))
    }
}

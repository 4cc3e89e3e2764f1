//! The kinds of objects whose withdrawal can be held back.

use romana_statemachine::command::ObjectKey;

/// A kind of object in the log that comes from Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HeldKind {
    Host,
    Tenant,
    Policy,
    Endpoint,
    Vip,
}

impl HeldKind {
    /// The kind of a key; `None`: that of the cluster itself, which is never withdrawn.
    pub(crate) fn of(key: &ObjectKey) -> Option<Self> {
        Some(match key {
            ObjectKey::Host(_) => Self::Host,
            ObjectKey::Tenant(_) => Self::Tenant,
            ObjectKey::Policy(_) => Self::Policy,
            ObjectKey::Endpoint(_) => Self::Endpoint,
            ObjectKey::Vip(_) => Self::Vip,
            ObjectKey::Kubernetes => return None,
        })
    }
}

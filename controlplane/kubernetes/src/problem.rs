//! Problems: why an object is not honoured, or not all of it.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use romana_statemachine::Refusal;

/// A reference to a Kubernetes object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Group and version, such as `networking.k8s.io/v1`.
    pub api_version: &'static str,
    pub kind: &'static str,
    /// Empty: the object is cluster-scoped.
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl ObjectRef {
    /// The reference to an object.
    #[must_use]
    pub fn of<K: Resource + Metadata<Ty = ObjectMeta>>(object: &K) -> Self {
        let meta = object.metadata();
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Self {
            api_version: K::API_VERSION,
            kind: K::KIND,
            namespace: text(&meta.namespace),
            name: text(&meta.name),
            uid: text(&meta.uid),
        }
    }

    /// A problem of this object.
    #[must_use]
    pub fn problem(&self, reason: &str, message: impl Into<String>) -> Problem {
        Problem { object: self.clone(), reason: reason.into(), message: message.into() }
    }

    /// The problem that the log refuses what this object asks for.
    #[must_use]
    pub fn refused(&self, refusal: &Refusal) -> Problem {
        self.problem(refusal.code(), format!("{refusal}. {}", refusal.hint()))
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// Why an object is not honoured, or not all of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub object: ObjectRef,
    /// The reason in one word, as in a Kubernetes Event. Stable; the code of the refusal where the log refuses it.
    pub reason: String,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.object, self.reason, self.message)
    }
}

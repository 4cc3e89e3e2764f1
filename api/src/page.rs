//! Generic answers: a page of a list, the result of a change.

use romana_statemachine::Revision;
use romana_statemachine::audit::Moment;
use serde::{Deserialize, Serialize};

/// A list, or a page of one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "{T}List"))]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Revision of the list.
    #[serde(default)]
    pub revision: Revision,
    /// The value of `?continue=` for the next page; absent on the last page.
    #[serde(default, rename = "continue", skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// In answers about the past: the oldest revision kept. Nothing is known about earlier ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Moment>,
}

/// The result of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Changed {
    /// Whether anything changed: false if the state was already as requested.
    pub changed: bool,
    /// Revision after the change.
    pub revision: Revision,
}

/// The answer to a change of an object: the object after it. If the object could not be read back, only that it was
/// changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ObjectOrChange<T> {
    Object(T),
    Change(Changed),
}

impl<T> ObjectOrChange<T> {
    /// The object, if it could be read back.
    #[must_use]
    pub fn object(&self) -> Option<&T> {
        match self {
            Self::Object(object) => Some(object),
            Self::Change(_) => None,
        }
    }
}

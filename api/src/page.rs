//! What many routes answer: a page of a list, or what a change came to.

use romana_statemachine::Revision;
use romana_statemachine::audit::Moment;
use serde::{Deserialize, Serialize};

/// A list, or a page of one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "{T}List"))]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Revision that the list was read at.
    #[serde(default)]
    pub revision: Revision,
    /// What `?continue=` gets to go on; absent on the last page.
    #[serde(default, rename = "continue", skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Of answers about the past: the oldest revision that is kept. Of what was before, nothing is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Moment>,
}

/// What a change came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Changed {
    /// Whether anything changed: false if it was so already.
    pub changed: bool,
    /// Revision after it.
    pub revision: Revision,
}

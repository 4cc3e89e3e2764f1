//! `/v1/events`: the lines of the feed. Each is a [`RecordLine`], a [`Bookmark`] or, as the last one, an
//! [`crate::ErrorAnswer`].

use romana_statemachine::{Revision, Topic};
use serde::{Deserialize, Serialize};

/// A record `R` of the history, and how to treat its event if that is unknown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "{R}Line"))]
pub struct RecordLine<R> {
    #[serde(flatten)]
    pub record: R,
    /// The version of behaviour that introduced the event. Only for events since version 4: all feed
    /// readers know the earlier ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u16>,
    /// The event's topic, together with `since`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<Topic>,
    /// Whether readers that do not know the event may skip it, together with `since`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// All matching events up to a revision have been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Bookmark {
    pub bookmark: BookmarkAt,
}

/// The position of a bookmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BookmarkAt {
    pub revision: Revision,
}

//! `/v1/events`: the lines of the feed. Each is a [`RecordLine`], a [`Bookmark`] or, as the last one, an
//! [`crate::ErrorAnswer`].

use romana_statemachine::{Revision, Topic};
use serde::{Deserialize, Serialize};

/// A record `R` of the history, and what to do about its event if that is not known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "{R}Line"))]
pub struct RecordLine<R> {
    #[serde(flatten)]
    pub record: R,
    /// The version of behaviour that brought the event. Only of events since version 4: whoever reads the feed knows
    /// all events before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u16>,
    /// The event's topic, beside `since`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<Topic>,
    /// Whether who does not know the event may leave it out, beside `since`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// All events of interest up to a revision have been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Bookmark {
    pub bookmark: BookmarkAt,
}

/// Where a bookmark is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BookmarkAt {
    pub revision: Revision,
}

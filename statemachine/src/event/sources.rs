//! Events about where objects come from.

use serde::{Deserialize, Serialize};

use crate::command::{ObjectKey, Source};

/// An object belongs to a source from now on, until it is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SourceSet {
    pub object: ObjectKey,
    pub source: Source,
}

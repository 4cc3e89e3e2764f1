//! Labels: key–value pairs that groups and policies select by.

use alloc::collections::BTreeMap;
use alloc::string::String;

use crate::limits::{LABEL_BYTES_MAX, LABELS_MAX};
use crate::refusal::Refusal;

/// Key–value pairs on hosts, tenants, segments and endpoints.
pub type Labels = BTreeMap<String, String>;

/// Checks labels against their bounds.
pub(crate) fn check(labels: &Labels) -> Result<(), Refusal> {
    let refuse = |why: &str| Err(Refusal::InvalidLabels { why: String::from(why) });
    if labels.len() > LABELS_MAX {
        return refuse("there are more than 128");
    }
    for (key, value) in labels {
        if key.is_empty() {
            return refuse("a key is empty");
        }
        if key.len() > LABEL_BYTES_MAX || value.len() > LABEL_BYTES_MAX {
            return refuse("a key or value is longer than 1024 bytes");
        }
        if key.chars().chain(value.chars()).any(char::is_control) {
            return refuse("a key or value has a control character");
        }
    }
    Ok(())
}

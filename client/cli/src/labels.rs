//! Labels on the command line: `key=value`, and `key-` to remove one.

use std::collections::BTreeMap;

/// A label to set or to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Set(String, String),
    Remove(String),
}

/// Parses `key=value`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err(format!("{text:?} is not key=value")),
    }
}

/// Parses `key=value` or `key-`.
pub(crate) fn change(text: &str) -> Result<Change, String> {
    if let Ok((key, value)) = pair(text) {
        return Ok(Change::Set(key, value));
    }
    match text.strip_suffix('-') {
        Some(key) if !key.is_empty() => Ok(Change::Remove(key.into())),
        _ => Err(format!("{text:?} is neither key=value nor key-")),
    }
}

/// Applies changes to labels, in order.
pub(crate) fn apply(
    mut labels: BTreeMap<String, String>,
    changes: Vec<Change>,
) -> BTreeMap<String, String> {
    for change in changes {
        match change {
            Change::Set(key, value) => _ = labels.insert(key, value),
            Change::Remove(key) => _ = labels.remove(&key),
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_and_applied() {
        assert_eq!(pair("rack=r=1"), Ok(("rack".into(), "r=1".into())));
        assert_eq!(pair("rack="), Ok(("rack".into(), String::new())));
        assert!(pair("rack").is_err() && pair("=x").is_err());
        assert_eq!(change("rack-"), Ok(Change::Remove("rack".into())));
        assert!(change("rack").is_err() && change("-").is_err());
        let changes = ["a=1", "b=2", "a-", "c-"].map(|text| change(text).unwrap());
        let labels = apply(BTreeMap::from([("c".into(), "3".into())]), changes.into());
        assert_eq!(labels, BTreeMap::from([("b".into(), "2".into())]));
    }
}

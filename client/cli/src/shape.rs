//! The fields that a command requires in a response. A response without them, such as a proxy's error page, is not a
//! replica's, whatever its status.

use serde_json::Value;

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Non-empty text.
    Text,
    Number,
    Bool,
    List,
    Object,
    /// Any type, but present.
    Any,
}

/// The fields of a response that a command relies on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    members: &'static [(&'static str, Kind)],
    /// Also accepts [`CHANGED`]: the response if the object no longer existed when it was read back.
    or_changed: bool,
}

const CHANGED_MEMBERS: &[(&str, Kind)] = &[("changed", Kind::Bool), ("revision", Kind::Number)];

/// The result of a change.
pub(crate) const CHANGED: Shape = Shape::new(CHANGED_MEMBERS);
/// A host, network, policy or virtual IP.
pub(crate) const NAMED: Shape = Shape::new(&[("name", Kind::Text)]);
/// A tenant or segment.
pub(crate) const IDENTIFIED: Shape = Shape::new(&[("id", Kind::Text)]);
/// An address.
pub(crate) const ADDRESS: Shape = Shape::new(&[("name", Kind::Text), ("ip", Kind::Text)]);
/// A block or a blackout.
pub(crate) const RANGE: Shape = Shape::new(&[("cidr", Kind::Text)]);
/// A topology document.
pub(crate) const TOPOLOGY: Shape =
    Shape::new(&[("networks", Kind::List), ("topologies", Kind::List)]);
/// The settings of a cluster.
pub(crate) const SETTINGS: Shape = Shape::new(&[("address_reuse_delay_ms", Kind::Any)]);
/// The replicas of a cluster.
pub(crate) const CLUSTER: Shape = Shape::new(&[("members", Kind::List)]);

impl Shape {
    /// An object with these members.
    pub(crate) const fn new(members: &'static [(&'static str, Kind)]) -> Self {
        Self { members, or_changed: false }
    }

    /// This shape, or [`CHANGED`].
    pub(crate) const fn or_changed(self) -> Self {
        Self { or_changed: true, ..self }
    }

    /// Reports a missing field as an error.
    pub(crate) fn check(&self, value: &Value) -> Result<(), String> {
        if !value.is_object() {
            return Err(format!("it is {}, not an object", kind_of(value)));
        }
        match missing(self.members, value) {
            Some(_) if self.or_changed && missing(CHANGED_MEMBERS, value).is_none() => Ok(()),
            Some((name, kind)) => Err(format!("its member {name:?} is not {}", word(kind))),
            None => Ok(()),
        }
    }
}

fn missing(members: &[(&'static str, Kind)], value: &Value) -> Option<(&'static str, Kind)> {
    let fits = |(name, kind): &&(&str, Kind)| value.get(name).is_some_and(|it| is(*kind, it));
    members.iter().find(|member| !fits(member)).copied()
}

fn is(kind: Kind, value: &Value) -> bool {
    match kind {
        Kind::Text => value.as_str().is_some_and(|text| !text.is_empty()),
        Kind::Number => value.is_number(),
        Kind::Bool => value.is_boolean(),
        Kind::List => value.is_array(),
        Kind::Object => value.is_object(),
        Kind::Any => true,
    }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "a text",
        Kind::Number => "a number",
        Kind::Bool => "true or false",
        Kind::List => "a list",
        Kind::Object => "an object",
        Kind::Any => "there",
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_fits_passes() {
        for bad in [json!([]), json!(null), json!("x"), json!({}), json!({"name": ""})] {
            assert!(NAMED.check(&bad).is_err() && NAMED.or_changed().check(&bad).is_err(), "{bad}");
        }
        assert!(NAMED.check(&json!({"name": "a", "more": 1})).is_ok());
        let changed = json!({"changed": true, "revision": 1});
        assert!(NAMED.check(&changed).is_err() && NAMED.or_changed().check(&changed).is_ok());
        assert_eq!(CHANGED.check(&json!([])).unwrap_err(), "it is a list, not an object");
        let why = CHANGED.check(&json!({"changed": true})).unwrap_err();
        assert_eq!(why, "its member \"revision\" is not a number");
    }
}

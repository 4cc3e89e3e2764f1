//! JSON for types that are also bodies of requests: those refuse unknown members, which responses of a newer replica
//! may have.

use serde::de::value::{MapAccessDeserializer, MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Map, Value};

/// Deserializes JSON. Of an object, a struct gets only the members that it knows; a list is not a struct.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tolerant<'de>(pub(super) &'de Value);

/// The members of an object that pass a filter.
fn members<'de>(
    object: &'de Map<String, Value>,
    passes: impl Fn(&str) -> bool,
) -> MapDeserializer<'de, impl Iterator<Item = (&'de str, Tolerant<'de>)>, Error> {
    let members = object.iter().map(|(name, value)| (name.as_str(), Tolerant(value)));
    MapDeserializer::new(members.filter(move |(name, _)| passes(name)))
}

impl<'de> IntoDeserializer<'de, Error> for Tolerant<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Tolerant<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(list) => {
                SeqDeserializer::new(list.iter().map(Tolerant)).deserialize_any(visitor)
            }
            Value::Object(object) => members(object, |_| true).deserialize_any(visitor),
            scalar => scalar.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(object) => {
                members(object, |name| fields.contains(&name)).deserialize_any(visitor)
            }
            Value::Array(_) => Err(Error::invalid_type(Unexpected::Seq, &visitor)),
            scalar => scalar.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(object) => {
                let object = MapAccessDeserializer::new(members(object, |_| true));
                object.deserialize_enum(name, variants, visitor)
            }
            other => other.deserialize_enum(name, variants, visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use romana_statemachine::audit::Tenure;
    use romana_statemachine::policy::document::PolicyDocument;
    use romana_statemachine::routes::Via;
    use romana_statemachine::topology::TopologySpec;
    use serde::de::DeserializeOwned;
    use serde_json::json;

    use super::*;

    fn read<T: DeserializeOwned>(json: &Value) -> Result<T, String> {
        T::deserialize(Tolerant(json)).map_err(|error| error.to_string())
    }

    /// At any depth, also where the type refuses them in a request.
    #[test]
    fn unknown_members_are_ignored() {
        let json = json!({
            "new": 1, "networks": [{"name": "n", "cidr": "10.0.0.0/8", "new": {}}],
            "topologies": [{"networks": ["n"], "map": [{"name": "g", "new": []}], "new": null}],
        });
        assert!(serde_json::from_value::<TopologySpec>(json.clone()).is_err());
        let spec: TopologySpec = read(&json).unwrap();
        assert_eq!(spec.topologies[0].map[0].name.as_deref(), Some("g"));
        let json = json!({"name": 5, "new": 1, "applied_to": [{"tenant_id": "t", "new": 1}],
            "ingress": [{"rules": [{"protocol": "tcp", "ports": [22, "a"], "new": 1}]}]});
        let policy: PolicyDocument = read(&json).unwrap();
        assert_eq!(policy.name.as_deref(), Some("5"));
        assert_eq!(policy.applied_to[0].tenant.as_deref(), Some("t"));
    }

    #[test]
    fn a_list_is_not_a_struct() {
        assert!(read::<PolicyDocument>(&json!([])).is_err());
        assert!(read::<Vec<PolicyDocument>>(&json!([[]])).is_err());
        assert!(read::<Vec<PolicyDocument>>(&json!([{}])).is_ok());
    }

    #[test]
    fn every_form_of_an_enum_is_read() {
        assert_eq!(read::<Via>(&json!("local")).unwrap(), Via::Local);
        let host = json!({"host": {"name": "h", "ip": "10.0.0.1", "new": 1}});
        assert!(matches!(read::<Via>(&host).unwrap(), Via::Host { .. }));
        assert!(read::<Via>(&json!({"satellite": {}})).is_err());
        let tenure = json!({"ip": "10.0.0.1", "name": "a", "host": "h", "tenant": "t", "segment": "s",
            "actor": null, "from": null, "to": {"revision": 4, "at": 7}, "reason": {"reported": 7}});
        assert_eq!(json!(read::<Tenure>(&tenure).unwrap()), tenure);
    }
}

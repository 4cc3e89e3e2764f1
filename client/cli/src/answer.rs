//! Responses of replicas: as received, and parsed as the type that the route answers with.
//!
//! `-f json` prints what was received, with members and values that only a newer replica knows. Tables, notes and
//! decisions use the type. A response that is not of the type is not one of a replica of this version, whatever its
//! status.

mod tolerant;

use romana_api::{Changed, ObjectOrChange, Page};
use romana_client::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::Failure;
use tolerant::Tolerant;

/// A document to print, and its typed form.
#[derive(Clone, Debug)]
pub(crate) struct Answer<T> {
    /// As received.
    pub(crate) json: Value,
    /// As parsed.
    pub(crate) value: T,
}

impl<T: DeserializeOwned> Answer<T> {
    /// Parses the response to a read.
    pub(crate) fn read(json: Value) -> Result<Self, Failure> {
        match parse(&json) {
            Ok(value) => Ok(Self { json, value }),
            Err(why) => Err(Failure::Foreign { json, why }),
        }
    }

    /// Parses the response to a change. If it is malformed, the outcome is unknown: the response is not a replica's,
    /// but a replica may have made the change.
    pub(crate) fn done(json: Value) -> Result<Self, Failure> {
        let value = parse(&json).map_err(unknown)?;
        Ok(Self { json, value })
    }
}

impl<T: DeserializeOwned> Answer<ObjectOrChange<T>> {
    /// Parses the response to a change of an object, see [`Answer::done`].
    pub(crate) fn changed(json: Value) -> Result<Self, Failure> {
        let value = match parse(&json) {
            Ok(object) => ObjectOrChange::Object(object),
            Err(why) => match parse::<Changed>(&json) {
                Ok(change) => ObjectOrChange::Change(change),
                Err(_) => return Err(unknown(why)),
            },
        };
        Ok(Self { json, value })
    }
}

impl<T> Answer<Page<T>> {
    /// The items of a list.
    pub(crate) fn into_items(mut self) -> impl Iterator<Item = Answer<T>> {
        let items = match self.json.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        };
        items.into_iter().zip(self.value.items).map(|(json, value)| Answer { json, value })
    }
}

impl<T> Answer<Vec<T>> {
    /// Objects requested by name, for output: the object itself if there is one, otherwise a list.
    pub(crate) fn one_or_list(answers: Vec<Answer<T>>) -> Self {
        let (mut json, value): (Vec<Value>, _) =
            answers.into_iter().map(|answer| (answer.json, answer.value)).unzip();
        let json = if json.len() == 1 { json.remove(0) } else { json.into() };
        Self { json, value }
    }
}

impl<T: Serialize> Answer<T> {
    /// A document of this program.
    pub(crate) fn own(value: T) -> Self {
        Self { json: to_json(&value), value }
    }
}

/// A value as JSON. The types of this program and of the API always have that form: they have text keys and finite
/// numbers only.
pub(crate) fn to_json(value: &(impl Serialize + ?Sized)) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Parses a response. Unknown members are ignored; an error names the member.
pub(crate) fn parse<T: DeserializeOwned>(json: &Value) -> Result<T, String> {
    serde_path_to_error::deserialize(Tolerant(json)).map_err(|error| {
        let path = error.path().to_string();
        match path.as_str() {
            "." => error.inner().to_string(),
            path => format!("{path}: {}", error.inner()),
        }
    })
}

fn unknown(why: String) -> Failure {
    let why = format!("what came back is not an answer of a Romana replica: {why}");
    Error::Unknown { why, source: None }.into()
}

#[cfg(test)]
mod tests {
    use romana_api::tenant::Tenant;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_type_passes() {
        for bad in [json!([]), json!(null), json!("x"), json!({}), json!({"id": 1})] {
            assert!(parse::<Tenant>(&bad).is_err(), "{bad}");
            let changed = Answer::<ObjectOrChange<Tenant>>::changed(bad.clone());
            let why = changed.unwrap_err().to_string();
            assert!(why.starts_with("the outcome is unknown"), "{why}");
        }
        assert!(parse::<Tenant>(&json!({"id": "a", "more": 1})).is_ok());
        let changed = json!({"changed": true, "revision": 1});
        assert!(parse::<Tenant>(&changed).is_err());
        let changed = Answer::<ObjectOrChange<Tenant>>::changed(changed).unwrap();
        assert_eq!(changed.value.object(), None);
    }

    #[test]
    fn the_error_names_the_member() {
        let json = json!({"id": "a", "segments": [{"id": "b"}, {"id": 7}]});
        let why = parse::<Tenant>(&json).unwrap_err();
        assert_eq!(why, "segments[1].id: invalid type: integer `7`, expected a string");
        assert_eq!(
            parse::<Changed>(&json!({"changed": true})).unwrap_err(),
            "missing field `revision`"
        );
    }

    #[test]
    fn a_list_is_split_into_its_items() {
        let json = json!({"items": [{"id": "a", "more": 1}, {"id": "b"}], "revision": 3});
        let list: Answer<Page<Tenant>> = Answer::read(json).unwrap();
        let items: Vec<Answer<Tenant>> = list.into_items().collect();
        assert_eq!((items[0].json["more"].clone(), items[1].value.id.as_str()), (json!(1), "b"));
    }
}

//! Policy documents: the JSON that operators write. Romana's own form, Romana 2.0's, and extensions for what neither
//! can express; [`to_document`] writes Romana's own form.
//!
//! ```text
//! {"securitypolicies": [P, …]}, [P, …] or P, where P has
//!   name (2.0: id), description
//!   applied_to   [{tenant, segment}, {tenant}, {tenant, selector}, {cidr}, {dest: host|local}]
//!   direction    ingress | egress; absent with peers and rules: ingress
//!   peers, rules or else lists ingress and egress of {peers, rules}; both directions: both lists
//! peer  {peer: any|host|local}, {cidr, except}, {tenant}, {tenant, segment}, {tenant, selector},
//!       {tenants: selector, selector}         2.0's tenant_id and segment_id are read, too
//! rule  {protocol, ports: [80, "8000-8080", "http"], port_ranges: [[1, 9]], icmp_type, icmp_code}
//! ```
//!
//! Every rule allows, in both directions: `direction: egress` isolates the targets outbound and allows what the rules
//! match. Romana 2.0's egress policies were block lists; they are refused rather than inverted. They are recognised
//! by the list `ingress` beside `direction: egress`.

mod read;
mod write;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess};
use serde::{Deserialize, Serialize};

pub(super) use read::selector;
pub use write::to_document;

use super::Policy;
use crate::refusal::Refusal;

/// A policy request body: any number of policies, in any of the three wrappings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Document {
    pub securitypolicies: Vec<PolicyDocument>,
}

/// One policy as a document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct PolicyDocument {
    /// Its name. A number is read as its decimal digits.
    #[serde(deserialize_with = "name_or_number", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::schema::name_or_number"))]
    pub name: Option<String>,
    /// The name in Romana 2.0's documents; older ones have numeric ids.
    #[serde(deserialize_with = "name_or_number", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::schema::name_or_number"))]
    pub id: Option<String>,
    /// For information.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Which direction is isolated; absent if both lists are present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    pub applied_to: Vec<Party>,
    /// The other side, in Romana's own form with one rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<Party>>,
    /// The traffic, in Romana's own form with one rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<Kind>>,
    /// Inbound traffic to allow; if present, the policy isolates inbound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<Opening>>,
    /// Outbound traffic to allow; if present, the policy isolates outbound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<Opening>>,
}

/// A direction of traffic, as seen from the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the target.
    Ingress,
    /// From the target.
    Egress,
}

impl Direction {
    /// Its name in JSON and text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// Allows traffic that matches any of `rules` with any of `peers`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Opening {
    /// The other side.
    pub peers: Vec<Party>,
    /// The traffic.
    pub rules: Vec<Kind>,
}

/// A target or a peer. The module documentation lists the valid combinations of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(transform = crate::schema::with_aliases))]
#[serde(deny_unknown_fields, default)]
pub struct Party {
    /// `any`, `host` or `local`; peers only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// `host` or `local`; targets only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dest: Option<String>,
    /// An address range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
    /// Subranges that do not match; peers only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// Id of a tenant.
    #[serde(alias = "tenant_id", skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(alias = "segment_id", skip_serializing_if = "Option::is_none")]
    pub segment: Option<String>,
    /// Selects tenants by labels; peers only, together with `selector`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenants: Option<Labelled>,
    /// Selects endpoints of the tenants by labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<Labelled>,
}

/// A label selector; Kubernetes' field names are accepted as well.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(transform = crate::schema::with_aliases))]
#[serde(deny_unknown_fields, default)]
pub struct Labelled {
    /// Labels that must have these values.
    #[serde(
        alias = "matchLabels",
        deserialize_with = "absent",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// Further conditions.
    #[serde(
        alias = "matchExpressions",
        deserialize_with = "absent",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub expressions: Vec<Condition>,
}

/// One condition on a label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// The label's key.
    pub key: String,
    /// The operator of the condition.
    pub operator: Operator,
    /// The values for `In` and `NotIn`.
    #[serde(default, deserialize_with = "absent", skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// Reads `null`, which Go writes for an empty list or map, as an absent field.
pub(super) fn absent<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A name, which may be a number: it is read as its decimal digits.
fn name_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a name is a text or a whole number that is not negative")]
    enum Name {
        Text(String),
        Number(u64),
    }
    Ok(Option::<Name>::deserialize(deserializer)?.map(|name| match name {
        Name::Text(text) => text,
        Name::Number(number) => number.to_string(),
    }))
}

/// The operator of a condition on a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Operator {
    /// The label has one of the values.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    Exists,
    /// The label is absent.
    DoesNotExist,
}

/// A kind of traffic: a rule of Romana's own form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Kind {
    /// `any`, `tcp`, `udp`, `sctp` or `icmp`, case-insensitive.
    pub protocol: String,
    /// Numbers, ranges `"8000-8080"` and names; absent: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortDocument>,
    /// Romana 2.0's ranges: first and last number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port_ranges: Vec<(u64, u64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u64>,
    /// ICMP code; only with a type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u64>,
    /// Must be `true` if present: replies to allowed traffic are always allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_stateful: Option<bool>,
}

/// A port in a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "a port is a number, a range \"8000-8080\" or a name")]
pub enum PortDocument {
    Number(u64),
    /// A range `low-high`, or a name.
    Text(String),
}

/// Converts a document to valid policies ([`Policy::check`]).
///
/// # Errors
/// [`Refusal::InvalidPolicy`] with the path of the field in the document, such as `peers[1].cidr`.
/// [`Refusal::InvalidName`] for the name of a policy.
pub fn parse(document: &Document) -> Result<Vec<Policy>, Refusal> {
    let mut policies: Vec<Policy> = Vec::with_capacity(document.securitypolicies.len());
    let mut names = alloc::collections::BTreeSet::new();
    for (i, one) in document.securitypolicies.iter().enumerate() {
        let named = one.name.as_deref().or(one.id.as_deref()).filter(|name| !name.is_empty());
        let policy = named.map_or_else(|| format!("#{}", i + 1), printable);
        let refuse = |(field, why)| Refusal::InvalidPolicy { policy: policy.clone(), field, why };
        let read = read::policy(one).map_err(refuse)?;
        if !names.insert(read.name.clone()) {
            return Err(refuse(("name".into(), "another policy of the document has it".into())));
        }
        read.check().map_err(|refusal| located(one, refusal))?;
        policies.push(read);
    }
    Ok(policies)
}

/// A refusal by the model, with the field path of the document.
fn located(document: &PolicyDocument, refusal: Refusal) -> Refusal {
    let Refusal::InvalidPolicy { policy, field, why } = refusal else { return refusal };
    let mut field = field.replace(".traffic", ".rules").replace(".icmp.code", ".icmp_code");
    if field.ends_with(".icmp") {
        field += "_type";
    }
    if document.peers.is_some() || document.rules.is_some() {
        field = field.replace("ingress[0].", "").replace("egress[0].", "");
    }
    Refusal::InvalidPolicy { policy, field, why }
}

/// Untrusted text for a message: truncated, without control characters.
fn printable(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_default).collect()
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Wrapping)
    }
}

/// Distinguishes the three wrappings while keeping the position of an error, which an untagged enum would lose.
struct Wrapping;

impl<'de> serde::de::Visitor<'de> for Wrapping {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{\"securitypolicies\": [...]}, a policy, or a list of policies")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Document, A::Error> {
        let mut securitypolicies = Vec::new();
        while let Some(policy) = seq.next_element()? {
            securitypolicies.push(policy);
        }
        Ok(Document { securitypolicies })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
        let first: Option<String> = map.next_key()?;
        if first.as_deref() != Some("securitypolicies") {
            let one =
                PolicyDocument::deserialize(MapAccessDeserializer::new(Resumed { first, map }))?;
            return Ok(Document { securitypolicies: vec![one] });
        }
        let securitypolicies = map.next_value()?;
        match map.next_key::<String>()? {
            None => Ok(Document { securitypolicies }),
            Some(key) => {
                let key = printable(&key);
                Err(A::Error::custom(format!("\"{key}\" cannot stand beside securitypolicies")))
            }
        }
    }
}

/// A map whose first key has been read already.
struct Resumed<A> {
    first: Option<String>,
    map: A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Resumed<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        match self.first.take() {
            Some(key) => seed.deserialize(key.into_deserializer()).map(Some),
            None => self.map.next_key_seed(seed),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

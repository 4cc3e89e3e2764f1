//! Names of objects, chosen by operators and orchestrators. One newtype per kind, so that kinds cannot be confused;
//! all share one rule ([`check`]).
//!
//! Deserialising never fails and keeps the name as sent; `decide` refuses invalid names. So an old log stays readable
//! when a rule is tightened.

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::limits::NAME_BYTES_MAX;
use crate::refusal::Refusal;

/// The rule for all names: 1 to [`NAME_BYTES_MAX`] bytes of ASCII letters, digits and `. _ - : @`,
/// starting with a letter or a digit. No slash (names are URL path segments), no space, no control
/// character.
///
/// # Errors
/// [`Refusal::InvalidName`] with the field and the reason.
pub fn check(field: &'static str, name: &str) -> Result<(), Refusal> {
    let refuse = |why: &str| {
        let shown: String = name.chars().take(64).flat_map(char::escape_default).collect();
        Err(Refusal::InvalidName { field: field.into(), name: shown, why: why.into() })
    };
    if name.is_empty() {
        return refuse("it is empty");
    }
    if name.len() > NAME_BYTES_MAX {
        return refuse("it is longer than 253 bytes");
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return refuse("it does not start with a letter or a digit");
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:@".contains(&b)) {
        return refuse("it has a character other than letters, digits and . _ - : @");
    }
    Ok(())
}

/// Deserialises text directly into shared memory. Serde's own implementation creates a `String` first: one more
/// allocation for each of the five names in an `AllocateAddress`, on every replica.
struct SharedText;

impl de::Visitor<'_> for SharedText {
    type Value = Arc<str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Arc<str>, E> {
        Ok(text.into())
    }
}

macro_rules! names {
    ($($(#[$doc:meta])* $kind:ident, $field:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $kind(Arc<str>);

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(SharedText).map(Self)
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $kind {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> alloc::borrow::Cow<'static, str> {
                stringify!($kind).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                crate::schema::name()
            }
        }

        impl $kind {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Whether the name follows the rule of [`check`].
            ///
            /// # Errors
            /// [`Refusal::InvalidName`].
            pub fn check(&self) -> Result<(), Refusal> {
                check($field, &self.0)
            }
        }

        impl From<&str> for $kind {
            fn from(name: &str) -> Self {
                Self(name.into())
            }
        }

        impl From<String> for $kind {
            fn from(name: String) -> Self {
                Self(name.into())
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    )*};
}

names! {
    /// A host (Kubernetes node, hypervisor, server).
    HostName, "host";
    /// A network: one address range that endpoints get addresses from.
    NetworkName, "network";
    /// A tenant (Kubernetes namespace, OpenStack project).
    TenantId, "tenant";
    /// A segment: a part of a tenant.
    SegmentId, "segment";
    /// The name of an address: the idempotency key of its allocation.
    AddressName, "address name";
    /// A policy.
    PolicyName, "policy";
    /// A virtual IP.
    VipName, "VIP";
    /// A pool of addresses for VIPs.
    VipPoolName, "VIP pool";
    /// Who submitted a command: a user, an agent (`agent:host`), a leader task (`task:reaper`).
    Actor, "actor";
    /// An agent, identified by the id of its state directory.
    InstanceId, "agent instance";
    /// A VPC route table or zone that a router serves.
    TableId, "route table";
    /// The kind of an object outside that an object comes from, such as `Pod`.
    SourceKind, "source kind";
    /// The id of an object outside, unique in all time.
    SourceUid, "source uid";
}

/// Prefix of the names of addresses that an agent holds in reserve.
pub const RESERVE_PREFIX: &str = "reserve:";

/// Prefixes of the names of addresses that the CNI plugin requests, IPv4 and IPv6:
/// `cni:<tenant>.<pod>:<container>:<interface>`, without the dot and the pod if there is no pod.
pub const PLUGIN_PREFIXES: [&str; 2] = ["cni:", "cni6:"];

/// The segment of what names none.
pub const DEFAULT_SEGMENT: &str = "default";

/// Whether the CNI plugin requested the address for a Kubernetes pod of this tenant.
#[must_use]
pub fn is_pod(name: &AddressName, tenant: &TenantId) -> bool {
    let mut prefixes = PLUGIN_PREFIXES.iter();
    let rest = prefixes.find_map(|prefix| name.as_str().strip_prefix(prefix));
    let rest = rest.and_then(|rest| rest.strip_prefix(tenant.as_str()));
    rest.is_some_and(|rest| rest.starts_with('.'))
}

//! Names of an attachment's allocations: readable in the audit log, and
//! derivable from the parameters of a DEL.

use romana_statemachine::limits::NAME_BYTES_MAX;
use romana_statemachine::name::AddressName;

use crate::ipc::Key;
use crate::ownership::ADDRESS_PREFIXES;

/// Suffix of all names of an attachment. Neither part can contain a colon, so suffixes are unique.
fn suffix(key: &Key) -> String {
    format!(":{}:{}", key.container_id, key.ifname)
}

/// `cni:<tenant>.<pod>:<container>:<interface>`, or `cni6:…` for IPv6; tenant and
/// pod are truncated if too long.
#[must_use]
pub fn name(tenant: &str, pod: &str, key: &Key, v4: bool) -> AddressName {
    let [four, six] = ADDRESS_PREFIXES;
    let (prefix, tail) = (if v4 { four } else { six }, suffix(key));
    let dot = if pod.is_empty() { "" } else { "." };
    let room = NAME_BYTES_MAX.saturating_sub(prefix.len() + tail.len());
    let head: String = format!("{tenant}{dot}{pod}").chars().take(room).collect();
    AddressName::from(format!("{prefix}{head}{tail}"))
}

/// Whether a name is that of an IPv4 address.
pub(super) fn is_v4(name: &AddressName) -> bool {
    name.as_str().starts_with(ADDRESS_PREFIXES[0])
}

/// Whether a name belongs to the attachment of a key.
#[must_use]
pub fn is_of(name: &AddressName, key: &Key) -> bool {
    is_ours(name.as_str()) && name.as_str().ends_with(&suffix(key))
}

/// The key of the attachment that a name belongs to.
pub(super) fn key_of(name: &AddressName) -> Option<Key> {
    let mut parts = name.as_str().rsplitn(3, ':');
    let (ifname, container_id, head) = (parts.next()?, parts.next()?, parts.next()?);
    let key = Key { container_id: container_id.into(), ifname: ifname.into() };
    (is_ours(name.as_str()) && !head.is_empty()).then_some(key)
}

/// Whether a name belongs to an attachment.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    ADDRESS_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_are_found_by_their_key(
            tenant in "[a-z0-9]{1,63}",
            pod in "[a-z0-9.-]{0,253}",
            container_id in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}",
            ifname in "[a-z0-9@._-]{1,15}",
            other in "([a-b.]{1,3}|[a-zA-Z0-9][a-zA-Z0-9_.-]{0,9})",
        ) {
            let key = Key { container_id, ifname };
            let stranger = Key { container_id: other, ..key.clone() };
            for v4 in [true, false] {
                let name = name(&tenant, &pod, &key, v4);
                prop_assert!(name.check().is_ok());
                prop_assert!(is_of(&name, &key));
                prop_assert_eq!(key_of(&name), Some(key.clone()));
                prop_assert_eq!(is_of(&name, &stranger), stranger == key);
            }
        }
    }
}

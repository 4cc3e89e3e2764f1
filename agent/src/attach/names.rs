//! Names of an attachment's addresses: for people in the audit, and found again from what every DEL has.

use romana_statemachine::limits::NAME_BYTES_MAX;
use romana_statemachine::name::AddressName;

use crate::wire::Key;

/// Begins the names of what the plugin attached. What has another name on this host (a VM, an address that
/// an operator allocated) is not the agent's to judge.
const PREFIX: &str = "cni:";
/// Ends the name of the IPv6 address of an attachment that has both.
const V6: &str = ".6";

/// The end of an attachment's names: `.<container>.<interface>`.
#[must_use]
pub fn suffix(key: &Key) -> String {
    format!(".{}.{}", key.container_id, key.ifname)
}

/// `cni:<tenant>.<pod>.<container>.<interface>`, for IPv6 with `.6`; tenant and pod are cut if it is too
/// long.
#[must_use]
pub fn name(tenant: &str, pod: &str, key: &Key, v4: bool) -> AddressName {
    let pod = if pod.is_empty() { String::new() } else { format!(".{pod}") };
    let family = if v4 { "" } else { V6 };
    let tail = format!("{}{family}", suffix(key));
    let room = NAME_BYTES_MAX.saturating_sub(PREFIX.len() + tail.len());
    let head: String = format!("{tenant}{pod}").chars().take(room).collect();
    AddressName::from(format!("{PREFIX}{head}{tail}"))
}

/// Whether a name is of an attachment.
#[must_use]
pub fn is_of(name: &AddressName, key: &Key) -> bool {
    let name = name.as_str();
    is_ours(name) && name.strip_suffix(V6).unwrap_or(name).ends_with(&suffix(key))
}

/// Whether a name is of some attachment.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX)
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
            ifname in "[a-z0-9]{1,15}",
        ) {
            let key = Key { container_id, ifname };
            for v4 in [true, false] {
                let name = name(&tenant, &pod, &key, v4);
                prop_assert!(name.check().is_ok());
                prop_assert!(is_of(&name, &key));
            }
        }
    }
}

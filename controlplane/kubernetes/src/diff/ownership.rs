//! Whose an address is now, and which hosts are still in use.

use std::collections::BTreeSet;

use romana_statemachine::State;
use romana_statemachine::command::{Imported, ObjectKey};
use romana_statemachine::limits::NAME_BYTES_MAX;
use romana_statemachine::name::{AddressName, PLUGIN_PREFIXES};

use crate::desired::{Desired, Translation, Wanted};

/// Whether the address of an endpoint is that of the pod that shows it. Other objects are always their own.
pub(super) enum Claim {
    Own,
    /// The pod is being deleted and its address was released.
    Ended,
    /// The address was allocated to another container.
    Another(AddressName),
}

/// The pod's object follows what happens on the node: it shows an address for a while after that was released, and
/// after it was allocated to another pod, whose object does not show it yet. The allocation is what counts, if the CNI
/// plugin made it: its name says for which pod.
pub(super) fn claim(state: &State, desired: &Desired) -> Claim {
    let Wanted::Object(Imported::Endpoint(endpoint)) = &desired.wanted else { return Claim::Own };
    let allocation = state.ipam().by_ip(endpoint.ip);
    let pod = format!("{}.{}", desired.object.namespace, desired.object.name);
    match allocation.and_then(|allocation| Some((is_for(&allocation.name, &pod)?, allocation.name)))
    {
        Some((true, _)) => Claim::Own,
        Some((false, name)) => Claim::Another(name),
        None if !desired.ending => Claim::Own,
        // An address that the plugin did not allocate: the endpoint stays until the object is gone.
        None => match state.source(&ObjectKey::Endpoint(endpoint.ip)) {
            Some(source) if *source == desired.source => Claim::Own,
            _ => Claim::Ended,
        },
    }
}

/// Whether the plugin's name of an address, `cni:<namespace>.<pod>:<container>:<interface>`, is for a pod; `None`: the
/// plugin did not allocate it. A long name is cut after the first part of the pod's.
fn is_for(name: &AddressName, pod: &str) -> Option<bool> {
    let text = name.as_str();
    let rest = PLUGIN_PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix))?;
    let whose = rest.rsplitn(3, ':').nth(2)?;
    let cut = text.len() == NAME_BYTES_MAX && pod.starts_with(whose);
    Some(whose == pod || cut)
}

/// Hosts whose Node is gone and that still have pods. They are evicted when their pods are gone too: until then
/// containers may run there, and their addresses would be given to others (P7). Unless another Node has an address of
/// the host: then the machine has another name now.
pub(super) fn occupied(state: &State, translation: &Translation) -> BTreeSet<ObjectKey> {
    let hosts = translation.desired.values().filter_map(|desired| match &desired.wanted {
        Wanted::Object(Imported::Host(spec)) => Some(spec),
        _ => None,
    });
    let taken: BTreeSet<_> = hosts
        .flat_map(|spec| [spec.ip].into_iter().chain(spec.addresses.iter().copied()))
        .collect();
    let free = |name: &&romana_statemachine::name::HostName| {
        state.host(name).is_some_and(|host| host.ips().all(|ip| !taken.contains(&ip)))
    };
    translation.occupied.iter().filter(free).map(|name| ObjectKey::Host(name.clone())).collect()
}

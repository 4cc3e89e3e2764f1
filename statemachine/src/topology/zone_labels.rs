//! Kubernetes renamed the labels of regions and zones (1.17) and took the old ones from nodes later: each is
//! understood where the other one is asked for.

use alloc::borrow::Cow;

use crate::labels::Labels;
use crate::version;

/// The name now, and the older one. Built-in topologies ask for the older one, as Romana 2.0's did.
const NAMES: [(&str, &str); 2] = [
    ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"),
];

/// A host's labels as groups see them at a version of behaviour: with the other name of what it has by one name
/// only. Before [`version::ZONE_LABELS`], labels had to be spelled as the topology spells them.
pub(crate) fn both_names(at: u16, labels: &Labels) -> Cow<'_, Labels> {
    let mut seen = Cow::Borrowed(labels);
    for (new, old) in NAMES.iter().filter(|_| at >= version::ZONE_LABELS) {
        let (missing, value) = match (labels.get(*new), labels.get(*old)) {
            (Some(value), None) => (*old, value),
            (None, Some(value)) => (*new, value),
            _ => continue,
        };
        seen.to_mut().insert(missing.into(), value.clone());
    }
    seen
}

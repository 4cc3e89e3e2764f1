//! Kubernetes renamed the labels of regions and zones (1.17) and took the old ones from nodes later: each is
//! understood where the other one is asked for.

use alloc::borrow::Cow;

use crate::command::Labels;

/// From this version on. Before, labels had to be spelled as the topology spells them.
const VERSION: u16 = 4;

/// The name now, and the older one. Built-in topologies ask for the older one, as Romana 2.0's did.
const NAMES: [(&str, &str); 2] = [
    ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"),
];

/// A host's labels as groups see them: with the other name of what it has by one name only.
pub(crate) fn both_names(version: u16, labels: &Labels) -> Cow<'_, Labels> {
    let mut seen = Cow::Borrowed(labels);
    for (new, old) in NAMES.iter().filter(|_| version >= VERSION) {
        let (missing, value) = match (labels.get(*new), labels.get(*old)) {
            (Some(value), None) => (*old, value),
            (None, Some(value)) => (*new, value),
            _ => continue,
        };
        seen.to_mut().insert(missing.into(), value.clone());
    }
    seen
}

//! Kubernetes renamed the labels of regions and zones (1.17) and later removed the old ones from nodes: either name
//! satisfies a requirement for the other.

use alloc::borrow::Cow;

use crate::labels::Labels;
use crate::version;

/// The current and the old name. Built-in topologies use the old one, as in Romana 2.0.
const NAMES: [(&str, &str); 2] = [
    ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"),
];

/// A host's labels as groups see them at a version of behaviour: a label with only one of the two names gets the
/// other as well. Before [`version::ZONE_LABELS`], labels had to match the topology's spelling.
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

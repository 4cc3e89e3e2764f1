//! Objects → what the log should have. One file per kind of object.

mod backends;
mod nodes;
pub(crate) mod pods;
mod policies;
mod requests;
mod services;
mod sharing;

use romana_statemachine::command::{Imported, TenantSpec};
use romana_statemachine::policy::party::KUBERNETES_NAMESPACE;

use crate::desired::{Desired, Translation};
use crate::objects::Objects;

/// Translates all objects. Deterministic: equal objects give an equal translation.
#[must_use]
pub fn translate(objects: &Objects) -> Translation {
    let mut out = Translation::default();
    nodes::translate(&objects.nodes, &mut out);
    for namespace in objects.namespaces.values() {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let mut labels = namespace.metadata.labels.clone().unwrap_or_default();
        // Servers before 1.21 do not set it, and tenants with it follow the rules of NetworkPolicy.
        labels.insert(KUBERNETES_NAMESPACE.to_owned(), name.clone());
        let tenant = TenantSpec { id: name.into(), labels };
        out.want(Desired::of(&**namespace, Imported::Tenant(tenant)));
    }
    pods::translate(&objects.pods, &mut out);
    policies::translate(&objects.policies, &mut out);
    services::translate(objects, &mut out);
    out.problems.sort();
    out.problems.dedup();
    out
}

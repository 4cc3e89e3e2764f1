//! The zone: records of Services, and how a question is answered from them. Pure.
//!
//! The records are those of the Kubernetes DNS specification, version 1.1.0:
//!
//! | name | records | section |
//! |---|---|---|
//! | `dns-version.ZONE` | TXT | 2.2 |
//! | `SERVICE.NAMESPACE.svc.ZONE` | A, AAAA; headless: those of its endpoints; CNAME of an ExternalName | 2.3.1, 2.4.1, 2.5 |
//! | `HOST.SERVICE.NAMESPACE.svc.ZONE` | A, AAAA of an endpoint | 2.4.1 |
//! | `_PORT._PROTOCOL.SERVICE.NAMESPACE.svc.ZONE` | SRV | 2.3.2, 2.4.2 |
//! | `….in-addr.arpa`, `….ip6.arpa` | PTR | 2.3.3, 2.4.3 |
//! | `A-B-C-D.NAMESPACE.pod.ZONE` | A, AAAA of a pod, if switched on | kube-dns |
//! | `VIP.vip.ZONE` | A, AAAA of a VIP of Romana | |
//! | `NAME.SEGMENT.TENANT.endpoint.ZONE`, `SEGMENT.TENANT.endpoint.ZONE` | A, AAAA of its endpoints | |

mod answer;
mod reverse;
mod settings;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::inventory::{Port, ServiceKind};
pub use answer::{Answer, Outcome, Zone};
pub use settings::{Part, Pods, ServiceName, Settings};

/// The records of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRecords {
    pub kind: ServiceKind,
    /// Ports of the Service itself.
    pub ports: Vec<Port>,
    /// Published backends, by label.
    pub hosts: BTreeMap<String, Host>,
    /// All their addresses, sorted.
    pub addresses: Vec<IpAddr>,
    /// The name of the VIP, if it is that of another Service.
    pub shared_vip: Option<String>,
}

/// A published backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<Port>,
}

/// What an address is of: a Service, or a host of a headless one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    pub namespace: String,
    pub service: String,
    pub host: Option<String>,
}

/// All Services of a cluster. Cheap to clone: persistent maps.
#[derive(Clone, Debug, Default)]
pub struct Services {
    namespaces: OrdMap<String, Namespace>,
    owners: OrdMap<IpAddr, OrdSet<Owner>>,
    count: usize,
    changes: u32,
}

#[derive(Clone, Debug, Default)]
struct Namespace {
    /// Whether there is such an object; its Services may be known before it.
    exists: bool,
    services: OrdMap<String, Arc<ServiceRecords>>,
}

impl Services {
    /// The records of a Service.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<&ServiceRecords> {
        self.namespaces.get(namespace)?.services.get(name).map(|records| &**records)
    }

    /// Whether a namespace exists.
    #[must_use]
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace)
    }

    /// What an address is of.
    pub fn owners(&self, ip: IpAddr) -> impl Iterator<Item = &Owner> {
        self.owners.get(&ip).into_iter().flatten()
    }

    /// Number of Services.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Number of changes so far: the serial of the zone.
    #[must_use]
    pub fn changes(&self) -> u32 {
        self.changes
    }

    /// Adds a namespace, or removes it. One that has Services exists.
    pub fn set_namespace(&mut self, name: &str, exists: bool) {
        self.changes = self.changes.wrapping_add(1);
        self.namespaces.entry(name.into()).or_default().exists = exists;
        self.forget_empty(name);
    }

    /// Replaces the records of a Service; `None`: it is gone.
    pub fn set(&mut self, namespace: &str, name: &str, records: Option<ServiceRecords>) {
        if self.get(namespace, name) == records.as_ref() {
            return;
        }
        self.changes = self.changes.wrapping_add(1);
        let of = self.namespaces.entry(namespace.into()).or_default();
        let before = match records.clone() {
            Some(records) => of.services.insert(name.into(), Arc::new(records)),
            None => of.services.remove(name),
        };
        self.count = self.count + usize::from(records.is_some()) - usize::from(before.is_some());
        for (ip, owner) in before.iter().flat_map(|records| owned(namespace, name, records)) {
            if let Some(owners) = self.owners.get_mut(&ip) {
                owners.remove(&owner);
                if owners.is_empty() {
                    self.owners.remove(&ip);
                }
            }
        }
        for (ip, owner) in records.iter().flat_map(|records| owned(namespace, name, records)) {
            self.owners.entry(ip).or_default().insert(owner);
        }
        self.forget_empty(namespace);
    }

    fn forget_empty(&mut self, namespace: &str) {
        let of = self.namespaces.get(namespace);
        if of.is_some_and(|of| !of.exists && of.services.is_empty()) {
            self.namespaces.remove(namespace);
        }
    }
}

/// The addresses of a Service that have a PTR record: its cluster IPs (2.3.3), or the backends of a headless one (2.4.3).
fn owned(namespace: &str, service: &str, records: &ServiceRecords) -> Vec<(IpAddr, Owner)> {
    let owner = |host: Option<&String>| Owner {
        namespace: namespace.into(),
        service: service.into(),
        host: host.cloned(),
    };
    match &records.kind {
        ServiceKind::Cluster(ips) => ips.iter().map(|ip| (*ip, owner(None))).collect(),
        ServiceKind::Headless => {
            let hosts = records.hosts.iter();
            let each = |(label, host): (&String, &Host)| {
                let owner = owner(Some(label));
                host.addresses.iter().map(|ip| (*ip, owner.clone())).collect::<Vec<_>>()
            };
            hosts.flat_map(each).collect()
        }
        ServiceKind::External(_) => Vec::new(),
    }
}

//! Keeps the zone of a Kubernetes cluster up to date with its objects: a change of an object recomputes the records of
//! one Service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::inventory::{Backend, Inventory, Service, ServiceKind, Slice, address_label};
use crate::zone::{Host, ServiceRecords, Services};

/// Namespace and name of a Service.
type Key = (String, String);

/// A change of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A namespace exists, or no longer.
    Namespace(String, bool),
    /// Namespace, name and state of a Service; `None`: deleted.
    Service(String, String, Option<Service>),
    /// The same of a slice.
    Slice(String, String, Option<Slice>),
}

/// A cluster's objects, and the zone that follows from them.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    inventory: Inventory,
    /// Names of the slices of each Service.
    slices_of: BTreeMap<Key, BTreeSet<String>>,
    services: Services,
}

impl Catalogue {
    /// Builds the zone of an inventory.
    #[must_use]
    pub fn new(inventory: Inventory) -> Self {
        let mut this = Self::default();
        this.replace(inventory);
        this
    }

    /// The objects.
    #[must_use]
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// The zone; cheap to clone.
    #[must_use]
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// Replaces all objects. What stays the same is not touched.
    pub fn replace(&mut self, new: Inventory) {
        for change in difference(&self.inventory, &new) {
            self.apply(change);
        }
    }

    /// Applies a change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Namespace(name, true) => {
                self.services.set_namespace(&name, true);
                self.inventory.namespaces.insert(name);
            }
            Change::Namespace(name, false) => {
                self.services.set_namespace(&name, false);
                self.inventory.namespaces.remove(&name);
            }
            Change::Service(namespace, name, service) => {
                put(&mut self.inventory.services, &namespace, &name, service);
                self.recompute(namespace, name);
            }
            Change::Slice(namespace, name, slice) => self.set_slice(namespace, name, slice),
        }
    }

    fn set_slice(&mut self, namespace: String, name: String, slice: Option<Slice>) {
        let service = slice.as_ref().map(|slice| slice.service.clone());
        let before = put(&mut self.inventory.slices, &namespace, &name, slice);
        let before = before.map(|before| before.service);
        if let Some(old) = before.clone() {
            let key = (namespace.clone(), old);
            if let Some(names) = self.slices_of.get_mut(&key) {
                names.remove(&name);
                if names.is_empty() {
                    self.slices_of.remove(&key);
                }
            }
        }
        if let Some(new) = &service {
            self.slices_of.entry((namespace.clone(), new.clone())).or_default().insert(name);
        }
        let moved = before.filter(|before| service.as_ref() != Some(before));
        for service in service.into_iter().chain(moved) {
            self.recompute(namespace.clone(), service);
        }
    }

    fn recompute(&mut self, namespace: String, name: String) {
        let service = self.inventory.services.get(&namespace).and_then(|of| of.get(&name));
        let records = service.map(|service| {
            let slices = self.inventory.slices.get(&namespace);
            let names = self.slices_of.get(&(namespace.clone(), name.clone()));
            let slices = names.into_iter().flatten().filter_map(|name| slices?.get(name));
            records(service, slices)
        });
        self.services.set(&namespace, &name, records);
    }
}

/// Puts a value into a map of maps, or removes it; returns the one before.
fn put<T>(
    all: &mut BTreeMap<String, BTreeMap<String, T>>,
    namespace: &str,
    name: &str,
    value: Option<T>,
) -> Option<T> {
    match value {
        Some(value) => all.entry(namespace.into()).or_default().insert(name.into(), value),
        None => {
            let of = all.get_mut(namespace)?;
            let before = of.remove(name);
            if of.is_empty() {
                all.remove(namespace);
            }
            before
        }
    }
}

/// The changes that lead from one inventory to another.
fn difference(old: &Inventory, new: &Inventory) -> Vec<Change> {
    let mut changes = Vec::new();
    let gone = old.namespaces.difference(&new.namespaces);
    changes.extend(gone.map(|name| Change::Namespace(name.clone(), false)));
    let come = new.namespaces.difference(&old.namespaces);
    changes.extend(come.map(|name| Change::Namespace(name.clone(), true)));
    changed(&old.services, &new.services, |namespace, name, service| {
        changes.push(Change::Service(namespace, name, service));
    });
    changed(&old.slices, &new.slices, |namespace, name, slice| {
        changes.push(Change::Slice(namespace, name, slice));
    });
    changes
}

fn changed<T: Clone + PartialEq>(
    old: &BTreeMap<String, BTreeMap<String, T>>,
    new: &BTreeMap<String, BTreeMap<String, T>>,
    mut change: impl FnMut(String, String, Option<T>),
) {
    let get = |all: &BTreeMap<String, BTreeMap<String, T>>, namespace: &String, name: &String| {
        all.get(namespace).and_then(|of| of.get(name)).cloned()
    };
    for (namespace, of) in old {
        for name in of.keys().filter(|name| get(new, namespace, name).is_none()) {
            change(namespace.clone(), name.clone(), None);
        }
    }
    for (namespace, of) in new {
        for (name, value) in of {
            if get(old, namespace, name).as_ref() != Some(value) {
                change(namespace.clone(), name.clone(), Some(value.clone()));
            }
        }
    }
}

/// The records of a Service, from its slices. A backend is named by its hostname, or else by its address.
#[must_use]
pub fn records<'a>(service: &Service, slices: impl Iterator<Item = &'a Slice>) -> ServiceRecords {
    let mut hosts: BTreeMap<String, Host> = BTreeMap::new();
    if !matches!(service.kind, ServiceKind::External(_)) {
        let published = |backend: &&Backend| backend.ready || service.publish_not_ready;
        for group in slices.flat_map(|slice| &slice.groups) {
            for backend in group.backends.iter().filter(published) {
                for &ip in &backend.addresses {
                    let label = backend.hostname.as_deref().map(str::to_ascii_lowercase);
                    let host = hosts.entry(label.unwrap_or_else(|| address_label(ip))).or_default();
                    add(&mut host.addresses, ip);
                    group.ports.iter().for_each(|port| add(&mut host.ports, port.clone()));
                }
            }
        }
    }
    let mut addresses: Vec<IpAddr> =
        hosts.values().flat_map(|host| host.addresses.iter().copied()).collect();
    addresses.sort();
    addresses.dedup();
    let (kind, ports) = (service.kind.clone(), service.ports.clone());
    ServiceRecords { kind, ports, hosts, addresses, shared_vip: service.shared_vip.clone() }
}

/// Adds an element to a short list that has each once.
fn add<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

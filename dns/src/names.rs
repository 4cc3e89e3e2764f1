//! What Romana's feed says that has names: VIPs, endpoints, named addresses; and the networks whose clients may ask for
//! any name.
//!
//! The maps are persistent: the view is copied with every batch of events while questions are answered from the one before.

use std::collections::BTreeMap;
use std::net::IpAddr;

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;
use romana_client::follow::Snapshot;
use romana_client::mirror::{Cursor, SnapshotAddress, SnapshotError, View};
use romana_statemachine::command::Endpoint;
use romana_statemachine::topology::TopologySpec;
use romana_statemachine::{Event, Record, Topic, Vip};
use serde::{Deserialize, Serialize};

use crate::inventory::is_label;

/// VIPs of one Service.
const VIPS_MAX: usize = 4;

/// Names from Romana's feed. Names are kept in lower case, as questions are asked in any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct Names {
    #[serde(flatten)]
    cursor: Cursor,
    vips: OrdMap<String, IpAddr>,
    #[serde(skip)]
    vips_at: OrdMap<IpAddr, String>,
    /// Endpoints, and named addresses.
    places: OrdMap<IpAddr, Place>,
    /// Tenants, their segments, and the addresses there.
    #[serde(skip)]
    index: OrdMap<String, OrdMap<String, Segment>>,
    networks: Vec<IpNet>,
}

/// Where an address is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    tenant: String,
    segment: String,
    /// The name of its allocation, if that is a label.
    name: Option<String>,
    /// Whether it is an endpoint, besides an allocation.
    endpoint: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Segment {
    addresses: OrdSet<IpAddr>,
    names: OrdMap<String, OrdSet<IpAddr>>,
}

impl Names {
    /// The address of a VIP.
    #[must_use]
    pub fn vip(&self, name: &str) -> Option<IpAddr> {
        self.vips.get(name).copied()
    }

    /// The addresses of all VIPs of a Service: the first has its name, further ones a number behind it.
    #[must_use]
    pub fn vips_of(&self, service: &str) -> Vec<IpAddr> {
        let more = (2..=VIPS_MAX).filter_map(|number| self.vip(&format!("{service}.{number}")));
        self.vip(service).into_iter().chain(more).collect()
    }

    /// The VIP at an address.
    #[must_use]
    pub fn vip_at(&self, ip: IpAddr) -> Option<&str> {
        self.vips_at.get(&ip).map(String::as_str)
    }

    /// Whether names of VIPs end with these labels.
    #[must_use]
    pub fn has_vips_below(&self, name: &str) -> bool {
        let below = |vip: &String| {
            vip.strip_suffix(name).is_some_and(|rest| rest.ends_with('.') || name.is_empty())
        };
        self.vips.keys().any(below)
    }

    /// Whether a tenant has addresses.
    #[must_use]
    pub fn has_tenant(&self, tenant: &str) -> bool {
        self.index.contains_key(tenant)
    }

    /// The addresses of a segment; `None`: it has none.
    #[must_use]
    pub fn segment(&self, tenant: &str, segment: &str) -> Option<Vec<IpAddr>> {
        let segment = self.index.get(tenant)?.get(segment)?;
        Some(segment.addresses.iter().copied().collect())
    }

    /// The addresses with a name.
    #[must_use]
    pub fn named(&self, tenant: &str, segment: &str, name: &str) -> Option<Vec<IpAddr>> {
        let named = self.index.get(tenant)?.get(segment)?.names.get(name)?;
        Some(named.iter().copied().collect())
    }

    /// Tenant, segment and name of an address.
    #[must_use]
    pub fn at(&self, ip: IpAddr) -> Option<(&str, &str, Option<&str>)> {
        let place = self.places.get(&ip)?;
        Some((&place.tenant, &place.segment, place.name.as_deref()))
    }

    /// The tenant of an endpoint.
    #[must_use]
    pub fn tenant_of(&self, ip: IpAddr) -> Option<&str> {
        self.places.get(&ip).filter(|place| place.endpoint).map(|place| &*place.tenant)
    }

    /// Romana's networks.
    #[must_use]
    pub fn networks(&self) -> &[IpNet] {
        &self.networks
    }

    /// Number of VIPs.
    #[must_use]
    pub fn vip_count(&self) -> usize {
        self.vips.len()
    }

    /// Number of addresses with names.
    #[must_use]
    pub fn address_count(&self) -> usize {
        self.places.len()
    }

    /// A number that changes with the content, as part of the zone's serial.
    #[must_use]
    pub fn serial(&self) -> u32 {
        // The low bits: only equality counts.
        let [.., a, b, c, d] = self.cursor.revision.get().to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }

    fn set_vip(&mut self, name: &str, ip: IpAddr) {
        let name = name.to_ascii_lowercase();
        self.remove_vip(&name);
        self.vips_at.insert(ip, name.clone());
        self.vips.insert(name, ip);
    }

    fn remove_vip(&mut self, name: &str) {
        let name = name.to_ascii_lowercase();
        if let Some(ip) = self.vips.remove(&name)
            && self.vips_at.get(&ip) == Some(&name)
        {
            self.vips_at.remove(&ip);
        }
    }

    fn set_endpoint(&mut self, endpoint: &Endpoint) {
        let (tenant, segment) = (endpoint.tenant.as_str(), endpoint.segment.as_str());
        let named = self.places.get(&endpoint.ip).and_then(|place| place.name.clone());
        self.set_place(endpoint.ip, Place::new(tenant, segment, named, true));
    }

    fn remove_endpoint(&mut self, ip: IpAddr) {
        let Some(place) = self.places.get(&ip).cloned() else { return };
        self.remove_place(ip);
        if place.name.is_some() {
            self.set_place(ip, Place { endpoint: false, ..place });
        }
    }

    /// An address was allocated: its name counts if it is a label, which names of containers' addresses are not.
    fn set_name(&mut self, ip: IpAddr, name: &str, tenant: &str, segment: &str) {
        let before = self.places.get(&ip).cloned();
        match (is_label(name), before) {
            (true, before) => {
                let endpoint = before.is_some_and(|before| before.endpoint);
                let name = Some(name.to_ascii_lowercase());
                self.set_place(ip, Place::new(tenant, segment, name, endpoint));
            }
            (false, Some(before)) if before.name.is_some() => self.remove_name(ip),
            (false, _) => {}
        }
    }

    fn remove_name(&mut self, ip: IpAddr) {
        let Some(place) = self.places.get(&ip).cloned() else { return };
        self.remove_place(ip);
        if place.endpoint {
            self.set_place(ip, Place { name: None, ..place });
        }
    }

    fn set_place(&mut self, ip: IpAddr, place: Place) {
        self.remove_place(ip);
        self.index(ip, &place);
        self.places.insert(ip, place);
    }

    fn index(&mut self, ip: IpAddr, place: &Place) {
        let tenant = self.index.entry(place.tenant.clone()).or_default();
        let segment = tenant.entry(place.segment.clone()).or_default();
        segment.addresses.insert(ip);
        if let Some(name) = &place.name {
            segment.names.entry(name.clone()).or_default().insert(ip);
        }
    }

    fn remove_place(&mut self, ip: IpAddr) {
        let Some(place) = self.places.remove(&ip) else { return };
        let Some(tenant) = self.index.get_mut(&place.tenant) else { return };
        if let Some(segment) = tenant.get_mut(&place.segment) {
            segment.addresses.remove(&ip);
            if let Some(name) = &place.name
                && let Some(named) = segment.names.get_mut(name)
            {
                named.remove(&ip);
                if named.is_empty() {
                    segment.names.remove(name);
                }
            }
            if segment.addresses.is_empty() {
                tenant.remove(&place.segment);
            }
        }
        if tenant.is_empty() {
            self.index.remove(&place.tenant);
        }
    }

    fn set_topology(&mut self, topology: &TopologySpec) {
        let networks = topology.networks.iter();
        self.networks = networks.filter_map(|network| network.cidr.parse().ok()).collect();
    }
}

impl Place {
    fn new(tenant: &str, segment: &str, name: Option<String>, endpoint: bool) -> Self {
        let (tenant, segment) = (tenant.to_ascii_lowercase(), segment.to_ascii_lowercase());
        Self { tenant, segment, name, endpoint }
    }
}

/// Names as they are on disk, without what follows from them.
#[derive(Deserialize)]
struct Stored {
    #[serde(flatten)]
    cursor: Cursor,
    vips: BTreeMap<String, IpAddr>,
    places: OrdMap<IpAddr, Place>,
    networks: Vec<IpNet>,
}

impl From<Stored> for Names {
    fn from(stored: Stored) -> Self {
        let Stored { cursor, vips, places, networks } = stored;
        let mut names = Self { cursor, networks, ..Self::default() };
        vips.iter().for_each(|(name, ip)| names.set_vip(name, *ip));
        for (ip, place) in places {
            names.set_place(ip, place);
        }
        names
    }
}

impl View for Names {
    fn topics(&self) -> Vec<Topic> {
        vec![Topic::Topology, Topic::Addresses, Topic::Endpoints, Topic::Vips]
    }

    fn restart(&self, snapshot: &Snapshot) -> Result<Self, SnapshotError> {
        let mut names = Self { cursor: Cursor::at(snapshot.revision), ..Self::default() };
        if let Some(topology) = snapshot.member::<Option<TopologySpec>>("topology")?.flatten() {
            names.set_topology(&topology);
        }
        for address in snapshot.list::<SnapshotAddress>("addresses")? {
            let (tenant, segment) = (address.tenant.as_str(), address.segment.as_str());
            names.set_name(address.ip, address.name.as_str(), tenant, segment);
        }
        for endpoint in snapshot.list::<Endpoint>("endpoints")? {
            names.set_endpoint(&endpoint);
        }
        for vip in snapshot.list::<Vip>("vips")? {
            names.set_vip(vip.name.as_str(), vip.ip);
        }
        Ok(names)
    }

    fn apply(&mut self, record: &Record) {
        match &record.event {
            Event::TopologySet(set) => self.set_topology(&set.topology),
            Event::VipRequested(vip) => self.set_vip(vip.name.as_str(), vip.ip),
            Event::VipRemoved(gone) => self.remove_vip(gone.name.as_str()),
            Event::EndpointSet(endpoint) => self.set_endpoint(endpoint),
            Event::EndpointRemoved(gone) => self.remove_endpoint(gone.ip),
            Event::AddressAllocated(got) => {
                let (tenant, segment) = (got.tenant.as_str(), got.segment.as_str());
                self.set_name(got.ip, got.name.as_str(), tenant, segment);
            }
            Event::AddressAdopted(got) => {
                let (tenant, segment) = (got.tenant.as_str(), got.segment.as_str());
                self.set_name(got.ip, got.name.as_str(), tenant, segment);
            }
            Event::AddressClaimed(got) => {
                let (tenant, segment) = (got.tenant.as_str(), got.segment.as_str());
                self.set_name(got.ip, got.name.as_str(), tenant, segment);
            }
            Event::AddressReleased(gone) => self.remove_name(gone.ip),
            _ => {}
        }
    }

    fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    fn change_cursor(&mut self, change: &mut dyn FnMut(&mut Cursor)) {
        change(&mut self.cursor);
    }
}

#[cfg(test)]
mod tests;

//! Reading a snapshot into a view. Only what views need is read: a newer replica may send more.

use std::net::IpAddr;

use ipnet::IpNet;
use romana_statemachine::command::HostState;
use romana_statemachine::event::Place;
use romana_statemachine::name::{AddressName, HostName, SegmentId, TenantId};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::follow::Snapshot;

/// A host in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SnapshotHost {
    pub name: HostName,
    /// Main address in the physical network.
    pub ip: IpAddr,
    /// Further addresses there.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    #[serde(default)]
    pub state: HostState,
    /// Its leaf group in each network.
    #[serde(default)]
    pub places: Vec<Place>,
}

impl SnapshotHost {
    /// All addresses in the physical network, main address first.
    #[must_use]
    pub fn ips(&self) -> Vec<IpAddr> {
        std::iter::once(self.ip).chain(self.addresses.iter().copied()).collect()
    }
}

/// A block in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SnapshotBlock {
    pub cidr: IpNet,
    pub host: HostName,
    pub tenant: TenantId,
    pub segment: SegmentId,
}

/// An allocated address in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SnapshotAddress {
    pub name: AddressName,
    pub ip: IpAddr,
    pub host: HostName,
    pub tenant: TenantId,
    pub segment: SegmentId,
}

/// A snapshot is malformed.
#[derive(Debug, thiserror::Error)]
#[error("member {member} of the snapshot: {why}")]
pub struct SnapshotError {
    /// The member concerned.
    pub member: &'static str,
    pub why: String,
}

/// The members of a snapshot, as a view's types.
impl Snapshot {
    /// A member; `None` if it is absent.
    ///
    /// # Errors
    /// [`SnapshotError`]: it has a form that this program does not know.
    pub fn member<T: DeserializeOwned>(
        &self,
        member: &'static str,
    ) -> Result<Option<T>, SnapshotError> {
        let Some(value) = self.state.get(member) else { return Ok(None) };
        let parsed = T::deserialize(value).map_err(|error| error.to_string());
        parsed.map(Some).map_err(|why| SnapshotError { member, why })
    }

    /// A member that is a list; empty if it is absent.
    ///
    /// # Errors
    /// As [`Self::member`].
    pub fn list<T: DeserializeOwned>(&self, member: &'static str) -> Result<Vec<T>, SnapshotError> {
        Ok(self.member::<Vec<T>>(member)?.unwrap_or_default())
    }
}

//! What the agent says of its VIPs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The VIPs of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipsStatus {
    /// VIPs that this host answers for.
    pub held: Vec<HeldVip>,
    /// Addresses added since the start.
    pub taken: u64,
    /// Addresses removed since the start because they were asked back.
    pub released: u64,
    /// Addresses removed since the start because no replica renewed their grants.
    pub expired: u64,
}

/// A VIP that this host answers for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldVip {
    pub ip: IpAddr,
    /// Its name; empty: the log has none for this address as far as it was followed.
    pub name: String,
    /// Name of the interface.
    pub link: String,
    /// For how long it is granted, milliseconds.
    pub left_ms: u64,
}

/// The VIPs of this host, as they are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    pub held: BTreeMap<IpAddr, Holds>,
    pub taken: u64,
    pub released: u64,
    pub expired: u64,
}

/// Where an address is held, and until when ([`super::clock`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holds {
    pub name: String,
    pub link: String,
    pub until: Duration,
}

impl Holding {
    /// The status at a time of the leases' clock.
    #[must_use]
    pub fn at(&self, now: Duration) -> VipsStatus {
        let held = self.held.iter().filter(|(_, holds)| holds.until > now);
        let held = held.map(|(ip, holds)| {
            let left = holds.until.saturating_sub(now).as_millis();
            let left_ms = u64::try_from(left).unwrap_or(u64::MAX);
            HeldVip { ip: *ip, name: holds.name.clone(), link: holds.link.clone(), left_ms }
        });
        let Self { taken, released, expired, .. } = *self;
        VipsStatus { held: held.collect(), taken, released, expired }
    }
}

//! Which host is to have each VIP: pure, for the leader's task.
//!
//! A host is *fit* for a VIP if it is one of its candidates, up, not draining, its agent renews, and it has a link in a
//! subnet that contains the VIP: as Romana 2.0 documents it, a VIP fails over between hosts of one network segment. The
//! log knows no subnets of hosts; their agents name them as they renew.
//!
//! - A fit holder keeps its VIP: no VIP moves back, and none moves to spread them better.
//! - A holder that is not fit keeps it until another host is fit, except one that is no candidate any more: the
//!   candidates are those that may answer.
//! - Of several fit hosts, the one with the fewest VIPs gets it; of those, the first by name.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;

use super::Vip;
use crate::command::HostState;
use crate::event::VipReason;
use crate::name::{HostName, VipName};
use crate::state::State;

/// A move of a VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipMove {
    pub name: VipName,
    pub ip: IpAddr,
    /// The present holder.
    pub from: Option<HostName>,
    /// The host that is to have it. The same as `from`: only the length of its grants changes.
    pub to: Option<HostName>,
    pub reason: VipReason,
}

/// Hosts whose agents renew, and the subnets of the links of each.
pub type Renewing<'a> = BTreeMap<&'a HostName, &'a [IpNet]>;

impl State {
    /// The moves that bring each VIP to the host that is to have it, by the names of the VIPs.
    #[must_use]
    pub fn vip_moves(&self, renewing: &Renewing<'_>) -> Vec<VipMove> {
        let mut load: BTreeMap<&HostName, usize> = BTreeMap::new();
        for placement in self.vips().filter_map(|vip| vip.placement.as_ref()) {
            *load.entry(&placement.host).or_default() += 1;
        }
        // Most VIPs that no host can have are in no subnet: they cost no search.
        let subnets: BTreeSet<IpNet> =
            renewing.values().flat_map(|all| all.iter().copied()).collect();
        let mut moves = Vec::new();
        for vip in self.vips() {
            let from = vip.placement.as_ref().map(|placement| &placement.host);
            let reason = match from {
                None => VipReason::First,
                Some(holder) => match self.unfit(vip, holder, renewing) {
                    Some(reason) => reason,
                    None if self.grant_differs(vip) => VipReason::GrantChanged,
                    None => continue,
                },
            };
            let to = match reason {
                VipReason::GrantChanged => from,
                _ if subnets.iter().any(|subnet| subnet.contains(&vip.ip)) => {
                    self.successor(vip, renewing, &load)
                }
                _ => None,
            };
            if to.is_none() && (from.is_none() || reason != VipReason::HolderNotCandidate) {
                continue;
            }
            if to != from {
                from.and_then(|host| load.get_mut(host)).into_iter().for_each(|count| *count -= 1);
                to.into_iter().for_each(|host| *load.entry(host).or_default() += 1);
            }
            let (from, to) = (from.cloned(), to.cloned());
            moves.push(VipMove { name: vip.name.clone(), ip: vip.ip, from, to, reason });
        }
        moves
    }

    fn grant_differs(&self, vip: &Vip) -> bool {
        let placed = vip.placement.as_ref();
        placed.is_some_and(|placement| placement.grant_ms != self.settings.vip_lease_ms)
    }

    /// Why a host is not fit to have a VIP; `None`: it is fit.
    fn unfit(&self, vip: &Vip, name: &HostName, renewing: &Renewing<'_>) -> Option<VipReason> {
        let Some(host) = self.host(name) else { return Some(VipReason::HostRemoved) };
        if !vip.is_candidate(name) {
            return Some(VipReason::HolderNotCandidate);
        }
        match host.state {
            HostState::Up => {}
            HostState::Down => return Some(VipReason::HolderDown),
            HostState::Draining => return Some(VipReason::HolderDraining),
        }
        let Some(subnets) = renewing.get(name) else { return Some(VipReason::HolderSilent) };
        let inside = subnets.iter().any(|subnet| subnet.contains(&vip.ip));
        (!inside).then_some(VipReason::HolderOffSubnet)
    }

    /// The host that gets a VIP whose holder is not fit.
    fn successor<'a>(
        &self,
        vip: &Vip,
        renewing: &Renewing<'a>,
        load: &BTreeMap<&HostName, usize>,
    ) -> Option<&'a HostName> {
        let fit = renewing.keys().filter(|name| self.unfit(vip, name, renewing).is_none());
        fit.min_by_key(|name| load.get(**name).copied().unwrap_or_default()).copied()
    }
}

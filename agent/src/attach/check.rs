//! CHECK and STATUS.

use ipnet::IpNet;
use romana_statemachine::name::TenantId;

use super::{Attacher, Stage, code, failed};
use crate::kernel::links::{self, Netns};
use crate::ours::host_link;
use crate::wire::{Failed, Key};

impl Attacher {
    /// Compares what is there with what was given out.
    pub(super) async fn check(
        &self,
        key: &Key,
        netns: &str,
        expected: &[IpNet],
    ) -> Result<(), Failed> {
        let _alone = self.lock(key).await;
        let differs = |what: String| failed(code::DIFFERS, what, "DEL and ADD the container again");
        let entry = self.ledger.get(key).filter(|entry| entry.stage == Stage::Ready);
        let entry = entry.ok_or_else(|| {
            differs(format!("{} of {} is not attached", key.ifname, key.container_id))
        })?;
        let own: Vec<_> = entry.addresses.iter().filter_map(|held| held.ip).collect();
        if let Some(strange) = expected.iter().find(|net| !own.contains(&net.addr())) {
            return Err(differs(format!("{strange} is not an address of this attachment")));
        }
        if entry.netns.is_none() {
            return Ok(());
        }
        let inside = links::look(&Netns::open(netns)?, &key.ifname).await?;
        if !inside.up {
            return Err(differs(format!("{} is not there, or is down", key.ifname)));
        }
        let routed = links::host_routes(&self.handle, Some(self.config.route_table)).await?;
        let link = host_link(&key.container_id, &key.ifname);
        let Some(end) = links::host_end(&self.handle, &link).await? else {
            return Err(differs(format!("the host's end {link} is not there")));
        };
        if !end.up {
            return Err(differs(format!("the host's end {link} is down")));
        }
        for ip in own {
            let default = if ip.is_ipv4() { inside.default.0 } else { inside.default.1 };
            if !inside.addresses.iter().any(|net| net.addr() == ip) {
                return Err(differs(format!("{} has lost address {ip}", key.ifname)));
            }
            if !default {
                return Err(differs(format!("{} has lost its default route", key.ifname)));
            }
            if !routed.contains(&(end.index, ip)) {
                return Err(differs(format!("the host has lost its route to {ip} by {link}")));
            }
        }
        Ok(())
    }

    /// Whether an ADD can be expected to work.
    pub(super) fn status(&self) -> Result<(), Failed> {
        let seen = self.seen.borrow();
        let Some(view) = &seen.view else {
            let details = "the agent has not heard a replica since it was installed";
            return Err(failed(code::NOT_AVAILABLE, "nothing is known of the cluster", details));
        };
        if !view.hosts.contains_key(&view.host) {
            let details = "add it with `romana host add`, or start the agent with --register";
            let msg = format!("host {} is not in the cluster", view.host);
            return Err(failed(code::NOT_AVAILABLE, msg, details));
        }
        if view.networks_for(&TenantId::from("")).next().is_none() && view.networks.is_empty() {
            let details = "set one with `romana topology update`";
            return Err(failed(code::NOT_AVAILABLE, "the cluster has no network", details));
        }
        Ok(())
    }
}

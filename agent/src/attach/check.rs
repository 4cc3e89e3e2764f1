//! The CNI command CHECK.

use ipnet::IpNet;

use super::{Attacher, Stage, code, failed};
use crate::ipc::{Failed, Key};
use crate::kernel::netns::Netns;
use crate::kernel::{facts, links};
use crate::ownership::host_link;

impl Attacher {
    /// Compares the kernel's state with the result of ADD.
    pub(super) async fn check(
        &self,
        key: &Key,
        netns: &str,
        expected: &[IpNet],
    ) -> Result<(), Failed> {
        let _alone = self.lock(key).await;
        let differs = |what: String| failed(code::DIFFERS, what, "DEL and ADD the container again");
        let entry = self.store.get(key).filter(|entry| entry.stage == Stage::Ready);
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
        let link = host_link(&key.container_id, &key.ifname);
        let Some(end) = links::host_end(&self.handle, &link).await? else {
            return Err(differs(format!("the host's end {link} is not there")));
        };
        if !end.up {
            return Err(differs(format!("the host's end {link} is down")));
        }
        if let Some(setting) = links::wrong_setting(&self.config.sysctls, &link, &own) {
            return Err(differs(setting));
        }
        for ip in own {
            let default = if ip.is_ipv4() { inside.default.0 } else { inside.default.1 };
            if !inside.addresses.iter().any(|net| net.addr() == ip) {
                return Err(differs(format!("{} has lost address {ip}", key.ifname)));
            }
            if !default {
                return Err(differs(format!("{} has lost its default route", key.ifname)));
            }
            // Look up the route that the kernel uses: another program's route or rule may take precedence.
            let way = facts::reach(&self.handle, ip).await.map(|(link, _)| link);
            if way != Some(end.index) {
                return Err(differs(format!("the host does not reach {ip} by {link}")));
            }
        }
        match self.gate.is_intact().await {
            Ok(true) => Ok(()),
            Ok(false) => {
                let msg = "another program had changed Romana's rules or sets: they are restored";
                Err(failed(
                    code::DIFFERS,
                    msg,
                    "`romana-agent status` counts it; find out who does that",
                ))
            }
            Err(error) => {
                let details = "`romana-agent status` on this host says why: try again";
                Err(failed(code::AGAIN, error.to_string(), details))
            }
        }
    }
}

//! The CNI command ADD.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use romana_client::Error;
use romana_statemachine::command::AllocateAddress;
use romana_statemachine::name::{AddressName, NetworkName, SegmentId, TenantId};
use romana_statemachine::{Allocation, Revision};
use tokio::time::{Instant, timeout};

use super::{Attacher, AttachmentAddress, BorrowedAddress, Entry, Stage, code, failed, names};
use crate::config::MTU_BOUNDS;
use crate::ipc::{Add, Added, Failed, Key};
use crate::kernel::KernelError;
use crate::kernel::facts::{self, Links};
use crate::kernel::links::{self, Pair};
use crate::kernel::netns::Netns;
use crate::ownership::host_link;
use crate::view::View;

/// Default MTU, if neither the configuration nor a link gives one.
const MTU: u32 = 1500;
/// How long the MTU of the links is cached while hosts and routes do not change.
const MTU_KEPT: Duration = Duration::from_secs(10);
/// How many addresses of other hosts are resolved to links.
const OTHERS_ASKED: usize = 32;
/// Remote addresses, to find the link of the default route.
const ANYWHERE: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// How long to wait for the control plane before an address is taken from the
/// reserve: normally, and after silence.
const PATIENCE: Duration = Duration::from_secs(3);
const PATIENCE_CUT_OFF: Duration = Duration::from_millis(300);
/// The control plane is unreachable after this silence (the feed sends a bookmark every 5 s).
pub(super) const SILENT: Duration = Duration::from_secs(7);

/// An address to request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AddressRequest {
    name: AddressName,
    /// Candidate networks, in order of preference; empty: the network that contains the requested address.
    networks: Vec<NetworkName>,
    ip: Option<IpAddr>,
}

/// An address that was granted.
struct AddressGrant {
    ip: IpAddr,
    /// Set if the address comes from the reserve.
    lent: Option<BorrowedAddress>,
    /// Revision of the allocation.
    since: Revision,
}

/// Addresses to request: one of each family in which the tenant has a network, or the addresses given.
pub(super) fn wants(add: &Add, view: &View) -> Result<Vec<AddressRequest>, Failed> {
    let tenant = TenantId::from(add.tenant.as_str());
    let mut wants = Vec::new();
    for v4 in [true, false] {
        let mut asked = add.ips.iter().copied().filter(|ip| ip.is_ipv4() == v4);
        let ip = asked.next();
        if asked.next().is_some() {
            let details = "ask for at most one of each family";
            return Err(failed(code::UNSUPPORTED, "several addresses of a family", details));
        }
        let networks =
            view.networks_for(&tenant).filter(|network| network.cidr.addr().is_ipv4() == v4);
        let networks: Vec<_> = networks.map(|network| network.name.clone()).collect();
        if ip.is_none() && (networks.is_empty() || !add.ips.is_empty()) {
            continue;
        }
        let name = names::name(&add.tenant, &add.pod, &add.key, v4);
        let networks = if ip.is_some() { Vec::new() } else { networks };
        wants.push(AddressRequest { name, networks, ip });
    }
    if wants.is_empty() {
        let msg = format!("no network is open to tenant {}", add.tenant);
        let details = "`romana network list` shows the networks and whom they are for";
        return Err(failed(code::CONFIG, msg, details));
    }
    Ok(wants)
}

impl Attacher {
    /// Attaches a container; if that fails, undoes everything.
    pub(super) async fn add(self: &Arc<Self>, add: &Add) -> Result<Added, Failed> {
        let _alone = self.lock(&add.key).await;
        if let Some(problem) = self.enrolment_state.borrow().problem() {
            return Err(failed(code::AGAIN, problem, "`romana doctor` names both agents"));
        }
        let view = self.seen.borrow().view.clone();
        let Some(view) = view else {
            let details = "the agent has not heard a replica since it was installed: try again";
            return Err(failed(code::AGAIN, "nothing is known of the cluster yet", details));
        };
        let mtu = match add.mtu.or(self.config.mtu) {
            Some(mtu) if !MTU_BOUNDS.contains(&mtu) => {
                return Err(failed(code::CONFIG, format!("mtu {mtu} cannot be"), "68 to 65535"));
            }
            Some(mtu) => mtu,
            None => self.default_mtu(&view).await?,
        };
        let mac = add.mac.as_deref().map(parse_mac).transpose()?;
        let wants = wants(add, &view)?;
        let netns = add.netns.as_deref().map(Netns::open).transpose()?;
        self.check_new(add).await?;
        let add = &self.with_segment(add).await?;
        let held = |want: &AddressRequest| AttachmentAddress::new(want.name.clone());
        let owner = (TenantId::from(add.tenant.as_str()), SegmentId::from(add.segment.as_str()));
        let mut entry = Entry {
            key: add.key.clone(),
            network: add.network.clone(),
            netns: add.netns.clone(),
            addresses: wants.iter().map(held).collect(),
            owner: Some(owner),
            labels: add.labels.clone(),
            stage: Stage::Intended,
        };
        self.put(entry.clone()).await?;
        crash_point("intended");
        let built = self.build(add, &wants, netns, mtu, mac, &mut entry).await;
        self.note_exhaustion(&built);
        match built {
            Ok(added) => {
                self.changed.notify_one();
                Ok(added)
            }
            Err(why) => {
                self.undo(entry).await;
                Err(why)
            }
        }
    }

    /// Records whether the last ADD found a free address. Other failures do not change the record.
    fn note_exhaustion(&self, built: &Result<Added, Failed>) {
        let now = match built {
            Ok(_) => None,
            Err(why) if why.code == code::EXHAUSTED => Some((Instant::now(), why.msg.clone())),
            Err(_) => return,
        };
        *self.exhausted.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    async fn build(
        self: &Arc<Self>,
        add: &Add,
        wants: &[AddressRequest],
        netns: Option<Netns>,
        mtu: u32,
        mac: Option<[u8; 6]>,
        entry: &mut Entry,
    ) -> Result<Added, Failed> {
        let asked = wants.iter().map(|want| self.allocate(add, want));
        let given = futures_util::future::join_all(asked).await;
        let (mut failed, mut revision) = (None, Revision(0));
        for (held, given) in entry.addresses.iter_mut().zip(given) {
            match given {
                Ok(AddressGrant { ip, lent, since }) => {
                    (held.ip, held.lent) = (Some(ip), lent);
                    revision = revision.max(since);
                }
                Err(why) => failed = Some(why),
            }
        }
        let late = entry.addresses.iter().any(|held| held.lent.is_some());
        if late {
            // Durable first: after a crash, the entry is the only local record of the borrowed address.
            self.put(entry.clone()).await?;
        }
        crash_point("allocated");
        if let Some(why) = failed {
            return Err(why);
        }
        if !late {
            revision = revision.max(self.set_endpoints(entry).await?);
        }
        let ips: Vec<IpAddr> = entry.addresses.iter().filter_map(|held| held.ip).collect();
        let addresses = ips.iter().map(|ip| IpNet::from(*ip)).collect();
        let mut added = Added { host_link: None, link: None, addresses, routes: Vec::new() };
        if let Some(netns) = netns {
            let host_link = host_link(&add.key.container_id, &add.key.ifname);
            let ifname = add.key.ifname.clone();
            let pair = Pair { host_link, ifname, mtu, mac, addresses: ips.clone() };
            let (host, link) =
                links::make(&self.handle, &netns, &pair, &self.config.sysctls).await?;
            crash_point("linked");
            for ip in &ips {
                links::route(&self.handle, self.config.route_table, *ip, &pair.host_link).await?;
            }
            crash_point("routed");
            let default = |ip: &IpAddr| IpNet::new(unspecified(*ip), 0).ok();
            added.routes = ips.iter().filter_map(default).collect();
            (added.host_link, added.link) = (Some(host), Some(link));
        }
        // From here on, every policy that was set before the allocation is in the kernel.
        self.gate.note(entry.key.clone(), entry.filtered());
        self.gate.settled(revision).await.map_err(|error| {
            let details = "`romana-agent status` on this host says why: try again";
            super::failed(code::AGAIN, error.to_string(), details)
        })?;
        crash_point("filtered");
        entry.stage = Stage::Ready;
        self.put(entry.clone()).await?;
        crash_point("ready");
        Ok(added)
    }

    /// Refuses a key that is in use, and removes the remains of an earlier attachment.
    async fn check_new(self: &Arc<Self>, add: &Add) -> Result<(), Failed> {
        let link = host_link(&add.key.container_id, &add.key.ifname);
        if self.store.has_link_of(&add.key) {
            let details = "the runtime tries again with another container id";
            let msg = format!("another container's link is called {link} already");
            return Err(failed(code::AGAIN, msg, details));
        }
        let there = links::host_end(&self.handle, &link).await?.is_some();
        let Some(entry) = self.store.get(&add.key) else {
            if there {
                links::delete(&self.handle, &link).await?;
            }
            return Ok(());
        };
        if entry.stage == Stage::Ready && (there || entry.netns.is_none()) {
            let Key { container_id, ifname } = &add.key;
            let msg = format!("{ifname} of {container_id} is attached already");
            let details = "duplicate allocation is not allowed: DEL it first";
            return Err(failed(code::DUPLICATE, msg, details));
        }
        Ok(links::delete(&self.handle, &link).await?)
    }

    /// Allocates an address from the control plane; if that is unreachable, takes one from the reserve.
    async fn allocate(&self, add: &Add, want: &AddressRequest) -> Result<AddressGrant, Failed> {
        let v4 = want.ip.map_or_else(|| names::is_v4(&want.name), |ip| ip.is_ipv4());
        let owner =
            (TenantId::from(add.tenant.as_str()), SegmentId::from(add.segment.as_str()), v4);
        if want.ip.is_some() || !self.reserve.has(&owner) {
            return Ok(self.ask(add, want).await?);
        }
        let patience = self.patience();
        let why = match timeout(patience, self.ask(add, want)).await {
            Ok(Ok(given)) => return Ok(given),
            // The control plane answered; the reserve is only for when it does not.
            Ok(Err(error @ Error::Refused(_))) => return Err(error.into()),
            Ok(Err(error)) => error.into(),
            Err(_) => failed(code::AGAIN, format!("no answer within {patience:?}"), ""),
        };
        let (lent, ip) = self.borrow(&owner, why)?;
        Ok(AddressGrant { ip, lent: Some(lent), since: Revision(0) })
    }

    /// How long to wait for the control plane while there is an address in reserve.
    pub(super) fn patience(&self) -> Duration {
        let silent = self.seen.borrow().heard.is_none_or(|heard| heard.elapsed() > SILENT);
        if silent { PATIENCE_CUT_OFF } else { PATIENCE }
    }

    async fn ask(&self, add: &Add, want: &AddressRequest) -> Result<AddressGrant, Error> {
        let ask = |network: Option<&NetworkName>| AllocateAddress {
            name: want.name.clone(),
            host: self.config.host.clone(),
            tenant: TenantId::from(add.tenant.as_str()),
            segment: SegmentId::from(add.segment.as_str()),
            network: network.cloned(),
            ip: want.ip,
        };
        let mut networks = want.networks.iter();
        let mut network = networks.next();
        loop {
            match self.client.allocate(ask(network)).await {
                Ok(Allocation { ip, revision: since, .. }) => {
                    return Ok(AddressGrant { ip, lent: None, since });
                }
                Err(error) => match networks.next() {
                    Some(next) if error.code() == Some("NetworkExhausted") => network = Some(next),
                    _ => return Err(error),
                },
            }
        }
    }

    /// The smallest MTU of the links that lead to other hosts; on a single host, that of the default route.
    async fn default_mtu(&self, view: &View) -> Result<u32, KernelError> {
        let now = Instant::now();
        let known = *self.mtu.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new =
            |(routing, at): (Revision, Instant)| routing == view.routing && at + MTU_KEPT > now;
        if let Some((_, mtu)) = known.filter(|(as_of, _)| is_new(*as_of)) {
            return Ok(mtu);
        }
        let links = facts::links(&self.handle).await?;
        let others = view.hosts.iter().filter(|(name, _)| **name != view.host);
        let others = others.flat_map(|(_, host)| host.ips.iter().copied()).take(OTHERS_ASKED);
        let mtu = match self.smallest_mtu(&links, others).await {
            Some(mtu) => mtu,
            None => self.smallest_mtu(&links, ANYWHERE.into_iter()).await.unwrap_or(MTU),
        };
        *self.mtu.lock().unwrap_or_else(PoisonError::into_inner) = Some(((view.routing, now), mtu));
        Ok(mtu)
    }

    async fn smallest_mtu(&self, links: &Links, to: impl Iterator<Item = IpAddr>) -> Option<u32> {
        let mut smallest = None;
        for ip in to {
            let link = facts::reach(&self.handle, ip).await.map(|(link, _)| link);
            let mtu = link.and_then(|link| links.mtu_of(link));
            smallest = [smallest, mtu].into_iter().flatten().min();
        }
        smallest
    }

    /// Writes an entry on a blocking thread.
    pub(super) async fn put(self: &Arc<Self>, entry: Entry) -> Result<(), Failed> {
        let attacher = Arc::clone(self);
        let (key, filtered) = (entry.key.clone(), entry.filtered());
        let put = tokio::task::spawn_blocking(move || attacher.store.put(entry)).await;
        match put {
            Ok(put) => {
                self.gate.note(key, filtered);
                Ok(put?)
            }
            Err(error) => Err(failed(code::IO, format!("the attachment store: {error}"), "")),
        }
    }
}

fn unspecified(of: IpAddr) -> IpAddr {
    match of {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn parse_mac(text: &str) -> Result<[u8; 6], Failed> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    let parsed = mac.iter_mut().all(|byte| {
        let part = parts.next().filter(|part| part.len() == 2);
        part.and_then(|part| u8::from_str_radix(part, 16).ok()).map(|value| *byte = value).is_some()
    });
    // The lowest bit of the first byte marks a multicast address.
    if !parsed || parts.next().is_some() || mac[0] & 1 == 1 {
        let details = "write six bytes in hex, such as 02:00:00:00:00:01";
        return Err(failed(code::CONFIG, format!("{text:?} is no MAC address"), details));
    }
    Ok(mac)
}

/// Exits at the step named in `ROMANA_AGENT_CRASH_AT` (debug builds only), to test recovery.
pub(super) fn crash_point(step: &str) {
    if cfg!(debug_assertions) && std::env::var("ROMANA_AGENT_CRASH_AT").is_ok_and(|at| at == step) {
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Network;

    fn view() -> View {
        let network = |name: &str, cidr: &str, tenants: &[&str]| Network {
            name: name.into(),
            cidr: cidr.parse().unwrap(),
            tenants: tenants.iter().map(|tenant| TenantId::from(*tenant)).collect(),
        };
        let networks = vec![
            network("open4", "10.0.0.0/16", &[]),
            network("own4", "10.1.0.0/16", &["blue"]),
            network("red6", "fd00::/64", &["red"]),
        ];
        View { networks, ..View::new("h1".into()) }
    }

    fn add(tenant: &str, ips: &[&str]) -> Add {
        Add {
            key: Key { container_id: "c".into(), ifname: "eth0".into() },
            network: "net".into(),
            netns: None,
            tenant: tenant.into(),
            segment: "default".into(),
            segment_of: None,
            pod: String::new(),
            labels: Default::default(),
            mtu: None,
            mac: None,
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        }
    }

    fn told(tenant: &str, ips: &[&str]) -> Result<Vec<String>, u32> {
        let wants = wants(&add(tenant, ips), &view()).map_err(|failed| failed.code)?;
        let show =
            |want: AddressRequest| format!("{} {:?} {:?}", want.name, want.networks, want.ip);
        Ok(wants.into_iter().map(show).collect())
    }

    #[test]
    fn a_family_is_wanted_where_a_network_is_open() {
        assert_eq!(told("blue", &[]).unwrap(), [r#"cni:blue:c:eth0 ["own4", "open4"] None"#]);
        let both = [r#"cni:red:c:eth0 ["open4"] None"#, r#"cni6:red:c:eth0 ["red6"] None"#];
        assert_eq!(told("red", &[]).unwrap(), both);
        assert_eq!(told("red", &["10.0.0.9"]).unwrap(), ["cni:red:c:eth0 [] Some(10.0.0.9)"]);
        assert_eq!(told("red", &["10.0.0.9", "10.0.0.8"]), Err(code::UNSUPPORTED));
        let mut closed = view();
        closed.networks.remove(0);
        assert!(wants(&add("green", &[]), &closed).is_err());
    }

    #[test]
    fn mac_addresses_are_read() {
        assert_eq!(parse_mac("02:00:00:00:00:0a").unwrap(), [2, 0, 0, 0, 0, 10]);
        for wrong in ["", "02", "02:00:00:00:00:0a:01", "01:00:00:00:00:00", "2:0:0:0:0:0", "é2:0"]
        {
            assert!(parse_mac(wrong).is_err(), "{wrong}");
        }
    }
}

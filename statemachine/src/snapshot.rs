//! The snapshot: the whole state as bytes, preceded by a format version.
//!
//! It contains only what cannot be derived; indexes are rebuilt on reading. Equal states give equal bytes: everything
//! is sorted by its key.

mod write;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::command::{Endpoint, ObjectKey, Retention, Source};
use crate::entry::{Digest, Index, Millis, Revision, Term, unwire, wire};
use crate::event::{BlockAssigned, CheckpointSigned, Conflict};
use crate::hold::AllocationHold;
use crate::host::{self, Host};
use crate::ipam::{self, Address, Block};
use crate::labels::Labels;
use crate::members::{Member, Members};
use crate::name::{
    AddressName, HostName, InstanceId, NetworkName, SegmentId, TenantId, VipName, VipPoolName,
};
use crate::policy::Policy;
use crate::settings::{AgentSettings, Settings};
use crate::state::State;
use crate::tenant::Tenant;
use crate::topology::{Topology, TopologySpec};
use crate::vip::{RouterKey, Vip, VipHolder, VipPlacement};
use write::Content;

/// The formats that this program reads and writes. It writes the format of the cluster's version, so that a replica
/// of an earlier release can read it while the cluster is at a version that it supports. Format 5 is version 4's for a
/// state that has sources, or VIPs of that version.
const FORMATS: core::ops::RangeInclusive<u16> = 1..=5;

/// Why a snapshot cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Written by a newer program.
    #[error("the snapshot has format {format}, this program reads 1 to 5")]
    Format {
        /// The format in the snapshot.
        format: u16,
    },
    #[error("the snapshot cannot be decoded: {0}")]
    Damaged(postcard::Error),
    /// It decodes, but its topology is not valid.
    #[error("the snapshot is inconsistent: {0}")]
    Inconsistent(String),
}

/// Format 1, for reading; `write` writes it. Frozen.
#[derive(Deserialize)]
struct Snapshot1 {
    version: u16,
    revision: Revision,
    index: Index,
    term: Term,
    at: Millis,
    digest: Digest,
    settings: Settings,
    topology: Option<TopologySpec>,
    hosts: Vec<Host>,
    blocks: Vec<Block1>,
    returned: Vec<(IpNet, Millis, Revision)>,
    cooling: Vec<(IpAddr, Millis)>,
    blackouts: Vec<IpNet>,
    tenants: Vec<Tenant1>,
    policies: Vec<Policy>,
    endpoints: Vec<Endpoint>,
    vips: Vec<Vip1>,
    routers: Vec<(RouterKey, HostName)>,
    vip_fences: Vec<(IpAddr, VipHolder)>,
}

/// The additions of format 2. Frozen.
#[derive(Serialize, Deserialize)]
struct Snapshot2 {
    members: Vec<Member>,
    removed: Vec<u64>,
    retention: Retention,
    signed: Option<CheckpointSigned>,
    held: Option<(Revision, Vec<HostName>)>,
}

/// The additions of format 3. Frozen.
#[derive(Serialize, Deserialize)]
struct Snapshot3 {
    settings: AgentSettings,
    conflicts: Vec<(HostName, Vec<Conflict>)>,
}

/// The additions of format 4. Frozen.
#[derive(Serialize, Deserialize)]
struct Snapshot4 {
    agents: Vec<(HostName, InstanceId)>,
    services: Vec<IpNet>,
}

/// The additions of format 5. Frozen from the release of version 4 on.
#[derive(Serialize, Deserialize)]
struct Snapshot5 {
    sources: Vec<(ObjectKey, Source)>,
    placements: Vec<(VipName, VipPlacement)>,
    vip_grant_max_ms: u64,
    vips_vacant: Vec<(VipName, Revision)>,
    vip_pools: Vec<(VipPoolName, Vec<IpNet>)>,
}

/// A VIP without its placement.
#[derive(Serialize, Deserialize)]
struct Vip1 {
    name: VipName,
    ip: IpAddr,
    candidates: Vec<HostName>,
    holder: Option<VipHolder>,
}

impl Vip1 {
    fn of(vip: &Vip) -> Self {
        let Vip { name, ip, candidates, holder, .. } = vip.clone();
        Self { name, ip, candidates, holder }
    }
}

impl From<Vip1> for Vip {
    fn from(vip: Vip1) -> Self {
        let Vip1 { name, ip, candidates, holder } = vip;
        Self { name, ip, candidates, holder, placement: None }
    }
}

/// A tenant, its labels and its segments.
type Tenant1 = (TenantId, Labels, Vec<(SegmentId, Labels)>);

/// A block and its live addresses.
#[derive(Deserialize)]
struct Block1 {
    cidr: IpNet,
    group: IpNet,
    network: NetworkName,
    host: HostName,
    tenant: TenantId,
    segment: SegmentId,
    empty_since: Option<Millis>,
    /// Number of live addresses.
    live: u64,
    /// Offset in the block, name, revision.
    addresses: Vec<(u128, AddressName, Revision)>,
}

impl State {
    /// Encodes the state as a snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let cluster = || Snapshot2::of(self);
        match self.version {
            ..2 => wire(&(1u16, Content(self))),
            2 => wire(&(2u16, Content(self), cluster())),
            3 => wire(&(3u16, Content(self), cluster(), Snapshot3::of(self))),
            4.. => {
                let (third, fourth) = (Snapshot3::of(self), Snapshot4::of(self));
                match Snapshot5::of(self) {
                    None => wire(&(4u16, Content(self), cluster(), third, fourth)),
                    Some(fifth) => wire(&(5u16, Content(self), cluster(), third, fourth, fifth)),
                }
            }
        }
    }

    /// Decodes a snapshot.
    ///
    /// # Errors
    /// [`SnapshotError`]; a state that is returned equals the one that was written.
    pub fn from_snapshot(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let (format, rest): (u16, _) =
            postcard::take_from_bytes(bytes).map_err(SnapshotError::Damaged)?;
        if !FORMATS.contains(&format) {
            return Err(SnapshotError::Format { format });
        }
        let (first, additions) = parts(format, rest).map_err(SnapshotError::Damaged)?;
        let mut state = Self::from_snapshot1(first)?;
        let (second, third, fourth, fifth) = additions;
        second.into_iter().for_each(|second| second.put_into(&mut state));
        third.into_iter().for_each(|third| third.put_into(&mut state));
        fourth.into_iter().for_each(|fourth| fourth.put_into(&mut state));
        fifth.into_iter().for_each(|fifth| fifth.put_into(&mut state));
        Ok(state)
    }

    fn from_snapshot1(snapshot: Snapshot1) -> Result<Self, SnapshotError> {
        let built = snapshot.topology.as_ref().map(Topology::build).transpose();
        let built = built.map_err(|refusal| {
            SnapshotError::Inconsistent(alloc::format!("its topology is refused: {refusal}"))
        })?;
        let mut state = Self {
            version: snapshot.version,
            revision: snapshot.revision,
            index: snapshot.index,
            term: snapshot.term,
            at: snapshot.at,
            digest: snapshot.digest,
            settings: snapshot.settings,
            ..Self::default()
        };
        if let Some(built) = built {
            state.ipam.adopt(&built.topology);
            state.topology = Some(Arc::new(built.topology));
        }
        snapshot.blackouts.into_iter().for_each(|cidr| state.ipam.add_blackout(cidr));
        snapshot.cooling.into_iter().for_each(|(ip, at)| state.ipam.restore_cooling(ip, at));
        snapshot.hosts.into_iter().for_each(|host| host::insert(&mut state, host));
        for (id, labels, segments) in snapshot.tenants {
            let segments = segments.into_iter().collect();
            state.tenants.insert(id, Arc::new(Tenant { labels, segments }));
        }
        snapshot.blocks.into_iter().for_each(|block| restore_block(&mut state, block));
        state.ipam.restore_names();
        snapshot.returned.into_iter().for_each(|entry| restore_returned(&mut state, entry));
        let policies = snapshot.policies.into_iter();
        state.policies = policies.map(|p| (p.name.clone(), Arc::new(p))).collect();
        let endpoints = snapshot.endpoints.into_iter();
        state.endpoints = endpoints.map(|e| (e.ip, Arc::new(e))).collect();
        state.ipam.reserved = snapshot.vips.iter().map(|vip| vip.ip).collect();
        let vips = snapshot.vips.into_iter().map(Vip::from);
        state.vips = vips.map(|vip| (vip.name.clone(), Arc::new(vip))).collect();
        state.routers = snapshot.routers.into_iter().collect();
        state.vip_fences = snapshot.vip_fences.into_iter().collect();
        Ok(state)
    }
}

/// What formats 2 to 5 add to format 1.
type Additions = (Option<Snapshot2>, Option<Snapshot3>, Option<Snapshot4>, Option<Snapshot5>);

/// Decodes the parts that a format has.
fn parts(format: u16, bytes: &[u8]) -> Result<(Snapshot1, Additions), postcard::Error> {
    Ok(match format {
        1 => (unwire(bytes)?, (None, None, None, None)),
        2 => {
            let (first, second) = unwire(bytes)?;
            (first, (Some(second), None, None, None))
        }
        3 => {
            let (first, second, third) = unwire(bytes)?;
            (first, (Some(second), Some(third), None, None))
        }
        4 => {
            let (first, second, third, fourth) = unwire(bytes)?;
            (first, (Some(second), Some(third), Some(fourth), None))
        }
        _ => {
            let (first, second, third, fourth, fifth) = unwire(bytes)?;
            (first, (Some(second), Some(third), Some(fourth), Some(fifth)))
        }
    })
}

fn restore_block(state: &mut State, snapshot: Block1) {
    let Block1 { cidr, group, network, host, tenant, segment, empty_since, live, addresses } =
        snapshot;
    let skip_ends = state
        .topology()
        .and_then(|topology| topology.network(&network))
        .is_some_and(|network| network.skip_first_last);
    let event = BlockAssigned { cidr, network, group, host, tenant, segment };
    let owner = ipam::owner_of(state, &event);
    let mut block = Block::restored(&event, owner, live, empty_since, skip_ends);
    for (at, name, revision) in addresses {
        block.addresses.insert(at, Address { name, revision });
    }
    state.ipam.refresh(block);
}

fn restore_returned(state: &mut State, (cidr, at, revision): (IpNet, Millis, Revision)) {
    let leaf = state.topology().and_then(|topology| {
        topology.network_around(cidr)?.leaf_around(cidr).map(|leaf| leaf.cidr)
    });
    let Some(pool) = leaf.and_then(|leaf| state.ipam.pools.get_mut(&leaf)) else { return };
    pool.restore_returned(leaf.unwrap_or(cidr), cidr, at, revision);
}

impl Snapshot2 {
    fn of(state: &State) -> Self {
        let held = state.held.as_ref();
        Self {
            members: state.members.known.values().cloned().collect(),
            removed: state.members.removed.iter().copied().collect(),
            retention: state.retention.clone(),
            signed: state.signed.clone(),
            held: held.map(|held| (held.since, held.waiting.iter().cloned().collect())),
        }
    }

    fn put_into(self, state: &mut State) {
        let Self { members, removed, retention, signed, held } = self;
        let known = members.into_iter().map(|member| (member.id, member)).collect();
        state.members = Members { known, removed: removed.into_iter().collect() };
        state.retention = retention;
        state.signed = signed;
        state.held = held.map(|(since, waiting)| AllocationHold {
            since,
            waiting: waiting.into_iter().collect(),
        });
    }
}

impl Snapshot3 {
    fn of(state: &State) -> Self {
        let conflicts = state.conflicts.iter();
        let conflicts = conflicts.map(|(host, list)| (host.clone(), Vec::clone(list))).collect();
        Self { settings: state.agent_settings.clone(), conflicts }
    }

    fn put_into(self, state: &mut State) {
        let conflicts = self.conflicts.into_iter();
        state.agent_settings = self.settings;
        state.conflicts = conflicts.map(|(host, list)| (host, Arc::new(list))).collect();
    }
}

impl Snapshot4 {
    fn of(state: &State) -> Self {
        let agents = state.agents.iter();
        let agents = agents.map(|(host, instance)| (host.clone(), instance.clone())).collect();
        Self { agents, services: state.service_ranges().collect() }
    }

    fn put_into(self, state: &mut State) {
        state.agents = self.agents.into_iter().collect();
        state.ipam.services = self.services.into_iter().collect();
    }
}

impl Snapshot5 {
    /// `None` if the state has no sources, and nothing about VIPs of version 4.
    fn of(state: &State) -> Option<Self> {
        let vip_grant_max_ms = state.vip_grant_max_ms;
        let no_vips = vip_grant_max_ms == 0 && state.vips_vacant.is_empty();
        if state.sources.is_empty() && no_vips && state.vip_pools.is_empty() {
            return None;
        }
        let sources = state.sources().map(|(object, source)| (object.clone(), source.clone()));
        let placements = state
            .vips()
            .filter_map(|vip| vip.placement.clone().map(|placement| (vip.name.clone(), placement)));
        let (sources, placements) = (sources.collect(), placements.collect());
        let vacant = state.vips_vacant.iter();
        let vips_vacant = vacant.map(|(name, since)| (name.clone(), *since)).collect();
        let pools = state.vip_pools.iter();
        let vip_pools = pools.map(|(name, ranges)| (name.clone(), Vec::clone(ranges))).collect();
        Some(Self { sources, placements, vip_grant_max_ms, vips_vacant, vip_pools })
    }

    fn put_into(self, state: &mut State) {
        state.sources = self.sources.into_iter().collect();
        state.vip_grant_max_ms = self.vip_grant_max_ms;
        state.vips_vacant = self.vips_vacant.into_iter().collect();
        let pools = self.vip_pools.into_iter();
        state.vip_pools = pools.map(|(name, ranges)| (name, Arc::new(ranges))).collect();
        for (name, placement) in self.placements {
            if let Some(vip) = state.vip(&name).cloned() {
                state.vips.insert(name, Arc::new(Vip { placement: Some(placement), ..vip }));
            }
        }
    }
}

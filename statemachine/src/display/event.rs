//! Events and records as text.

use core::fmt::{self, Display, Formatter, Write};

use super::{Kept, LISTED_MAX, List, OneLine, Outline, Shown, Summary, Wanted, Way, labels, more};
use crate::entry::Record;
use crate::event::{
    AddressAdopted, AddressAllocated, AddressClaimed, AddressReleased, BlockAssigned,
    BlockReleased, Event, HostAdded, HostUpdated, Place, ReleaseReason, Restored, ResumedBy,
    TopologySet,
};
use crate::settings::AgentSettings;
use crate::time::Span;

impl Display for Event {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let f = &mut OneLine(f);
        match self {
            Self::TopologySet(set) => write!(f, "TopologySet {}", Carved(set)),
            Self::BlackoutAdded(added) => write!(f, "BlackoutAdded {}", added.cidr),
            Self::BlackoutRemoved(removed) => write!(f, "BlackoutRemoved {}", removed.cidr),
            Self::VersionRaised(raised) => write!(f, "VersionRaised {}", raised.version),
            Self::SettingsChanged(settings) => {
                let (delay, lease) = (settings.address_reuse_delay_ms, settings.vip_lease_ms);
                let (delay, lease) = (Span(delay), Span(lease));
                write!(f, "SettingsChanged address_reuse_delay={delay} vip_lease={lease}")
            }
            Self::HostAdded(host) => write!(f, "HostAdded {}", Added(host)),
            Self::HostUpdated(host) => write!(f, "HostUpdated {}", Updated(host)),
            Self::HostDown(host) => write!(f, "HostDown {}", host.name),
            Self::HostUp(host) => write!(f, "HostUp {}", host.name),
            Self::HostDraining(host) => write!(f, "HostDraining {}", host.name),
            Self::HostRemoved(host) => {
                write!(f, "HostRemoved {}{}", host.name, if host.evicted { " evicted" } else { "" })
            }
            Self::BlockAssigned(block) => write!(f, "BlockAssigned {}", Assigned(block)),
            Self::BlockReleased(block) => write!(f, "BlockReleased {}", Freed(block)),
            Self::AddressAllocated(address) => write!(f, "AddressAllocated {}", Given(address)),
            Self::AddressReleased(address) => write!(f, "AddressReleased {}", Taken(address)),
            Self::CooldownsEnded(ended) => {
                write!(f, "CooldownsEnded released until {}", ended.released_until)
            }
            other => write!(f, "{}", RestOf(other)),
        }
    }
}

/// Events about tenants, policies, endpoints, VIPs, routers and the cluster.
struct RestOf<'a>(&'a Event);

impl Display for RestOf<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Event::TenantCreated(tenant) => {
                write!(f, "TenantCreated {}{}", tenant.id, labels(&tenant.labels, " {"))
            }
            Event::TenantDeleted(tenant) => write!(f, "TenantDeleted {}", tenant.id),
            Event::SegmentCreated(segment) => {
                let labels = labels(&segment.labels, " {");
                write!(f, "SegmentCreated {}/{}{labels}", segment.tenant, segment.id)
            }
            Event::SegmentDeleted(segment) => {
                write!(f, "SegmentDeleted {}/{}", segment.tenant, segment.id)
            }
            Event::PolicySet(policy) => write!(f, "PolicySet {}", Summary(policy)),
            Event::PolicyRemoved(policy) => write!(f, "PolicyRemoved {}", policy.name),
            Event::EndpointSet(endpoint) => write!(f, "EndpointSet {}", Shown(endpoint)),
            Event::EndpointRemoved(gone) => {
                write!(f, "EndpointRemoved {} host {}", gone.ip, gone.host)
            }
            Event::VipRequested(spec) => write!(f, "VipRequested {}", Wanted(spec)),
            Event::VipAssigned(vip) => {
                write!(f, "VipAssigned {} {} host {}", vip.name, vip.ip, vip.host)?;
                write!(f, " lease {}", Span(vip.lease_ms))
            }
            Event::VipUnassigned(vip) => {
                write!(f, "VipUnassigned {} {} host {}", vip.name, vip.ip, vip.host)
            }
            Event::VipRemoved(vip) => write!(f, "VipRemoved {}", vip.name),
            Event::VipPlaced(vip) => {
                let way = Way(vip.from.as_ref(), vip.to.as_ref());
                write!(f, "VipPlaced {} {} {way} grant {}", vip.name, vip.ip, Span(vip.grant_ms))?;
                write!(f, " ({})", vip.reason)
            }
            Event::RouterAssigned(router) => {
                let (prefix, table) = (router.prefix, &router.table);
                write!(f, "RouterAssigned {prefix} table {table} host {}", router.host)
            }
            Event::RouterUnassigned(gone) => {
                let (prefix, table) = (gone.prefix, &gone.table);
                write!(f, "RouterUnassigned {prefix} table {table} host {}", gone.host)
            }
            other => cluster_event(other, f),
        }
    }
}

/// Events about the cluster itself.
fn cluster_event(event: &Event, f: &mut Formatter<'_>) -> fmt::Result {
    match event {
        Event::RetentionSet(retention) => write!(f, "RetentionSet{}", Kept(retention)),
        Event::CheckpointSigned(signed) => {
            write!(f, "CheckpointSigned r{} state {}", signed.revision, signed.state_digest)
        }
        Event::MemberAdded(added) => {
            write!(f, "MemberAdded {} {}", added.id, added.peer)?;
            added.replaces.map_or(Ok(()), |id| write!(f, " replaces {id}"))
        }
        Event::MemberClaimed(claimed) => {
            write!(f, "MemberClaimed {} {}", claimed.id, claimed.peer)
        }
        Event::MemberRemoved(removed) => write!(f, "MemberRemoved {}", removed.id),
        Event::Restored(restored) => {
            let Restored { source, cluster, revision, .. } = restored;
            write!(f, "Restored {cluster} from {source} r{revision}")
        }
        Event::HostReported(reported) => {
            write!(f, "HostReported {} r{}", reported.host, reported.revision)
        }
        Event::AllocationResumed(resumed) => match resumed.by {
            ResumedBy::Reports => f.write_str("AllocationResumed by reports"),
            ResumedBy::Operator => f.write_str("AllocationResumed by operator"),
            ResumedBy::Timeout => f.write_str("AllocationResumed by timeout"),
        },
        Event::AddressAdopted(adopted) => {
            let AddressAdopted { name, ip, block, host, tenant, segment, reported } = adopted;
            write!(f, "AddressAdopted {name} {ip} block {block} host {host} owner ")?;
            write!(f, "{tenant}/{segment} reported at r{reported}")
        }
        Event::AddressClaimed(claimed) => {
            let AddressClaimed { name, reserve, ip, block, host, tenant, segment, since } = claimed;
            write!(f, "AddressClaimed {name} {ip} block {block} host {host} owner ")?;
            write!(f, "{tenant}/{segment} from {reserve} since {since}")
        }
        Event::ConflictsReported(reported) => {
            let (host, count) = (&reported.host, reported.conflicts.len());
            write!(f, "ConflictsReported {host} {count}")?;
            let mut conflicts = reported.conflicts.iter().take(LISTED_MAX);
            conflicts.try_for_each(|c| write!(f, " {} {} {}", c.name, c.ip, c.why.code()))?;
            more(f, count, "more conflict")
        }
        Event::AgentSettingsChanged(settings) => {
            let AgentSettings { reserve_per_owner, host_down_after_ms, restore_hold_max_ms } =
                settings;
            write!(f, "AgentSettingsChanged reserve_per_owner={reserve_per_owner} ")?;
            write!(f, "host_down_after={} ", Span(*host_down_after_ms))?;
            write!(f, "restore_hold_max={}", Span(*restore_hold_max_ms))
        }
        Event::ServicesReserved(reserved) => {
            f.write_str("ServicesReserved")?;
            reserved.ranges.iter().try_for_each(|range| write!(f, " {range}"))
        }
        Event::VipPoolsSet(set) => {
            f.write_str("VipPoolsSet")?;
            for pool in set.pools.iter().take(LISTED_MAX) {
                write!(f, " {}={}", pool.name, List("", pool.ranges.iter(), ""))?;
            }
            more(f, set.pools.len(), "more pool")
        }
        Event::AgentEnrolled(enrolled) => {
            write!(f, "AgentEnrolled {} of {}", enrolled.instance, enrolled.host)?;
            enrolled.replaces.as_ref().map_or(Ok(()), |old| write!(f, " replaces {old}"))
        }
        Event::SourceSet(set) => write!(f, "SourceSet {} from {}", set.object, set.source),
        _ => Ok(()),
    }
}

impl Display for Record {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { revision, index, at, actor, event, .. } = self;
        write!(OneLine(f), "r{revision} i{index} {at} {actor} {event}")
    }
}

shown! {
    Carved(TopologySet): |set, f| {
        write!(f, "{}", Outline(&set.topology))?;
        for host in set.hosts.iter().take(LISTED_MAX) {
            write!(f, " host {}{}", host.host, places(&host.places))?;
        }
        more(f, set.hosts.len(), "more host")
    }
    Added(HostAdded): |host, f| {
        write!(f, "{} {}{}", host.name, host.ip, List(",", host.addresses.iter(), ""))?;
        write!(f, "{}{}", labels(&host.labels, " {"), labels(&host.info, " info {"))?;
        write!(f, "{}", places(&host.places))
    }
    Updated(HostUpdated): |host, f| {
        write!(f, "{} {}{}", host.name, host.ip, List(",", host.addresses.iter(), ""))?;
        write!(f, "{}{}", labels(&host.labels, " {"), labels(&host.info, " info {"))?;
        write!(f, "{}", places(&host.places))
    }
    At(Place): |place, f| {
        write!(f, "{}:{}", place.network, place.group)
    }
    Assigned(BlockAssigned): |block, f| {
        let BlockAssigned { cidr, network, group, host, tenant, segment } = block;
        write!(f, "{cidr} network {network} group {group} host {host} owner {tenant}/{segment}")
    }
    Freed(BlockReleased): |block, f| {
        write!(f, "{} host {} reusable at {}", block.cidr, block.host, block.reusable_at)
    }
    Given(AddressAllocated): |address, f| {
        let AddressAllocated { name, ip, block, host, tenant, segment } = address;
        write!(f, "{name} {ip} block {block} host {host} owner {tenant}/{segment}")
    }
    Taken(AddressReleased): |address, f| {
        let AddressReleased { name, ip, block, host, tenant, segment, reason } = address;
        write!(f, "{name} {ip} block {block} host {host} owner {tenant}/{segment} ")?;
        match reason {
            ReleaseReason::Requested => f.write_str("requested"),
            ReleaseReason::Evicted => f.write_str("evicted"),
            ReleaseReason::Reported(revision) => write!(f, "reported at r{revision}"),
            ReleaseReason::Claimed => f.write_str("claimed"),
        }
    }
}

fn places(places: &[Place]) -> impl Display + '_ {
    List(" in ", places.iter().map(At), "")
}

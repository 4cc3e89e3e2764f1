//! Commands, events and records as one line of text: what logs, goldens and the CLI show. Meant for
//! people; programs read JSON. Names in a command are not checked yet, so control characters are
//! escaped: a line stays a line.

use core::fmt::{self, Display, Formatter, Write};

use crate::attachment::{AddressAdopted, AddressClaimed, AgentSettings};
use crate::command::{
    AllocateAddress, Command, Endpoint, HostChange, HostSpec, HostState, Retention, SettingsChange,
    VipSpec,
};
use crate::entry::Record;
use crate::event::{
    AddressAllocated, AddressReleased, BlockAssigned, BlockReleased, Event, HostAdded, HostUpdated,
    Place, ReleaseReason, Restored, ResumedBy, TopologySet,
};
use crate::plural;
use crate::policy::Policy;
use crate::printable::is_printable;
use crate::time::{Size, Span};
use crate::topology::TopologySpec;

/// Passes text on; what does not show itself is escaped.
struct OneLine<'a, 'b>(&'a mut Formatter<'b>);

impl Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(|c| !is_printable(c)) {
            match part.char_indices().next_back() {
                Some((at, last)) if !is_printable(last) => {
                    self.0.write_str(&part[..at])?;
                    write!(self.0, "{}", last.escape_default())?;
                }
                _ => self.0.write_str(part)?,
            }
        }
        Ok(())
    }
}

/// Networks and hosts of a topology in a line; the others are counted.
const LISTED_MAX: usize = 8;

/// Says how many are not listed.
fn more(f: &mut Formatter<'_>, count: usize, what: &str) -> fmt::Result {
    match count.saturating_sub(LISTED_MAX) {
        0 => Ok(()),
        more => write!(f, " and {}", plural(more, what)),
    }
}

/// Items separated by commas, in brackets; nothing at all when there are none.
struct List<I>(&'static str, I, &'static str);

impl<I: Iterator<Item = T> + Clone, T: Display> Display for List<I> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(open, items, close) = self;
        for (i, item) in items.clone().enumerate() {
            write!(f, "{}{item}", if i == 0 { *open } else { "," })?;
        }
        f.write_str(if items.clone().next().is_some() { close } else { "" })
    }
}

/// A key and its value.
struct Pair<'a>(&'a str, &'a str);

impl Display for Pair<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.0, self.1)
    }
}

fn labels<'a>(labels: &'a crate::Labels, open: &'static str) -> impl Display + 'a {
    List(open, labels.iter().map(|(key, value)| Pair(key, value)), "}")
}

impl Display for Command {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let f = &mut OneLine(f);
        match self {
            Self::SetTopology(spec) => write!(f, "SetTopology {}", Outline(spec)),
            Self::AddBlackout(blackout) => write!(f, "AddBlackout {}", blackout.cidr),
            Self::RemoveBlackout(blackout) => write!(f, "RemoveBlackout {}", blackout.cidr),
            Self::ChangeSettings(change) => write!(f, "ChangeSettings{}", Change(change)),
            Self::RaiseVersion(raise) => write!(f, "RaiseVersion {}", raise.version),
            Self::AddHost(spec) => write!(f, "AddHost {}", Spec(spec)),
            Self::UpdateHost(change) => write!(f, "UpdateHost {}", Facts(change)),
            Self::SetHostState(set) => {
                write!(f, "SetHostState {} {}{}", set.name, word(set.state), InTerm(set.term))
            }
            Self::RemoveHost(remove) => {
                write!(f, "RemoveHost {}{}", remove.name, if remove.force { " force" } else { "" })
            }
            Self::ReportHost(report) => {
                let running = List(" running ", report.running.iter(), "");
                write!(f, "ReportHost {} r{}{running}", report.host, report.revision)
            }
            Self::AllocateAddress(ask) => write!(f, "AllocateAddress {}", Ask(ask)),
            Self::ReleaseAddress(ask) => write!(f, "ReleaseAddress {}", ask.address),
            other => write!(f, "{}", Rest(other)),
        }
    }
}

/// Commands about tenants, policies, endpoints, VIPs, routers and the cluster.
struct Rest<'a>(&'a Command);

impl Display for Rest<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Command::CreateTenant(spec) => {
                write!(f, "CreateTenant {}{}", spec.id, labels(&spec.labels, " {"))
            }
            Command::DeleteTenant(tenant) => write!(f, "DeleteTenant {}", tenant.id),
            Command::CreateSegment(spec) => {
                let labels = labels(&spec.labels, " {");
                write!(f, "CreateSegment {}/{}{labels}", spec.tenant, spec.id)
            }
            Command::DeleteSegment(segment) => {
                write!(f, "DeleteSegment {}/{}", segment.tenant, segment.id)
            }
            Command::SetPolicy(policy) => write!(f, "SetPolicy {}", Summary(policy)),
            Command::RemovePolicy(policy) => write!(f, "RemovePolicy {}", policy.name),
            Command::SetEndpoint(endpoint) => write!(f, "SetEndpoint {}", Shown(endpoint)),
            Command::RemoveEndpoint(endpoint) => write!(f, "RemoveEndpoint {}", endpoint.ip),
            Command::RequestVip(spec) => write!(f, "RequestVip {}", Wanted(spec)),
            Command::AssignVip(assign) => {
                write!(f, "AssignVip {} host {} term {}", assign.name, assign.host, assign.term)
            }
            Command::UnassignVip(vip) => write!(f, "UnassignVip {} term {}", vip.name, vip.term),
            Command::RemoveVip(vip) => write!(f, "RemoveVip {}", vip.name),
            Command::AssignRouter(assign) => {
                let (prefix, table) = (assign.prefix, &assign.table);
                write!(f, "AssignRouter {prefix} table {table} host {}", assign.host)?;
                write!(f, " term {}", assign.term)
            }
            Command::UnassignRouter(gone) => {
                write!(f, "UnassignRouter {} table {} term {}", gone.prefix, gone.table, gone.term)
            }
            Command::EndCooldowns(end) => write!(f, "EndCooldowns term {}", end.term),
            other => cluster_command(other, f),
        }
    }
}

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

/// Commands about the cluster itself.
fn cluster_command(command: &Command, f: &mut Formatter<'_>) -> fmt::Result {
    match command {
        Command::SetRetention(wanted) => write!(f, "SetRetention{}", Kept(wanted)),
        Command::SignCheckpoint(sign) => {
            write!(f, "SignCheckpoint r{} term {}", sign.revision, sign.term)
        }
        Command::AddMember(add) => {
            write!(f, "AddMember {}", add.peer)?;
            add.replaces.map_or(Ok(()), |id| write!(f, " replaces {id}"))
        }
        Command::ClaimMember(claim) => write!(f, "ClaimMember {} {}", claim.id, claim.peer),
        Command::RemoveMember(member) => write!(f, "RemoveMember {}", member.id),
        Command::ResumeAllocation(_) => f.write_str("ResumeAllocation"),
        Command::ReportAttachments(report) => {
            let (host, revision, running) = (&report.host, report.revision, report.running.len());
            write!(f, "ReportAttachments {host} r{revision} running {running}")
        }
        Command::ClaimReserve(claim) => {
            write!(f, "ClaimReserve {} of {} on {}", claim.name, claim.reserve, claim.host)
        }
        Command::ChangeAgentSettings(_) => f.write_str("ChangeAgentSettings"),
        Command::EndHold(end) => write!(f, "EndHold term {}", end.term),
        Command::ReserveServices(reserve) => {
            write!(f, "ReserveServices {}", reserve.ranges.join(", "))
        }
        Command::EnrolAgent(enrol) => {
            write!(f, "EnrolAgent {} of {}", enrol.instance, enrol.host)?;
            enrol.replaces.as_ref().map_or(Ok(()), |old| write!(f, " replaces {old}"))
        }
        _ => Ok(()),
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
        Event::AgentEnrolled(enrolled) => {
            write!(f, "AgentEnrolled {} of {}", enrolled.instance, enrolled.host)?;
            enrolled.replaces.as_ref().map_or(Ok(()), |old| write!(f, " replaces {old}"))
        }
        _ => Ok(()),
    }
}

impl Display for Record {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { revision, index, at, actor, event, .. } = self;
        write!(OneLine(f), "r{revision} i{index} {at} {actor} {event}")
    }
}

/// Gives wrappers of one part of the vocabulary their text.
macro_rules! shown {
    ($($wrapper:ident($inner:ty): |$this:ident, $f:ident| $body:block)*) => {$(
        struct $wrapper<'a>(&'a $inner);

        impl Display for $wrapper<'_> {
            fn fmt(&self, $f: &mut Formatter<'_>) -> fmt::Result {
                let $this = self.0;
                $body
            }
        }
    )*};
}

shown! {
    Outline(TopologySpec): |spec, f| {
        let networks = spec.networks.iter().take(LISTED_MAX);
        let networks = networks.map(|network| Pair(network.name.as_str(), &network.cidr));
        write!(f, "{}", List("", networks, ""))?;
        more(f, spec.networks.len(), "more network")
    }
    Carved(TopologySet): |set, f| {
        write!(f, "{}", Outline(&set.topology))?;
        for host in set.hosts.iter().take(LISTED_MAX) {
            write!(f, " host {}{}", host.host, places(&host.places))?;
        }
        more(f, set.hosts.len(), "more host")
    }
    Change(SettingsChange): |change, f| {
        if let Some(delay) = change.address_reuse_delay_ms {
            write!(f, " address_reuse_delay={}", Span(delay))?;
        }
        change.vip_lease_ms.map_or(Ok(()), |lease| write!(f, " vip_lease={}", Span(lease)))
    }
    Spec(HostSpec): |host, f| {
        write!(f, "{} {}{}", host.name, host.ip, List(",", host.addresses.iter(), ""))?;
        write!(f, "{}{}", labels(&host.labels, " {"), labels(&host.info, " info {"))
    }
    Facts(HostChange): |change, f| {
        write!(f, "{}", change.name)?;
        change.ip.map_or(Ok(()), |ip| write!(f, " ip {ip}"))?;
        if let Some(addresses) = &change.addresses {
            write!(f, " addresses [{}]", List("", addresses.iter(), ""))?;
        }
        if let Some(new) = &change.labels {
            write!(f, " labels {{{}}}", Pairs(new))?;
        }
        change.info.as_ref().map_or(Ok(()), |new| write!(f, " info {{{}}}", Pairs(new)))
    }
    Pairs(crate::Labels): |labels, f| {
        write!(f, "{}", List("", labels.iter().map(|(key, value)| Pair(key, value)), ""))
    }
    Ask(AllocateAddress): |ask, f| {
        write!(f, "{} host {} owner {}/{}", ask.name, ask.host, ask.tenant, ask.segment)?;
        ask.network.as_ref().map_or(Ok(()), |network| write!(f, " network {network}"))?;
        ask.ip.map_or(Ok(()), |ip| write!(f, " ip {ip}"))
    }
    Wanted(VipSpec): |vip, f| {
        write!(f, "{} {}{}", vip.name, vip.ip, List(" candidates ", vip.candidates.iter(), ""))
    }
    Shown(Endpoint): |endpoint, f| {
        let Endpoint { ip, tenant, segment, host, .. } = endpoint;
        write!(f, "{ip} host {host} owner {tenant}/{segment}{}", labels(&endpoint.labels, " {"))?;
        for port in &endpoint.ports {
            write!(f, " {}={}/{}", port.name, port.protocol.as_str(), port.port)?;
        }
        Ok(())
    }
    Summary(Policy): |policy, f| {
        write!(f, "{} targets {}", policy.name, policy.applied_to.len())?;
        if policy.isolates_ingress {
            write!(f, " ingress {}", policy.ingress.len())?;
        }
        if policy.isolates_egress {
            write!(f, " egress {}", policy.egress.len())?;
        }
        Ok(())
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
    Kept(Retention): |retention, f| {
        if let Some(age) = retention.age_ms {
            write!(f, " age={}", Span(age))?;
        }
        retention.bytes.map_or(Ok(()), |bytes| write!(f, " size={}", Size(bytes)))
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

fn word(state: HostState) -> &'static str {
    match state {
        HostState::Up => "up",
        HostState::Down => "down",
        HostState::Draining => "draining",
    }
}

/// The term of a leader task's command.
struct InTerm(Option<u64>);

impl Display for InTerm {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |term| write!(f, " term {term}"))
    }
}

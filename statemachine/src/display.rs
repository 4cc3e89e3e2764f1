//! Commands, events and records as one line of text, for logs, golden files and the CLI. For people; programs read
//! JSON. Names in a command are not validated yet, so control characters are escaped to keep the output on one line.

/// Implements `Display` for single-field wrapper types.
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

mod event;

use core::fmt::{self, Display, Formatter, Write};

use crate::command::{
    AllocateAddress, Command, Endpoint, HostChange, HostSpec, Imported, Retention, SettingsChange,
    TenantSpec, VipSpec,
};
use crate::entry::Term;
use crate::event::VipReason;
use crate::name::HostName;
use crate::plural;
use crate::policy::Policy;
use crate::printable::is_printable;
use crate::time::{Size, Span};
use crate::topology::TopologySpec;

/// Passes text through and escapes non-printable characters.
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

/// Maximum number of items of a topology that are listed; the rest are counted.
const LISTED_MAX: usize = 8;

/// Writes how many items are not listed.
fn more(f: &mut Formatter<'_>, count: usize, what: &str) -> fmt::Result {
    match count.saturating_sub(LISTED_MAX) {
        0 => Ok(()),
        more => write!(f, " and {}", plural(more, what)),
    }
}

/// Items separated by commas, in brackets; nothing if there are none.
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
                write!(f, "SetHostState {} {}{}", set.name, set.state.as_str(), InTerm(set.term))
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
            Command::CreateTenant(spec) => write!(f, "CreateTenant {}", Created(spec)),
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
            Command::PlaceVip(place) => {
                let way = Way(place.from.as_ref(), place.to.as_ref());
                write!(f, "PlaceVip {} {way} ({}) term {}", place.name, place.reason, place.term)
            }
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
        Command::SetVipPools(set) => {
            f.write_str("SetVipPools")?;
            let pools = set.pools.iter().take(LISTED_MAX);
            pools
                .map(|pool| (&pool.name, pool.ranges.join(",")))
                .try_for_each(|(name, ranges)| write!(f, " {name}={ranges}"))?;
            more(f, set.pools.len(), "more pool")
        }
        Command::RequestVipFromPool(vip) => {
            write!(f, "RequestVipFromPool {}", vip.name)?;
            vip.pool.as_ref().map_or(Ok(()), |pool| write!(f, " pool {pool}"))?;
            write!(f, "{}", List(" candidates ", vip.candidates.iter(), ""))
        }
        Command::EnrolAgent(enrol) => {
            write!(f, "EnrolAgent {} of {}", enrol.instance, enrol.host)?;
            enrol.replaces.as_ref().map_or(Ok(()), |old| write!(f, " replaces {old}"))
        }
        Command::ImportObject(import) => {
            write!(f, "ImportObject {}", Content(&import.object))?;
            write!(f, " from {} term {}", import.source, import.term)
        }
        Command::WithdrawObject(withdraw) => {
            let (object, uid) = (&withdraw.object, &withdraw.uid);
            write!(f, "WithdrawObject {object} of {uid} term {}", withdraw.term)
        }
        Command::FollowKubernetes(follow) => {
            f.write_str("FollowKubernetes")?;
            follow.cluster.as_ref().map_or(Ok(()), |cluster| write!(f, " {cluster}"))?;
            follow.term.map_or(Ok(()), |term| write!(f, " term {term}"))
        }
        _ => Ok(()),
    }
}

shown! {
    Content(Imported): |imported, f| {
        match imported {
            Imported::Host(spec) => write!(f, "host {}", Spec(spec)),
            Imported::Tenant(spec) => write!(f, "tenant {}", Created(spec)),
            Imported::Endpoint(endpoint) => write!(f, "endpoint {}", Shown(endpoint)),
            Imported::Policy(policy) => write!(f, "policy {}", Summary(policy)),
            Imported::Vip(spec) => write!(f, "VIP {}", Wanted(spec)),
        }
    }
    Created(TenantSpec): |tenant, f| {
        write!(f, "{}{}", tenant.id, labels(&tenant.labels, " {"))
    }
    Outline(TopologySpec): |spec, f| {
        let networks = spec.networks.iter().take(LISTED_MAX);
        let networks = networks.map(|network| Pair(network.name.as_str(), &network.cidr));
        write!(f, "{}", List("", networks, ""))?;
        more(f, spec.networks.len(), "more network")
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
    Kept(Retention): |retention, f| {
        if let Some(age) = retention.age_ms {
            write!(f, " age={}", Span(age))?;
        }
        retention.bytes.map_or(Ok(()), |bytes| write!(f, " size={}", Size(bytes)))
    }
}

/// From which host to which host something moves.
struct Way<'a>(Option<&'a HostName>, Option<&'a HostName>);

impl Display for Way<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            (Some(from), Some(to)) if from != to => write!(f, "host {to} from {from}"),
            (_, Some(to)) => write!(f, "host {to}"),
            (Some(from), None) => write!(f, "no host from {from}"),
            (None, None) => f.write_str("no host"),
        }
    }
}

impl Display for VipReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "no host had it",
            Self::HolderDown => "its holder is down",
            Self::HolderSilent => "the agent of its holder does not renew",
            Self::HolderDraining => "its holder is draining",
            Self::HolderNotCandidate => "its holder is no candidate any more",
            Self::HolderOffSubnet => "its holder has no link in its subnet any more",
            Self::HostRemoved => "its holder was removed",
            Self::AgentReplaced => "another agent speaks for its holder",
            Self::AddressChanged => "it gets another address",
            Self::VipRemoved => "it is removed",
            Self::GrantChanged => "the length of grants changed",
        })
    }
}

/// The term of a leader task's command.
struct InTerm(Option<Term>);

impl Display for InTerm {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |term| write!(f, " term {term}"))
    }
}

//! The list of refusals: fields, class, message and hint of each.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::text::{Came, Setting, Several, unfit_mask};
use super::{Conflict, Kind};
use crate::command::{ObjectKey, Source};
use crate::entry::{Millis, Revision, Term};
use crate::name::{
    AddressName, HostName, InstanceId, NetworkName, PolicyName, SegmentId, SourceUid, TableId,
    TenantId, VipName, VipPoolName,
};
use crate::plural;
use crate::time::Span;

refusals! {
    /// A name breaks the rule for names.
    InvalidName {
        /// The kind of name.
        field: String,
        /// The name, escaped and truncated.
        name: String,
        why: String,
    }
        => Malformed, "the {field} \"{name}\" is not valid: {why}";
        "Use 1 to 253 ASCII letters, digits and . _ - : @, starting with a letter or a digit.";
    /// A label key or value is too long, or there are too many.
    InvalidLabels { why: String }
        => Malformed, "the labels are not valid: {why}";
        "At most 128 labels, keys of 1 to 1024 bytes and values of at most 1024 bytes.";
    /// A list or text exceeds its limit.
    TooLarge { field: String, size: u64, max: u64 }
        => Malformed, "{field} has size {size}, the most is {max}";
        "Split the request.";
    InvalidCidr {
        /// The text, truncated.
        cidr: String,
        why: String,
    }
        => Malformed, "\"{cidr}\" is not a CIDR: {why}";
        "Write an IPv4 or IPv6 prefix such as 10.111.0.0/16 or fd00:10::/64.";
    /// A CIDR has bits set after its prefix.
    HostBitsSet {
        cidr: IpNet,
        /// The CIDR without host bits: probably what was meant.
        network: IpNet,
    }
        => Malformed, "{cidr} has bits set after its prefix length";
        "Write the network address, as given in details.network.";
    /// An address is not valid for a host or endpoint.
    InvalidAddress { ip: IpAddr, why: String }
        => Malformed, "the address {ip} cannot be used: {why}";
        "Use a unicast address.";
    /// A block mask is shorter than allowed or too long.
    BlockMaskOutOfRange { network: NetworkName, block_mask: u32, min: u32, max: u32 }
        => Malformed, "{}", unfit_mask(network, *block_mask, *min, *max);
        "Choose one in the range, leave it out, or give a larger CIDR: a block is smaller than its network, and has at least four addresses where the first and last are skipped.";
    /// A network name occurs twice.
    DuplicateNetwork { network: NetworkName }
        => Malformed, "network {network} is defined twice";
        "Give each network its own name.";
    /// Two networks overlap.
    NetworksOverlap { a: NetworkName, a_cidr: IpNet, b: NetworkName, b_cidr: IpNet }
        => Malformed, "network {a} ({a_cidr}) and network {b} ({b_cidr}) overlap";
        "Give networks disjoint CIDRs.";
    /// A network is in more than one map, or twice in one.
    NetworkRepeated { network: NetworkName }
        => Malformed, "network {network} appears more than once in topologies";
        "List each network in one topology, once.";
    /// A map names a network that is not defined.
    NetworkNotDefined { network: NetworkName }
        => Malformed, "topologies names network {network}, which networks does not define";
        "Add it to networks, or remove it from topologies.";
    /// A map has no group.
    EmptyMap { networks: Vec<NetworkName> }
        => Malformed, "the map for {} has no group", Several(networks);
        "Use \"map\": [{\"groups\": []}] for one group that holds all hosts.";
    /// A network does not have room for its groups.
    TooManyGroups {
        network: NetworkName,
        /// Groups at the level that does not fit, including padding.
        groups: u64,
        /// The range to divide among them.
        cidr: IpNet,
        /// Prefix length of a block.
        block_mask: u8,
    }
        => Malformed, "{cidr} of network {network} has no room for {} with blocks of /{block_mask}", plural(*groups, "group");
        "Use fewer groups, a larger CIDR or smaller blocks (a longer block_mask).";
    /// Groups nested too deeply.
    GroupsTooDeep { max: u64 }
        => Malformed, "groups are nested deeper than {max} levels";
        "Flatten the map.";
    /// A group is inconsistent.
    InvalidGroup {
        /// Its name or position.
        group: String,
        why: String,
    }
        => Malformed, "group {group} is not valid: {why}";
        "See the topology examples: a group has either groups or hosts; a host has a name and an ip.";
    /// A host is declared twice in the document.
    DuplicateHost { host: HostName }
        => Malformed, "host {host} is declared twice, or with two addresses";
        "Declare a host once per map, with the same ip.";
    /// A topology change would lose existing objects.
    TopologyConflicts {
        /// At most the first hundred.
        conflicts: Vec<Conflict>,
        /// Total number of conflicts.
        total: u64,
    }
        => Conflict, "the topology would not keep everything that lives: {}, first: {}", plural(*total, "conflict"), conflicts.first().map_or("", |c| c.reason.as_str());
        "Resolve what details.conflicts lists, or keep the present groups; `romana topology plan` shows the outcome.";
    /// No topology has been set.
    NoTopology => Conflict, "there is no topology yet";
        "Set one: romana topology update FILE.";
    /// The network does not exist.
    NetworkNotFound { network: NetworkName }
        => NotFound, "network {network} does not exist";
        "romana network list shows the networks.";
    /// A range is not inside any network.
    OutsideNetworks { cidr: IpNet }
        => Forbidden, "{cidr} is not inside any network";
        "romana network list shows the networks and their CIDRs.";
    /// A blackout would cover a whole network.
    BlackoutTooLarge { cidr: IpNet, network: NetworkName }
        => Forbidden, "{cidr} would black out the whole of network {network}";
        "Black out a part of it, or remove the network from the topology.";
    /// A blackout would contain live addresses.
    BlackoutInUse {
        cidr: IpNet,
        /// One live address in it.
        ip: IpAddr,
        name: AddressName,
    }
        => Conflict, "{cidr} holds live addresses, such as {ip} ({name})";
        "Release them first; romana address list shows them.";
    /// The blackout does not exist.
    BlackoutNotFound { cidr: IpNet }
        => NotFound, "{cidr} is not blacked out";
        "The CIDR must be exactly one that was added: romana blackout list.";
    /// A setting is out of its range.
    SettingOutOfRange { setting: String, value: u64, min: u64, max: u64 }
        => Malformed, "{setting} = {} is not between {} and {}", Setting(setting, *value), Setting(setting, *min), Setting(setting, *max);
        "Choose a value in the range.";
    VersionNotNext {
        version: u16,
        current: u16,
        /// The highest version that this program supports.
        supported: u16,
    }
        => Conflict, "version {version} cannot follow {current} (this program knows up to {supported})";
        "Raise by one, when every replica runs a program that knows the version.";
    /// The host does not exist.
    HostNotFound { host: HostName }
        => NotFound, "host {host} does not exist";
        "romana host list shows the hosts; add it with romana host add.";
    /// Another host has the name.
    HostExists { host: HostName, ip: IpAddr }
        => Conflict, "host {host} exists with other properties (ip {ip})";
        "Change it (romana host label, PATCH /v1/hosts/{name}), or remove it first.";
    /// Another host has the address.
    HostAddressInUse { ip: IpAddr, host: HostName }
        => Conflict, "the address {ip} belongs to host {host}";
        "Give each host its own address, or remove the other host first.";
    /// No prefix group is eligible for the host.
    NoGroupForHost { host: HostName }
        => Forbidden, "no prefix group of any network takes host {host}: its labels match none";
        "Give it the labels that a group's assignment asks for: romana topology show.";
    /// With the new labels the host would not be eligible for a group where it has blocks.
    LabelsLeaveGroup { host: HostName, group: IpNet }
        => Conflict, "with these labels host {host} would have to leave group {group}, in which it has blocks";
        "Empty the host first, or keep the labels that the group asks for.";
    /// The host has live addresses.
    HostInUse { host: HostName, addresses: u64 }
        => Conflict, "host {host} has {addresses} live addresses";
        "Move what runs there, or evict with force (romana host remove --force).";
    /// A report is based on a revision that does not exist yet.
    ReportAhead { revision: Revision, current: Revision }
        => Malformed, "the report is based on revision {revision}, the log is at {current}";
        "Report the revision that the agent has followed to.";
    /// The name is already used for another allocation.
    AddressNameInUse {
        name: AddressName,
        ip: IpAddr,
        host: HostName,
        tenant: TenantId,
        segment: SegmentId,
    }
        => Conflict, "the name {name} has {ip} on host {host} for {tenant}/{segment}";
        "Release it first, or use another name. Same name, host, tenant and segment is a safe retry.";
    /// The address does not exist.
    AddressNotFound { address: AddressName }
        => NotFound, "no address is named or is {address}";
        "romana address list shows the addresses.";
    /// The host has no network for this tenant.
    NoNetworkForTenant { tenant: TenantId, host: HostName }
        => Forbidden, "no network gives addresses to tenant {tenant} on host {host}";
        "Add the tenant to a network's tenants, or define a network without tenants.";
    /// The requested network does not admit this tenant, or has no place for this host.
    NetworkNotForTenant { network: NetworkName, tenant: TenantId, host: HostName }
        => Forbidden, "network {network} gives no addresses to tenant {tenant} on host {host}";
        "Leave out the network, or add the tenant to its tenants, or label the host for one of its groups.";
    /// No free address is left.
    NetworkExhausted {
        host: HostName,
        /// Groups that were searched.
        groups: Vec<IpNet>,
        /// Addresses in them that are cooling down.
        cooling: u64,
    }
        => Exhausted, "no address is left for host {host} in {} ({cooling} are cooling down)", Several(groups);
        "Wait for the reuse delay if addresses are cooling down; else release some, or enlarge the network.";
    /// The requested address is already allocated.
    AddressInUse { ip: IpAddr, name: AddressName }
        => Conflict, "{ip} belongs to {name}";
        "Ask for another address, or none in particular.";
    /// The requested address is in a blackout.
    AddressBlackedOut { ip: IpAddr, cidr: IpNet }
        => Forbidden, "{ip} is blacked out by {cidr}";
        "Ask for another address, or end the blackout.";
    /// The requested address was released too recently.
    AddressCoolingDown { ip: IpAddr, released_at: Millis, reuse_delay_ms: u64 }
        => Conflict, "{ip} was released at {released_at} and is kept back until {} ({})", released_at.plus(*reuse_delay_ms), Span(*reuse_delay_ms);
        "Wait until then, or ask for another address.";
    /// The requested address is outside the groups of the host.
    AddressOutsideGroup {
        ip: IpAddr,
        host: HostName,
        /// Groups of the host for this tenant.
        groups: Vec<IpNet>,
    }
        => Forbidden, "{ip} is outside the prefix groups of host {host} for this tenant: {}", Several(groups);
        "Ask for an address inside one of details.groups.";
    /// The network's `skip_first_last` excludes the requested address.
    AddressSkipped { ip: IpAddr, block: IpNet }
        => Forbidden, "{ip} is the first or last address of block {block}, which the network leaves out";
        "Ask for another address.";
    /// The block of the requested address has another owner.
    BlockInUse { block: IpNet, host: HostName, tenant: TenantId, segment: SegmentId }
        => Conflict, "block {block} belongs to {tenant}/{segment} on host {host}";
        "Ask for an address of another block.";
    /// The tenant does not exist.
    TenantNotFound { tenant: TenantId }
        => NotFound, "tenant {tenant} does not exist";
        "romana tenant list shows the tenants.";
    /// The tenant still has objects.
    TenantInUse { tenant: TenantId, what: String }
        => Conflict, "tenant {tenant} still has {what}";
        "Remove that first.";
    /// The segment does not exist.
    SegmentNotFound { tenant: TenantId, segment: SegmentId }
        => NotFound, "tenant {tenant} has no segment {segment}";
        "romana segment list TENANT shows the segments.";
    /// The segment still has objects.
    SegmentInUse { tenant: TenantId, segment: SegmentId, what: String }
        => Conflict, "segment {tenant}/{segment} still has {what}";
        "Remove that first.";
    /// A policy cannot be enforced as written.
    InvalidPolicy { policy: String, field: String, why: String }
        => Malformed, "policy {policy}, {field}: {why}";
        "Correct the field; romana policy check FILE explains a policy without applying it.";
    /// The policy does not exist.
    PolicyNotFound { policy: PolicyName }
        => NotFound, "policy {policy} does not exist";
        "romana policy list shows the policies.";
    /// An endpoint is not valid.
    InvalidEndpoint { ip: IpAddr, why: String }
        => Malformed, "endpoint {ip} is not valid: {why}";
        "Correct the field.";
    /// The VIP does not exist.
    VipNotFound { vip: VipName }
        => NotFound, "VIP {vip} does not exist";
        "romana vip list shows the VIPs.";
    /// Another VIP has the address.
    VipAddressInUse { ip: IpAddr, by: String }
        => Conflict, "{ip} is used by {by}";
        "Choose an address that no VIP, endpoint or host has.";
    /// The host may not hold the VIP.
    HostNotCandidate { vip: VipName, host: HostName, why: String }
        => Forbidden, "host {host} may not answer for VIP {vip}: {why}";
        "Choose a candidate that is up.";
    /// Another host holds an unexpired lease.
    VipLeaseHeld { vip: VipName, host: HostName, until: Millis }
        => Conflict, "host {host} holds VIP {vip} until {until}";
        "Unassign it first, or wait until the lease is over.";
    /// The router assignment does not exist.
    RouterNotFound { prefix: IpNet, table: TableId }
        => NotFound, "no host forwards for {prefix} in {table}";
        "GET /v1/snapshot?topics=routers shows the routers.";
    /// A leader task's command is from an earlier term.
    StaleTerm { term: Term, current: Term }
        => Conflict, "the command was decided in term {term}, the log is in term {current}";
        "Nothing: the new leader's task decides anew.";
    /// The cluster is at a version that does not support this yet.
    VersionTooLow { needed: u16, current: u16 }
        => Conflict, "this needs version {needed} of the cluster, which is at {current}";
        "Upgrade every replica: the leader raises the version when all of them know it. romana cluster status shows them.";
    /// A checkpoint is not after the last one, or its revision is not reached yet.
    CheckpointNotNext {
        revision: Revision,
        /// Revision of the last signed one.
        signed: Revision,
        current: Revision,
    }
        => Conflict, "a checkpoint at revision {revision} cannot be signed: the last one is at {signed}, the log is at {current}";
        "Nothing: the leader's task signs a later one.";
    /// The text is not the address of a peer listener.
    InvalidPeer {
        /// As given, escaped.
        peer: String,
        why: String,
    }
        => Malformed, "\"{peer}\" is not a peer address: {why}";
        "Write it as HOST:PORT or [IPV6]:PORT, such as 10.0.0.4:9601.";
    /// Another member has the peer address.
    MemberExists { id: u64, peer: String }
        => Conflict, "member {id} has the peer address {peer}";
        "If its disk is gone: romana cluster replace ID. If it is no longer wanted: romana cluster remove ID.";
    /// The member id is retired.
    MemberIsRemoved { id: u64 }
        => Conflict, "member {id} was removed, and its id is never used again";
        "Add a new member: romana cluster add HOST:PORT, and start it with an empty data directory and --join.";
    /// The member id is bound to another data directory.
    MemberIsClaimed { id: u64 }
        => Conflict, "member {id} has another data directory than this one: its disk was lost or swapped";
        "Put the old data directory back, or: romana cluster replace ID, and start with an empty one and --join.";
    /// Allocation is held after a restore until hosts have reported.
    AllocationHeld {
        /// Revision of the restore.
        since: Revision,
        /// Some of the hosts that have not reported.
        hosts: Vec<HostName>,
        /// Number of hosts that have not reported.
        waiting: u64,
    }
        => Conflict, "the cluster was restored from a backup at revision {since}, and waits for the reports of {}", plural(*waiting, "host");
        "Wait for the agents, or go on without them: romana cluster resume. An address that is known can be asked for by its ip.";
    /// A report after a restore has attachments that are not in the log.
    ReportIncomplete {
        host: HostName,
        /// Some of them.
        names: Vec<AddressName>,
        /// Total number of such names.
        total: u64,
    }
        => Conflict, "host {host} runs what is not allocated there: {}, such as {}", plural(*total, "attachment"), names.first().map_or("", AddressName::as_str);
        "Allocate each by its name and ip first, then report again.";
    /// Another agent is enrolled for the host.
    HostHasAgent { host: HostName, instance: InstanceId }
        => Conflict, "another agent, {instance}, speaks for host {host}";
        "Stop one of the two, or start this one with the name of its own host (--hostname). One that stays silent is replaced by itself (--takeover-after).";
    /// A range overlaps a special-purpose range.
    RangeNotUsable { cidr: IpNet, why: String }
        => Forbidden, "addresses of {cidr} cannot be given out: {why}";
        "Use a range of unicast addresses, such as one of RFC 1918 (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16) or RFC 4193 (fd00::/8).";
    /// The address is already in use.
    AddressTaken { ip: IpAddr, by: String }
        => Conflict, "{ip} belongs to {by}";
        "Choose an address that no host, VIP, endpoint or service has.";
    /// A service range overlaps addresses in use.
    RangeTaken { cidr: IpNet, by: String }
        => Conflict, "{cidr} cannot be kept for services: it shares addresses with {by}";
        "Give services the range that the cluster has for them (--service-cluster-ip-range), and networks and hosts others.";
    /// A host address lies in a network.
    HostInsideNetwork { host: HostName, ip: IpAddr, network: NetworkName, cidr: IpNet }
        => Conflict, "{ip} of host {host} lies in network {network} ({cidr}), whose addresses are for endpoints";
        "Give hosts addresses outside all networks; or exclude the range that hosts are in first: romana blackout add CIDR.";
    /// A name spells an address.
    NameReadsAsAddress { name: String }
        => Malformed, "the name {name} reads as an address of somebody else";
        "Things are looked up by name and by address: choose a name that is no address, or that is the thing's own address.";
    /// A text is ambiguous.
    AmbiguousName {
        text: String,
        named: String,
        /// The user of that address.
        found: String,
    }
        => Conflict, "{text} means two things: it is the name of {named}, and it is {found}";
        "Name the one that is meant otherwise: by its own address or its own name, as given in details.";
    /// Another host's name differs only in case or a trailing dot.
    HostDiffersInCase { host: HostName, other: HostName }
        => Conflict, "there is no host {host}, but {other}, which differs in upper and lower case or a last dot only";
        "Write the name as it is in the log. DNS does not tell such names apart, so a cluster has only one of them.";
    /// An object is withdrawn for a source that it does not belong to.
    SourceDiffers {
        object: ObjectKey,
        /// The source that no longer exists.
        uid: SourceUid,
        /// The source that the object belongs to.
        origin: Option<Source>,
    }
        => Conflict, "{object} is not withdrawn for {uid}: {}", Came(origin.as_ref());
        "Nothing: only the source of an object withdraws it. An operator's is removed with the command for it.";
    /// An imported object has the name of one that an operator made.
    MadeByOperator { object: ObjectKey }
        => Conflict, "{object} was made by an operator, and is not changed by what comes from elsewhere";
        "Remove it, and it is imported; or give the one outside another name.";
    /// The API server is that of another Kubernetes cluster.
    OtherKubernetes { cluster: SourceUid, followed: SourceUid }
        => Conflict, "the objects of Kubernetes cluster {cluster} are not imported: those of {followed} are";
        "Correct the kubeconfig of romanad. If the cluster was made anew: romana kubernetes confirm UID.";
    /// Another host has the VIP than the command expects.
    VipHolderDiffers {
        vip: VipName,
        /// The host that has it, if any.
        holder: Option<HostName>,
        /// The revision since which it has it, or none has it.
        since: Revision,
    }
        => Conflict, "VIP {vip} is with {} since r{since}, not as the command expects it", holder.as_ref().map_or("no host", HostName::as_str);
        "Nothing: the leader's task decides again.";
    /// The command was replaced by another one.
    CommandReplaced {
        command: String,
        replacement: String,
        /// The version from which on it is refused.
        version: u16,
    }
        => Conflict, "from version {version} on, {replacement} replaces {command}";
        "Nothing: the leader's task decides where VIPs are; a VIP is moved by its candidates or by draining its host.";
    /// No pool has the name, or addresses of the family.
    VipPoolNotFound {
        /// What was asked for, such as `with IPv6 addresses`.
        wanted: String,
    }
        => NotFound, "there is no VIP pool {wanted}";
        "romana vip pool list shows the pools, romana vip pool set replaces them. Or ask for an address by its ip.";
    /// A range of a pool contains addresses that are not for VIPs, or that another pool has.
    VipPoolTaken { cidr: IpNet, by: String }
        => Conflict, "VIPs cannot get addresses of {cidr}: it shares addresses with {by}";
        "Choose a range of the hosts' subnets that no network, service range or other pool has.";
    /// All addresses of the pools are in use.
    VipPoolsExhausted { pools: Vec<VipPoolName> }
        => Exhausted, "no address is left for a VIP in {}", Several(pools);
        "Add a range to the pool, or remove VIPs that are not needed.";
}

//! Every limit of the data model, with its unit in its name.

/// Longest name, bytes (a DNS name's limit, RFC 1035 §2.3.4).
pub const NAME_BYTES_MAX: usize = 253;
/// Labels on one object.
pub const LABELS_MAX: usize = 128;
/// Longest label key or value, bytes (a Kubernetes key is at most 317).
pub const LABEL_BYTES_MAX: usize = 1024;
/// Longest description of a policy, bytes.
pub const DESCRIPTION_BYTES_MAX: usize = 4096;
/// Addresses of one host.
pub const HOST_ADDRESSES_MAX: usize = 16;
/// Networks of one topology document.
pub const NETWORKS_MAX: usize = 1024;
/// Prefix groups of one network, padding included.
pub const GROUPS_MAX: usize = 65_536;
/// Depth of nested groups.
pub const GROUP_DEPTH_MAX: usize = 20;
/// Tenants that one network names.
pub const NETWORK_TENANTS_MAX: usize = 4096;
/// Conflicts listed when a topology change is refused; the rest are counted.
pub const CONFLICTS_LISTED_MAX: usize = 100;
/// Rules, peers, targets or ports in one list of a policy.
pub const POLICY_LIST_MAX: usize = 4096;
/// Named ports of one endpoint.
pub const NAMED_PORTS_MAX: usize = 256;
/// Candidates of one VIP.
pub const VIP_CANDIDATES_MAX: usize = 4096;
/// Pools of addresses for VIPs.
pub const VIP_POOLS_MAX: usize = 64;
/// Ranges of one pool of addresses for VIPs.
pub const VIP_POOL_RANGES_MAX: usize = 64;
/// Names in one attachment report (addresses in use on one host).
pub const REPORT_NAMES_MAX: usize = 65_536;
/// Longest reuse delay: one day, in milliseconds.
pub const REUSE_DELAY_MS_MAX: u64 = 86_400_000;
/// Longest VIP lease: one hour, in milliseconds.
pub const VIP_LEASE_MS_MAX: u64 = 3_600_000;
/// Shortest and longest grant of a VIP from version 4 on, milliseconds. A new leader moves no VIP before the longest
/// grant that its predecessor may have given is over, so this also bounds that wait.
pub const VIP_GRANT_MS: (u64, u64) = (1_000, 10_000);
/// Empty blocks that one `EndCooldowns` returns; the rest wait for the next one.
pub const BLOCKS_RETURNED_MAX: usize = 512;
/// Members of the control plane, learners included.
pub const MEMBERS_MAX: usize = 15;
/// Longest peer address or nonce of a member, bytes.
pub const MEMBER_TEXT_BYTES_MAX: usize = 300;
/// Names listed in a refusal; the rest are counted.
pub const NAMES_LISTED_MAX: usize = 10;
/// Shortest and longest retention of the history: a minute to a hundred years, milliseconds.
pub const RETENTION_AGE_MS: (u64, u64) = (60_000, 3_155_760_000_000);
/// Smallest and largest size limit of the history: 1 MiB to 1 EiB, bytes.
pub const RETENTION_BYTES: (u64, u64) = (1 << 20, 1 << 60);
/// Conflicts kept per host; further ones are dropped.
pub const CONFLICTS_KEPT_MAX: usize = 256;
/// Addresses in reserve for one tenant and segment on one host.
pub const RESERVE_MAX: u32 = 64;
/// Shortest and longest time without heartbeats after which a host is marked down: a second to a day, milliseconds.
pub const HOST_DOWN_AFTER_MS: (u64, u64) = (1_000, 86_400_000);
/// Longest hold after a restore that can be set: thirty days, milliseconds.
pub const HOLD_MS_MAX: u64 = 2_592_000_000;
/// Ranges of services.
pub const SERVICE_RANGES_MAX: usize = 8;
/// Commands in one log entry.
pub const ENTRY_COMMANDS_MAX: usize = 4096;

const _: () = assert!(BLOCKS_RETURNED_MAX < ENTRY_COMMANDS_MAX);
const _: () = assert!(GROUP_DEPTH_MAX < 64);

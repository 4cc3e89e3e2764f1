//! Everything that Romana owns on a host. What is not recognised here belongs to another program, and is
//! never changed or removed (P8).
//!
//! | object | how it is recognised |
//! |---|---|
//! | routes to blocks, pods and `unreachable` own blocks | route protocol [`ROUTE_PROTOCOL`], in the route table of the agent |
//! | host ends of pods' veth pairs | name starts with [`LINK_PREFIX`] |
//! | iptables chains, ipsets | name starts with [`CHAIN_PREFIX`] |
//! | one jump to each of our base chains, the first rule of `INPUT`, `FORWARD` and `OUTPUT` |
//! its target is one of our chains |
//! | one bit of the packet mark, used between our own rules | `--policy-mark-bit`;
//! cleared before other rules see it |
//! | addresses of VIPs on the host's links | address protocol [`ADDRESS_PROTOCOL`] (Linux 5.18 and later; before, they are
//! removed by the run of the agent that added them, or end with their lifetime of 1 s) |
//! | tracked connections of released addresses | the log announces the release; every host deletes them |
//! | in a container with several interfaces: a route table and a rule for each additional one | its number is
//! 57 000 plus the index of the link |
//! | the CNI plugin and its configuration | [`PLUGIN_FILE`], [`CONFLIST_FILE`] |
//! | state | the agent's `--state-dir` |
//!
//! Sysctls belong to the host. The agent sets those that it needs only if configured (`--set-sysctls`), and
//! never resets them; those of its own links vanish with the links. They are written below `--sysctl-dir`.

use romana_statemachine::Digest;

/// Route protocol of our routes (`romana` in `/etc/iproute2/rt_protos`).
pub const ROUTE_PROTOCOL: u8 = 57;
/// Protocol of our addresses on the host's links (`IFA_PROTO`).
pub const ADDRESS_PROTOCOL: u8 = ROUTE_PROTOCOL;
/// Prefix of host ends of veth pairs.
pub const LINK_PREFIX: &str = "romana-";
/// Prefix of iptables chains and ipsets.
pub const CHAIN_PREFIX: &str = "ROMANA-";
/// The chain of table `nat` that masquerades packets leaving the Romana networks.
pub const MASQUERADE_CHAIN: &str = "ROMANA-MASQ";
/// The plugin, in the CNI binary directory.
pub const PLUGIN_FILE: &str = "romana-cni";
/// The plugin's type in a network configuration, which is its file name.
pub const PLUGIN_TYPE: &str = PLUGIN_FILE;
/// The network configuration, in the CNI configuration directory.
pub const CONFLIST_FILE: &str = "10-romana.conflist";
/// Default socket for the plugin.
pub const SOCKET: &str = "/run/romana/agent.sock";
/// Prefixes of names that the plugin allocates, by family. Other addresses of this host (VMs, addresses that
/// an operator allocated) are not managed by the agent; names in the reserve begin with
/// [`romana_statemachine::name::RESERVE_PREFIX`].
pub const ADDRESS_PREFIXES: [&str; 2] = romana_statemachine::name::PLUGIN_PREFIXES;
/// In the state directory: the saved view of the cluster.
pub const VIEW_FILE: &str = "view";
/// In the state directory: attachments, one file each.
pub const ATTACHMENTS_DIR: &str = "attachments";
/// In the state directory: the address reserve.
pub const RESERVE_FILE: &str = "reserve";
/// In the state directory: DELs that the plugin spooled while no agent answered.
pub const SPOOL_DIR: &str = "spool";
/// In the state directory, and next to the socket: the agent's instance name.
pub const INSTANCE_FILE: &str = "instance";
/// In the state directory: the host's name as the log writes it, if it is not the configured one.
pub const HOST_FILE: &str = "host";
/// In the state directory: the host came from Kubernetes.
pub const OF_KUBERNETES_FILE: &str = "of-kubernetes";
/// Next to the socket: the revision up to which connections of released addresses are deleted.
pub const FOLLOWED_FILE: &str = "followed";
/// In the state directory: says which watchdog of VIPs is the last one.
pub const WATCHDOG_FILE: &str = "vip-watchdog";
/// In the state directory: locked by the running agent.
pub const LOCK_FILE: &str = "lock";
/// Default state directory.
pub const STATE_DIR: &str = "/var/lib/romana";

/// The host end of an attachment's veth pair: the prefix and 8 hex digits of a digest of its key, 15 bytes,
/// the longest link name possible.
#[must_use]
pub fn host_link(container_id: &str, ifname: &str) -> String {
    let Digest(digest) = Digest::of(format!("{container_id}/{ifname}").as_bytes());
    let [a, b, c, d, ..] = digest;
    format!("{LINK_PREFIX}{a:02x}{b:02x}{c:02x}{d:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_name_fits_and_depends_on_both() {
        assert_eq!(host_link("c1", "eth0").len(), 15);
        assert_ne!(host_link("c1", "eth0"), host_link("c1", "eth1"));
        assert_ne!(host_link("c1", "eth0"), host_link("c2", "eth0"));
    }
}

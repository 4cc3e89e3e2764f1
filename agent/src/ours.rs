//! Everything that Romana owns on a host, in one place. Whatever is not recognised here is somebody
//! else's: it is never changed and never removed (law 8).
//!
//! | what | how it is recognised |
//! |---|---|
//! | routes to blocks, pods and `unreachable` own blocks | route protocol [`ROUTE_PROTOCOL`], in the route table of the agent |
//! | host ends of pods' veth pairs | name starts with [`LINK_PREFIX`] |
//! | iptables chains, ipsets | name starts with [`CHAIN_PREFIX`] |
//! | one jump to each of our base chains, the first rule of `INPUT`, `FORWARD` and `OUTPUT` | its target is such a chain |
//! | one bit of the packet mark, between our own rules | `--policy-mark-bit`; cleared before anybody else sees it |
//! | tracked connections of released addresses | the log says so, on every host; they are forgotten |
//! | in a container with several interfaces: a route table for each further one, and a rule | its number is 57 000 and the index of the link |
//! | the CNI plugin and its configuration | [`PLUGIN_FILE`], [`CONFLIST_FILE`] |
//! | state | the agent's `--state-dir` |
//!
//! Sysctls are the host's. The agent sets those that it needs only if told to (`--set-sysctls`), and
//! never sets one back; those of its own links die with them.

use romana_statemachine::Digest;

/// Route protocol of our routes (`romana` in `/etc/iproute2/rt_protos`; design §4.5).
pub const ROUTE_PROTOCOL: u8 = 57;
/// Host ends of veth pairs start with this.
pub const LINK_PREFIX: &str = "romana-";
/// iptables chains and ipsets start with this.
pub const CHAIN_PREFIX: &str = "ROMANA-";
/// The chain of table `nat` that masquerades what leaves the Romana networks.
pub const MASQUERADE_CHAIN: &str = "ROMANA-MASQ";
/// The plugin, in the CNI binary directory.
pub const PLUGIN_FILE: &str = "romana-cni";
/// The plugin's type in a network configuration: the name of its file.
pub const PLUGIN_TYPE: &str = PLUGIN_FILE;
/// The network configuration, in the CNI configuration directory.
pub const CONFLIST_FILE: &str = "10-romana.conflist";
/// Where the agent listens for the plugin.
pub const SOCKET: &str = "/run/romana/agent.sock";
/// Begin the names, in the log, of what the plugin attached, by family. What has another name on this host
/// (a VM, an address that an operator allocated) is not the agent's to judge; what it holds in reserve
/// begins with [`romana_statemachine::name::RESERVE_PREFIX`].
pub const ADDRESS_PREFIXES: [&str; 2] = romana_statemachine::name::PLUGIN_PREFIXES;
/// In the state directory: what is known of the cluster.
pub const VIEW_FILE: &str = "view";
/// In the state directory: what is attached, a file for each.
pub const LEDGER_DIR: &str = "attachments";
/// In the state directory: addresses in reserve.
pub const RESERVE_FILE: &str = "reserve";
/// In the state directory: DELs that the plugin left while no agent answered.
pub const SPOOL_DIR: &str = "spool";
/// In the state directory, and beside the socket: what the agent that uses them calls itself.
pub const INSTANCE_FILE: &str = "instance";
/// Beside the socket: up to where connections of released addresses are forgotten.
pub const FOLLOWED_FILE: &str = "followed";
/// In the state directory: locked by the agent that uses it.
pub const LOCK_FILE: &str = "lock";
/// Where the agent keeps what must outlive it.
pub const STATE_DIR: &str = "/var/lib/romana";

/// The host end of an attachment's veth pair: the prefix and 8 hex digits of a digest of its key, 15
/// bytes, as long as a link's name may be.
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

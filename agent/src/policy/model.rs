//! The desired filter as data: sets, chains and rules, and their text for `iptables` and `ipset`. The text
//! equals the output of `iptables-save` and `ipset save`, so that desired and actual state can be compared.

use std::fmt::{self, Display};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;
use romana_statemachine::policy::Protocol;

/// The set of containers' addresses with their links; it has two dimensions.
pub const LINKS: &str = "ROMANA-links";
/// Prefix of sets of named ports, which have two dimensions as well.
pub const PORTS: &str = "ROMANA-P-";

/// An address family; each has its own tables and sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The suffix of set names: 4 or 6.
    #[must_use]
    pub fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }
}

/// Name of a chain or set, without the digit of the family.
pub type Name = Arc<str>;

/// The filter of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub sets: OrdMap<(Family, Name), Set>,
    /// Chains of table `filter`.
    pub chains: OrdMap<(Family, Name), Chain>,
}

/// A set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub kind: SetKind,
    /// Members; `true`: an exception from a larger member (`nomatch`).
    pub members: OrdMap<Member, bool>,
}

/// The member type of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetKind {
    Nets,
    Links,
    /// An address, a protocol and a port.
    Ports,
}

impl SetKind {
    /// The type name in `ipset`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nets => "hash:net",
            Self::Links => "hash:net,iface",
            Self::Ports => "hash:ip,port",
        }
    }
}

/// A member of a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Member {
    /// A prefix; never of length 0, which `hash:net` cannot hold.
    Net(IpNet),
    Link(IpAddr, Arc<str>),
    Port(IpAddr, Protocol, u16),
}

impl Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Net(net) => net.fmt(f),
            Self::Link(ip, link) => write!(f, "{ip},{link}"),
            Self::Port(ip, protocol, port) => write!(f, "{ip},{}:{port}", protocol.as_str()),
        }
    }
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Shared, as most chains do not change in an update.
    pub rules: Arc<Vec<Rule>>,
    /// Whether the order of rules matters. If not, single rules are added and removed.
    pub ordered: bool,
}

/// A rule: the action applies if all conditions match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub matches: Vec<Match>,
    /// For operators; letters, digits, spaces and `.:,=/@()-_!` only.
    pub comment: String,
    pub action: Action,
}

/// An end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Source,
    Destination,
}

impl End {
    fn as_str(self) -> &'static str {
        match self {
            Self::Source => "src",
            Self::Destination => "dst",
        }
    }
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// An address in a prefix.
    Net(End, IpNet),
    /// The packet uses a container's link on this side.
    Container(End),
    /// The packet uses loopback on this side.
    Loopback(End),
    Protocol(Protocol),
    /// A destination port in one of these ranges; at most 15 slots, a range takes two.
    Ports(Vec<(u16, u16)>),
    /// ICMP type and code.
    Icmp(u8, Option<u8>),
    /// A packet of an allowed connection.
    Established,
    /// An address of this host.
    Own(End),
    /// Membership in a set.
    In {
        set: Name,
        /// The end to look up; for a set of links also the link on that side, for a set
        /// of ports the destination port.
        end: End,
        /// Negated.
        not: bool,
    },
    /// No policy has allowed the packet so far.
    Unmarked,
}

/// The action of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Count,
    /// Continue in a chain, which may return.
    Jump(Name),
    /// Return to the calling chain.
    Return,
    /// Accept the packet for the whole table.
    Accept,
    Drop,
    /// Record that a policy allows the packet.
    Mark,
    /// Clear the mark.
    Unmark,
    /// Log by NFLOG, at most ten a second, with this prefix.
    Log(String),
}

/// Parameters of the rules' text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    pub family: Family,
    /// The bit of the packet mark that means "allowed".
    pub mark: u32,
    pub log_group: u16,
}

impl Rule {
    /// The rule as printed by `iptables-save`, after `-A CHAIN`.
    #[must_use]
    pub fn text(&self, style: Style) -> String {
        let mut matches: Vec<&Match> = self.matches.iter().collect();
        matches.sort_by_key(|one| one.place());
        let mut words: Vec<String> = matches.iter().map(|m| m.text(self, style)).collect();
        if !self.comment.is_empty() {
            words.push(format!("-m comment --comment \"{}\"", self.comment));
        }
        words.extend(self.action.text(style));
        words.join(" ")
    }

    fn protocol(&self) -> Option<Protocol> {
        self.matches.iter().find_map(|one| match one {
            Match::Protocol(protocol) => Some(*protocol),
            _ => None,
        })
    }
}

impl Match {
    /// The order in which iptables prints conditions, whatever the input order.
    fn place(&self) -> u8 {
        match self {
            Self::Net(End::Source, _) => 0,
            Self::Net(End::Destination, _) => 1,
            Self::Container(End::Source) | Self::Loopback(End::Source) => 2,
            Self::Container(End::Destination) | Self::Loopback(End::Destination) => 3,
            Self::Protocol(_) => 4,
            _ => 5,
        }
    }

    fn text(&self, rule: &Rule, style: Style) -> String {
        let v4 = style.family == Family::V4;
        match self {
            Self::Net(End::Source, net) => format!("-s {net}"),
            Self::Net(End::Destination, net) => format!("-d {net}"),
            Self::Container(End::Source) => format!("-i {}+", crate::ownership::LINK_PREFIX),
            Self::Container(End::Destination) => format!("-o {}+", crate::ownership::LINK_PREFIX),
            Self::Loopback(End::Source) => "-i lo".into(),
            Self::Loopback(End::Destination) => "-o lo".into(),
            Self::Protocol(Protocol::Icmp) if !v4 => "-p ipv6-icmp".into(),
            Self::Protocol(protocol) => format!("-p {}", protocol.as_str()),
            Self::Ports(ranges) => ports(ranges, rule.protocol().unwrap_or_default()),
            Self::Icmp(kind, code) => {
                let code = code.map(|code| format!("/{code}")).unwrap_or_default();
                let (module, option) = if v4 { ("icmp", "icmp") } else { ("icmp6", "icmpv6") };
                format!("-m {module} --{option}-type {kind}{code}")
            }
            Self::Established => "-m conntrack --ctstate RELATED,ESTABLISHED".into(),
            Self::Own(end) => format!("-m addrtype --{}-type LOCAL", end.as_str()),
            Self::In { set, end, not } => {
                let ends = match set.as_ref() {
                    // Sets with two dimensions.
                    set if set.starts_with(LINKS) => [end.as_str(); 2].join(","),
                    set if set.starts_with(PORTS) => "dst,dst".into(),
                    _ => end.as_str().into(),
                };
                let not = if *not { "! " } else { "" };
                format!("-m set {not}--match-set {set}{} {ends}", style.family.digit())
            }
            Self::Unmarked => format!("-m mark ! --mark {0:#x}/{0:#x}", style.mark),
        }
    }
}

fn ports(ranges: &[(u16, u16)], protocol: Protocol) -> String {
    let one = |(low, high): &(u16, u16)| match low == high {
        true => low.to_string(),
        false => format!("{low}:{high}"),
    };
    match ranges {
        [only] => format!("-m {} --dport {}", protocol.as_str(), one(only)),
        ranges => {
            let all: Vec<String> = ranges.iter().map(one).collect();
            format!("-m multiport --dports {}", all.join(","))
        }
    }
}

impl Action {
    fn text(&self, style: Style) -> Option<String> {
        let Style { mark, log_group, .. } = style;
        Some(match self {
            Self::Count => return None,
            Self::Jump(chain) => format!("-j {chain}"),
            Self::Return => "-j RETURN".into(),
            Self::Accept => "-j ACCEPT".into(),
            Self::Drop => "-j DROP".into(),
            Self::Mark => format!("-j MARK --set-xmark {mark:#x}/{mark:#x}"),
            Self::Unmark => format!("-j MARK --set-xmark 0x0/{mark:#x}"),
            Self::Log(prefix) => {
                format!(
                    "-m limit --limit 10/sec -j NFLOG --nflog-prefix \"{prefix}\" --nflog-group {log_group}"
                )
            }
        })
    }
}

impl Rule {
    /// A rule without conditions and comment.
    #[must_use]
    pub fn new(action: Action) -> Self {
        Self { matches: Vec::new(), comment: String::new(), action }
    }

    /// Adds a condition.
    #[must_use]
    pub fn when(mut self, one: Match) -> Self {
        self.matches.push(one);
        self
    }

    /// Adds a comment, restricted to printable characters.
    #[must_use]
    pub fn saying(mut self, comment: &str) -> Self {
        /// Shorter than the kernel's limit, for readability.
        const CHARS_MAX: usize = 200;
        let plain = |c: char| c.is_ascii_alphanumeric() || " .:,=/@()-_!".contains(c);
        let chars = comment.chars().take(CHARS_MAX);
        self.comment = chars.map(|c| if plain(c) { c } else { '?' }).collect();
        self
    }
}

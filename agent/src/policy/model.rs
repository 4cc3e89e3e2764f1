//! What is to be in the kernel, as data: sets, chains and rules, and the text of `iptables` and `ipset`
//! for them. The text is what `iptables-save` and `ipset save` print, so that wanted and actual compare.

use std::fmt::{self, Display};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;
use romana_statemachine::policy::Protocol;

/// The set of addresses behind containers' links: with the link, so it has two dimensions.
pub const LINKS: &str = "ROMANA-links";
/// Begins names of sets of named ports, which have two dimensions as well.
pub const PORTS: &str = "ROMANA-P-";

/// An address family: each has its own tables and sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Of an address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// As names of sets end: 4 or 6.
    #[must_use]
    pub fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }
}

/// A chain's or a set's name, without the digit of the family.
pub type Name = Arc<str>;

/// All of it, for one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Sets.
    pub sets: OrdMap<(Family, Name), Set>,
    /// Chains of table `filter`.
    pub chains: OrdMap<(Family, Name), Chain>,
}

/// A set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// What its members are.
    pub kind: SetKind,
    /// Members; `true`: an exception from a larger member (`nomatch`).
    pub members: OrdMap<Member, bool>,
}

/// What members of a set are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetKind {
    /// Prefixes.
    Nets,
    /// An address and a link.
    Links,
    /// An address, a protocol and a port.
    Ports,
}

impl SetKind {
    /// Its type in `ipset`.
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
    /// An address behind a link.
    Link(IpAddr, Arc<str>),
    /// A port of an address.
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
    /// Its rules. Shared: most chains stay as they are when something changes.
    pub rules: Arc<Vec<Rule>>,
    /// Whether their order means something. Where it does not, one rule is added or removed alone.
    pub ordered: bool,
}

/// A rule: if all of it matches, the action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Conditions.
    pub matches: Vec<Match>,
    /// For people; letters, digits, spaces and `.:,=/@()-_!` only.
    pub comment: String,
    /// What then.
    pub action: Action,
}

/// Which end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Where it comes from.
    Source,
    /// Where it goes to.
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
    /// Came in, or goes out, by a container's link.
    Container(End),
    /// Came in, or goes out, by loopback.
    Loopback(End),
    /// A protocol.
    Protocol(Protocol),
    /// A destination port in one of these ranges; at most 15 slots, a range takes two.
    Ports(Vec<(u16, u16)>),
    /// ICMP type, and code.
    Icmp(u8, Option<u8>),
    /// A packet of a connection that was allowed.
    Established,
    /// An address of this host.
    Own(End),
    /// In a set, or not.
    In {
        /// Which.
        set: Name,
        /// Which end: for a set of links the link on that side, too; for one of ports the destination port.
        end: End,
        /// Whether it must not be in it.
        not: bool,
    },
    /// Allowed by no policy so far.
    Unmarked,
}

/// What to do with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Count it.
    Count,
    /// Go through a chain, and come back.
    Jump(Name),
    /// Back to the chain before.
    Return,
    /// Let it pass all of the table.
    Accept,
    /// Drop it.
    Drop,
    /// Note that a policy allows it.
    Mark,
    /// Forget that.
    Unmark,
    /// Log it by NFLOG, at most ten a second, with this prefix.
    Log(String),
}

/// How rules are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// The family.
    pub family: Family,
    /// The bit of the packet mark that says "allowed".
    pub mark: u32,
    /// The group of NFLOG.
    pub log_group: u16,
}

impl Rule {
    /// As `iptables-save` prints it, after `-A CHAIN`.
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
    /// What iptables prints first, whatever was written first.
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
            Self::Container(End::Source) => format!("-i {}+", crate::ours::LINK_PREFIX),
            Self::Container(End::Destination) => format!("-o {}+", crate::ours::LINK_PREFIX),
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
                    // Two dimensions.
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

    /// One condition more.
    #[must_use]
    pub fn when(mut self, one: Match) -> Self {
        self.matches.push(one);
        self
    }

    /// With a comment, made printable.
    #[must_use]
    pub fn saying(mut self, comment: &str) -> Self {
        /// What the kernel keeps of a comment is longer; nobody reads more.
        const CHARS_MAX: usize = 200;
        let plain = |c: char| c.is_ascii_alphanumeric() || " .:,=/@()-_!".contains(c);
        let chars = comment.chars().take(CHARS_MAX);
        self.comment = chars.map(|c| if plain(c) { c } else { '?' }).collect();
        self
    }
}

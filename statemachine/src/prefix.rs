//! Arithmetic on prefixes and addresses, the same for IPv4 and IPv6.

use alloc::string::{String, ToString};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::refusal::Refusal;

/// The first address of a prefix, as a key that is cheap to compare: IPv4 before IPv6, then by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Start {
    v6: bool,
    high: u64,
    low: u64,
}

impl Start {
    pub(crate) fn of(net: IpNet) -> Self {
        match net {
            IpNet::V4(net) => Self { v6: false, high: u32::from(net.network()).into(), low: 0 },
            IpNet::V6(net) => {
                let bits = net.network().to_bits();
                #[expect(clippy::cast_possible_truncation, reason = "both halves are kept")]
                Self { v6: true, high: (bits >> 64) as u64, low: bits as u64 }
            }
        }
    }
}

/// An address as a number.
pub(crate) fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// The address with a number, in the family of `like`.
pub(crate) fn address(like: IpAddr, number: u128) -> IpAddr {
    match like {
        // Numbers of IPv4 addresses come from IPv4 prefixes, so they fit.
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

/// Number of addresses in a prefix, minus one (a /0 of IPv6 has 2^128 of them).
pub(crate) fn last_offset(net: IpNet) -> u128 {
    match net.max_prefix_len() - net.prefix_len() {
        128 => u128::MAX,
        bits => (1u128 << bits) - 1,
    }
}

/// The address at an offset of a prefix.
pub(crate) fn nth(net: IpNet, offset: u128) -> IpAddr {
    address(net.network(), number(net.network()).saturating_add(offset))
}

/// Offset of an address in a prefix that contains it.
pub(crate) fn offset(net: IpNet, ip: IpAddr) -> u128 {
    number(ip).saturating_sub(number(net.network()))
}

/// The sub-prefix of length `len` at position `n` of a prefix (`len` not shorter than its own).
pub(crate) fn subnet(net: IpNet, len: u8, n: u128) -> IpNet {
    let bits = u32::from(net.max_prefix_len() - len);
    let start = nth(net, n.checked_shl(bits).unwrap_or(0));
    IpNet::new(start, len).unwrap_or(net)
}

/// Position of a sub-prefix of length `len` of a prefix, by an address inside it.
pub(crate) fn position(net: IpNet, len: u8, ip: IpAddr) -> u128 {
    let bits = u32::from(net.max_prefix_len() - len);
    offset(net, ip).checked_shr(bits).unwrap_or(0)
}

/// The prefix of length `len` that contains an address.
pub(crate) fn enclosing(ip: IpAddr, len: u8) -> IpNet {
    IpNet::new(ip, len).map_or_else(|_| IpNet::from(ip), |net| net.trunc())
}

/// Whether two prefixes overlap.
pub(crate) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// Parses a CIDR without host bits. The address must be in standard notation: `010.0.0.0` is invalid, because some
/// programs read it as 8.0.0.0.
///
/// # Errors
/// [`Refusal::InvalidCidr`], [`Refusal::HostBitsSet`].
pub fn parse(cidr: &str) -> Result<IpNet, Refusal> {
    let net = parse_before_4(cidr)?;
    let address = cidr.split('/').next().unwrap_or_default();
    if address.parse::<IpAddr>().is_err() {
        return Err(invalid(cidr, "its address has a number with a leading zero"));
    }
    Ok(net)
}

/// Like [`parse`], but numbers may have leading zeros, as was allowed before version 4 of the log.
pub(crate) fn parse_before_4(cidr: &str) -> Result<IpNet, Refusal> {
    let refuse = |why: &str| invalid(cidr, why);
    if !cidr.contains('/') {
        return Err(refuse("it has no prefix length"));
    }
    let net: IpNet = cidr.parse().map_err(|_| refuse("it is no address/length"))?;
    let network = net.trunc();
    if net != network {
        return Err(Refusal::HostBitsSet { cidr: net, network });
    }
    Ok(net)
}

fn invalid(cidr: &str, why: &str) -> Refusal {
    let shown: String = cidr.chars().take(64).flat_map(char::escape_default).collect();
    Refusal::InvalidCidr { cidr: shown, why: why.to_string() }
}

/// Reads CIDRs in JSON like [`parse`], but accepts host bits: `decide` refuses those with a reason. The binary form,
/// used in the log, is unchanged.
pub(crate) mod json {
    use alloc::string::String;
    use alloc::vec::Vec;
    use core::net::IpAddr;

    use ipnet::IpNet;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(net: &IpNet, to: S) -> Result<S::Ok, S::Error> {
        net.serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<IpNet, D::Error> {
        if !from.is_human_readable() {
            return IpNet::deserialize(from);
        }
        let text = String::deserialize(from)?;
        let address = text.split('/').next().unwrap_or_default();
        let net = text.parse().ok().filter(|_| address.parse::<IpAddr>().is_ok());
        net.ok_or_else(|| de::Error::custom(super::invalid(&text, "it is no address/length")))
    }

    /// The same for a list.
    pub(crate) mod list {
        use super::{Deserialize, Deserializer, IpNet, Serialize, Serializer, Vec};

        #[derive(Deserialize)]
        struct One(#[serde(with = "super")] IpNet);

        pub(crate) fn serialize<S: Serializer>(nets: &[IpNet], to: S) -> Result<S::Ok, S::Error> {
            nets.serialize(to)
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Vec<IpNet>, D::Error> {
            Ok(Vec::<One>::deserialize(from)?.into_iter().map(|One(net)| net).collect())
        }
    }
}

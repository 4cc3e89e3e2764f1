//! Names of addresses: `….in-addr.arpa` (RFC 1035, 3.5) and `….ip6.arpa` (RFC 3596, 2.5).

use std::net::IpAddr;

use hickory_proto::rr::Name;
use ipnet::IpNet;

/// The address, or the network, that a reverse name stands for.
pub(super) fn network(name: &Name) -> Option<IpNet> {
    let labels: Vec<&[u8]> = name.iter().rev().collect();
    let (arpa, rest) = labels.split_first()?;
    let (kind, rest) = rest.split_first()?;
    if !arpa.eq_ignore_ascii_case(b"arpa") {
        return None;
    }
    if kind.eq_ignore_ascii_case(b"in-addr") { v4(rest) } else { v6(kind, rest) }
}

fn v4(labels: &[&[u8]]) -> Option<IpNet> {
    let mut octets = [0; 4];
    for (at, label) in labels.iter().enumerate() {
        let text = std::str::from_utf8(label).ok()?;
        let octet: u8 = text.parse().ok()?;
        // One spelling for each address: no leading zeros or signs.
        if octet.to_string() != text {
            return None;
        }
        *octets.get_mut(at)? = octet;
    }
    IpNet::new(IpAddr::from(octets), u8::try_from(8 * labels.len()).ok()?).ok()
}

fn v6(kind: &[u8], labels: &[&[u8]]) -> Option<IpNet> {
    if !kind.eq_ignore_ascii_case(b"ip6") || labels.len() > 32 {
        return None;
    }
    let mut bits = 0_u128;
    for (at, label) in labels.iter().enumerate() {
        let [digit] = label else { return None };
        let digit = char::from(*digit).to_digit(16)?;
        bits |= u128::from(digit) << (124 - 4 * at);
    }
    IpNet::new(IpAddr::from(bits.to_be_bytes()), u8::try_from(4 * labels.len()).ok()?).ok()
}

/// The name of the smallest reverse zone that holds a whole network.
pub(super) fn apex(network: IpNet) -> Name {
    let (all, bits) = match network {
        IpNet::V4(_) => (4, 8),
        IpNet::V6(_) => (32, 4),
    };
    let whole = usize::from(network.prefix_len()) / bits;
    let name = Name::from(network.network());
    let labels: Vec<&[u8]> = name.iter().skip(all - whole).collect();
    Name::from_labels(labels).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn addresses_have_names_and_back(v4: u32, v6: u128) {
            for ip in [IpAddr::V4(v4.into()), IpAddr::V6(v6.into())] {
                prop_assert_eq!(network(&Name::from(ip)), Some(IpNet::from(ip)));
            }
        }
    }

    #[test]
    fn parts_of_addresses_are_networks() {
        for (name, expected) in [
            ("96.10.in-addr.arpa.", Some("10.96.0.0/16")),
            ("in-addr.arpa.", Some("0.0.0.0/0")),
            ("D.F.IP6.ARPA.", Some("fd00::/8")),
            ("1.2.3.4.5.in-addr.arpa.", None),
            ("256.in-addr.arpa.", None),
            ("01.in-addr.arpa.", None),
            ("10.in-addr.example.", None),
            ("fd.ip6.arpa.", None),
            ("arpa.", None),
            (".", None),
        ] {
            let found = network(&Name::from_ascii(name).unwrap());
            assert_eq!(found, expected.map(|text| text.parse().unwrap()), "{name}");
        }
        for (network, expected) in
            [("10.96.0.0/12", "10.in-addr.arpa."), ("fd00:1::/33", "1.0.0.0.0.0.d.f.ip6.arpa.")]
        {
            assert_eq!(apex(network.parse().unwrap()), Name::from_ascii(expected).unwrap());
        }
    }
}

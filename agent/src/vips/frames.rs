//! Announcements of an address, as Ethernet frames: pure.
//!
//! IPv4: a gratuitous ARP request (RFC 5227, 3) and a gratuitous reply, as some devices heed only one of them. IPv6: an
//! unsolicited neighbour advertisement that overrides what is cached (RFC 4861, 7.2.6).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Ethernet address of a link.
pub type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
/// Ethernet address of [`ALL_NODES`].
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Shortest frame without its checksum.
const FRAME_MIN: usize = 60;
const ICMPV6: u8 = 58;

/// The frames that announce an address at a link with this Ethernet address.
#[must_use]
pub fn announcements(ip: IpAddr, mac: Mac) -> Vec<Vec<u8>> {
    match ip {
        IpAddr::V4(ip) => vec![arp(ip, mac, 1, [0; 6]), arp(ip, mac, 2, BROADCAST)],
        IpAddr::V6(ip) => vec![advertisement(ip, mac)],
    }
}

fn arp(ip: Ipv4Addr, mac: Mac, operation: u8, target: Mac) -> Vec<u8> {
    let mut frame = [BROADCAST, mac].concat();
    // ARP; Ethernet, IPv4, lengths of their addresses.
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, operation]);
    frame.extend(mac);
    frame.extend(ip.octets());
    frame.extend(target);
    frame.extend(ip.octets());
    frame.resize(FRAME_MIN, 0);
    frame
}

fn advertisement(ip: Ipv6Addr, mac: Mac) -> Vec<u8> {
    // Neighbour advertisement, not solicited, override; the checksum comes later.
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(ip.octets());
    // Target link-layer address, 8 bytes.
    message.extend([2, 1]);
    message.extend(mac);
    let sum = checksum(ip, ALL_NODES, &message);
    message.splice(2..4, sum);
    let mut frame = [ALL_NODES_MAC, mac].concat();
    // IPv6 with 32 bytes of ICMPv6 and hop limit 255.
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, ICMPV6, 255]);
    frame.extend(ip.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

/// The checksum of an ICMPv6 message (RFC 8200, 8.1).
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> [u8; 2] {
    let length = u8::try_from(message.len()).unwrap_or(u8::MAX);
    let pseudo = [&from.octets()[..], &to.octets(), &[0, 0, 0, length, 0, 0, 0, ICMPV6], message];
    let words = pseudo.concat();
    let sum = words.chunks(2).fold(0_u32, |sum, pair| {
        let low = pair.get(1).copied().unwrap_or_default();
        sum + u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let [_, _, high, low] = folded.to_be_bytes();
    [!high, !low]
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 7];

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn arp_is_announced_as_request_and_as_reply() {
        let frames = announcements("192.168.99.101".parse().unwrap(), MAC);
        let end = "0".repeat(36);
        let request = "ffffffffffff020000000007080600010800060400010200000000\
            07c0a86365000000000000c0a86365";
        let reply = "ffffffffffff020000000007080600010800060400020200000000\
            07c0a86365ffffffffffffc0a86365";
        assert_eq!(hex(&frames[0]), format!("{request}{end}"));
        assert_eq!(hex(&frames[1]), format!("{reply}{end}"));
    }

    #[test]
    fn an_advertisement_overrides_and_its_checksum_is_right() {
        let ip: Ipv6Addr = "fd77::100".parse().unwrap();
        let frame = &announcements(ip.into(), MAC)[0];
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(
            hex(&frame[..22]),
            "3333000000010200000000\
            0786dd6000000000203aff"
        );
        let message = &frame[54..];
        assert_eq!((message[0], message[4]), (136, 0x20));
        assert_eq!(message[8..24], ip.octets());
        assert_eq!(hex(&message[24..]), "0201020000000007");
        // With the checksum in it, the sum over the message is zero.
        assert_eq!(checksum(ip, ALL_NODES, message), [0, 0]);
    }
}

//! Connection tracking, over netlink (linux/netfilter/nfnetlink_conntrack.h).

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::IpAddr;

use futures_util::StreamExt;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, NlaBuffer, NlasIterator,
};
use rtnetlink::proto::{ConnectionHandle, new_connection};
use rtnetlink::sys::SocketAddr;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rustix::io::Errno;

use super::KernelError;

/// NFNL_SUBSYS_CTNETLINK with IPCTNL_MSG_CT_GET and IPCTNL_MSG_CT_DELETE, as message types.
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
/// CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID and CTA_ZONE.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
/// CTA_TUPLE_IP, and within it CTA_IP_V4_SRC and CTA_IP_V6_SRC.
const ADDRESSES: u16 = 1;
const SOURCE_V4: u16 = 1;
const SOURCE_V6: u16 = 3;
/// Size of nfgenmsg, whose first byte is the family.
const FAMILY: usize = 4;
/// AF_INET and AF_INET6.
const FAMILIES: [(bool, u8); 2] = [(true, 2), (false, 10)];
/// Size of an attribute header, and alignment of attributes.
const ATTRIBUTE: usize = 4;

/// Deletes connections that the addresses have initiated or answered, so that neither the next holder of
/// an address is reached by them, nor others by the next holder. The whole table is read once for all
/// addresses: not every kernel that accepts a filter applies it to the reply direction. Returns the
/// number of connections deleted.
///
/// # Errors
/// [`KernelError`]: some connections may remain.
pub async fn forget(ips: &BTreeSet<IpAddr>) -> Result<usize, KernelError> {
    let (connection, handle, _) = new_connection::<Message>(NETLINK_NETFILTER)?;
    let connection = tokio::spawn(connection);
    let forgotten = forget_over(&handle, ips).await;
    connection.abort();
    forgotten
}

async fn forget_over(
    handle: &ConnectionHandle<Message>,
    ips: &BTreeSet<IpAddr>,
) -> Result<usize, KernelError> {
    let mut forgotten = 0;
    for (v4, family) in FAMILIES {
        if !ips.iter().any(|ip| ip.is_ipv4() == v4) {
            continue;
        }
        let ask = Message { kind: GET, bytes: vec![family, 0, 0, 0] };
        let mut found = Vec::new();
        request(handle, ask, NLM_F_DUMP, "the tracked connections", |answer| {
            if sources(&answer.bytes).any(|ip| ips.contains(&ip)) {
                found.push(answer.bytes);
            }
        })
        .await?;
        for connection in found {
            forgotten += usize::from(delete(handle, &connection).await?);
        }
    }
    Ok(forgotten)
}

/// Deletes a connection. `false`: it had already ended.
async fn delete(
    handle: &ConnectionHandle<Message>,
    connection: &[u8],
) -> Result<bool, KernelError> {
    let ask = Message { kind: DELETE, bytes: name(connection) };
    match request(handle, ask, NLM_F_ACK, "to forget a connection", |_| {}).await {
        Ok(()) => Ok(true),
        Err(KernelError::Netlink { source, .. }) if super::has_errno(&source, Errno::NOENT) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// The attributes that identify a connection: its original tuple, and its id, as another connection
/// may have the same tuple by now.
fn name(connection: &[u8]) -> Vec<u8> {
    let mut bytes = connection.get(..FAMILY).unwrap_or_default().to_vec();
    for attribute in attributes(connection.get(FAMILY..).unwrap_or_default()) {
        if matches!(attribute.kind(), ORIGINAL | ID | ZONE) {
            let length = usize::from(attribute.length());
            bytes.extend_from_slice(attribute.into_inner().get(..length).unwrap_or_default());
            bytes.resize(bytes.len().next_multiple_of(ATTRIBUTE), 0);
        }
    }
    bytes
}

/// Source addresses of both directions of a connection.
fn sources(connection: &[u8]) -> impl Iterator<Item = IpAddr> + '_ {
    let tuples = attributes(connection.get(FAMILY..).unwrap_or_default());
    let tuples = tuples.filter(|tuple| matches!(tuple.kind(), ORIGINAL | REPLY));
    let parts = tuples.flat_map(|tuple| attributes(value(&tuple)));
    let addresses = parts.filter(|part| part.kind() == ADDRESSES);
    addresses.flat_map(|part| attributes(value(&part))).filter_map(|ip| match ip.kind() {
        SOURCE_V4 => Some(IpAddr::from(<[u8; 4]>::try_from(value(&ip)).ok()?)),
        SOURCE_V6 => Some(IpAddr::from(<[u8; 16]>::try_from(value(&ip)).ok()?)),
        _ => None,
    })
}

/// Attributes up to the first malformed one.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(bytes).map_while(Result::ok)
}

fn value<'a>(attribute: &NlaBuffer<&'a [u8]>) -> &'a [u8] {
    let bytes = (*attribute).into_inner();
    bytes.get(ATTRIBUTE..usize::from(attribute.length())).unwrap_or_default()
}

async fn request(
    handle: &ConnectionHandle<Message>,
    ask: Message,
    flags: u16,
    what: &'static str,
    mut take: impl FnMut(Message),
) -> Result<(), KernelError> {
    let mut ask = NetlinkMessage::from(ask);
    ask.header.flags = NLM_F_REQUEST | flags;
    let answers = handle.request(ask, SocketAddr::new(0, 0));
    let refused = KernelError::asked(what);
    let Ok(mut answers) = answers else { return Err(refused(rtnetlink::Error::RequestFailed)) };
    while let Some(answer) = answers.next().await {
        match answer.payload {
            NetlinkPayload::InnerMessage(message) => take(message),
            NetlinkPayload::Error(error) if error.code.is_some() => {
                return Err(refused(rtnetlink::Error::NetlinkError(error)));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A message left unparsed: a dump is long, and few of its connections are relevant.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    kind: u16,
    bytes: Vec<u8>,
}

impl From<Message> for NetlinkPayload<Message> {
    fn from(message: Message) -> Self {
        Self::InnerMessage(message)
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.bytes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.bytes);
    }
}

impl NetlinkDeserializable for Message {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self { kind: header.message_type, bytes: payload.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(ATTRIBUTE + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(ATTRIBUTE), 0);
        bytes
    }

    /// Encoded as by the kernel: nested attributes carry a flag.
    fn tuple(kind: u16, source: [u8; 4]) -> Vec<u8> {
        let addresses = [attribute(SOURCE_V4, &source), attribute(2, &[10, 0, 0, 9])].concat();
        let parts = [attribute(ADDRESSES | 0x8000, &addresses), attribute(2 | 0x8000, &[])];
        attribute(kind | 0x8000, &parts.concat())
    }

    #[test]
    fn a_connection_is_known_by_both_ends_and_named_by_who_began_it() {
        let (begun, id) = (tuple(ORIGINAL, [10, 0, 0, 1]), attribute(ID, &[1, 2, 3, 4]));
        let answered = tuple(REPLY, [10, 0, 0, 2]);
        let all = [&[2, 0, 0, 0][..], &begun, &answered, &attribute(7, &[0; 4]), &id].concat();
        let ips: Vec<String> = sources(&all).map(|ip| ip.to_string()).collect();
        assert_eq!(ips, ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(name(&all), [&[2, 0, 0, 0][..], &begun, &id].concat());
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            sources(&bytes).for_each(drop);
            name(&bytes);
        }
    }
}

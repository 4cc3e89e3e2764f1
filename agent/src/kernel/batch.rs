//! Batches changes of routes and addresses: several messages are written to one buffer, and the kernel
//! acknowledges each (netlink(7)).

use std::collections::BTreeMap;
use std::io;

use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

/// Messages per batch: their acknowledgements fit into a socket buffer of default size.
const MESSAGES_MAX: usize = 128;

/// A change of a route or an address.
pub(super) enum Ask {
    /// Add a route, if none has this destination and metric.
    Add(RouteMessage),
    Replace(RouteMessage),
    Remove(RouteMessage),
    /// Add an address, if the link does not have it.
    AddAddress(AddressMessage),
    /// Set the lifetime of an address; add it if the link does not have it.
    RenewAddress(AddressMessage),
    RemoveAddress(AddressMessage),
}

/// Applies all changes in order. Blocking. Returns a result for each.
///
/// # Errors
/// The socket failed: the outcome is unknown, and is read in the next pass.
pub(super) fn apply(asks: Vec<Ask>) -> io::Result<Vec<Result<(), rtnetlink::Error>>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    // An acknowledgement identifies its message by sequence number, so the
    // kernel need not return the message.
    socket.set_cap_ack(true)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut outcomes = Vec::with_capacity(asks.len());
    let mut numbered = (1u32..).zip(asks).peekable();
    while numbered.peek().is_some() {
        let (mut buffer, mut sent) = (Vec::new(), Vec::new());
        for (number, ask) in numbered.by_ref().take(MESSAGES_MAX) {
            push(&mut buffer, number, ask);
            sent.push(number);
        }
        socket.send(&buffer, 0)?;
        let mut said = receive(&socket, sent.len())?;
        outcomes.extend(sent.iter().map(|number| said.remove(number).unwrap_or(Ok(()))));
    }
    Ok(outcomes)
}

fn push(buffer: &mut Vec<u8>, number: u32, ask: Ask) {
    let (message, flags) = match ask {
        Ask::Add(route) => (RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_EXCL),
        Ask::Replace(route) => (RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_REPLACE),
        Ask::Remove(route) => (RouteNetlinkMessage::DelRoute(route), 0),
        Ask::AddAddress(address) => {
            (RouteNetlinkMessage::NewAddress(address), NLM_F_CREATE | NLM_F_EXCL)
        }
        Ask::RenewAddress(address) => {
            (RouteNetlinkMessage::NewAddress(address), NLM_F_CREATE | NLM_F_REPLACE)
        }
        Ask::RemoveAddress(address) => (RouteNetlinkMessage::DelAddress(address), 0),
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    header.sequence_number = number;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let start = buffer.len();
    // Messages are aligned to four bytes (NLMSG_ALIGN).
    buffer.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut buffer[start..]);
}

/// Reads this many acknowledgements.
fn receive(
    socket: &Socket,
    count: usize,
) -> io::Result<BTreeMap<u32, Result<(), rtnetlink::Error>>> {
    let mut said = BTreeMap::new();
    while said.len() < count {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            let length = message.header.length as usize;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            if let NetlinkPayload::Error(error) = message.payload {
                let outcome = match error.code {
                    None => Ok(()),
                    Some(_) => Err(rtnetlink::Error::NetlinkError(error)),
                };
                said.insert(message.header.sequence_number, outcome);
            }
        }
    }
    Ok(said)
}

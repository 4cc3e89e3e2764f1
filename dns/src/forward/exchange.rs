//! One question to one upstream: by UDP from a port of its own, then by TCP if the answer is truncated.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::Name;
use hickory_proto::serialize::binary::BinDecodable;
use rand::random;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::cache::Key;
use crate::wire::UDP_BYTES_MAX;

/// Buffer for an answer by UDP: more than we say that we take, as servers send more.
const BUFFER_BYTES: usize = 4_096;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the answer is not a message for this question")]
    Invalid,
}

/// A request, and what its answer must match.
#[derive(Clone, Debug)]
pub struct Request {
    message: Message,
    bytes: Vec<u8>,
    /// Whether the answer must have the same spelling (draft-vixie-dnsext-dns0x20).
    same_case: bool,
}

impl Request {
    /// A request with an id of its own; `None` if the name cannot be written.
    #[must_use]
    pub fn new(key: &Key, random_case: bool) -> Option<Self> {
        let mut name = Name::from(key.name.clone());
        if random_case {
            name.randomize_label_case();
        }
        let mut message = Message::new(random(), MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.metadata.checking_disabled = key.unchecked;
        // Tells an upstream that validates to say so (RFC 6840, section 5.7).
        message.metadata.authentic_data = true;
        message.add_query(Query::query(name, key.kind));
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_BYTES_MAX);
        edns.set_dnssec_ok(key.dnssec);
        message.set_edns(edns);
        let bytes = message.to_vec().ok()?;
        Some(Self { message, bytes, same_case: random_case })
    }

    /// The request as a packet.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Reads an answer; `None` if it is not one to this request: late, forged, or no message at all.
    #[must_use]
    pub fn answer(&self, packet: &[u8]) -> Option<Message> {
        let message = Message::from_bytes(packet).ok()?;
        let header = &message.metadata;
        let is_reply = header.message_type == MessageType::Response
            && header.id == self.message.metadata.id
            && header.op_code == OpCode::Query;
        let ([asked], [said]) = (&self.message.queries[..], &message.queries[..]) else {
            return None;
        };
        let same = asked.query_type == said.query_type
            && asked.query_class == said.query_class
            && if self.same_case {
                asked.name.eq_case(&said.name)
            } else {
                asked.name == said.name
            };
        (is_reply && same).then_some(message)
    }
}

/// Asks an upstream. The caller limits the time.
///
/// # Errors
/// [`ExchangeError`].
pub async fn ask(upstream: SocketAddr, request: &Request) -> Result<Message, ExchangeError> {
    let answer = by_udp(upstream, request).await?;
    if answer.metadata.truncation {
        return by_tcp(upstream, request).await;
    }
    Ok(answer)
}

async fn by_udp(upstream: SocketAddr, request: &Request) -> Result<Message, ExchangeError> {
    let any: IpAddr = match upstream {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // The kernel chooses a random port, and drops what others than the upstream send (RFC 5452).
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    socket.send(&request.bytes).await?;
    let mut buffer = [0; BUFFER_BYTES];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = request.answer(&buffer[..length]) {
            return Ok(answer);
        }
    }
}

async fn by_tcp(upstream: SocketAddr, request: &Request) -> Result<Message, ExchangeError> {
    let mut stream = TcpStream::connect(upstream).await?;
    stream.set_nodelay(true)?;
    let length = u16::try_from(request.bytes.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes()[..], &request.bytes].concat();
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut packet = vec![0; usize::from(length)];
    stream.read_exact(&mut packet).await?;
    request.answer(&packet).ok_or(ExchangeError::Invalid)
}

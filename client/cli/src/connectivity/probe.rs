//! `romana connectivity probe`: opens connections from the network namespace that it runs in, and says what came of
//! them. `romana connectivity respond` answers them.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Time for a connection: a lost SYN is sent again after a second.
const TCP_WITHIN: Duration = Duration::from_millis(2_500);
/// Time for a datagram's answer, and the number of attempts.
const UDP_WITHIN: Duration = Duration::from_millis(800);
const UDP_ATTEMPTS: usize = 3;
/// Bytes sent in each direction, and the time for it.
const BULK_BYTES: usize = 256 << 10;
const BULK_WITHIN: Duration = Duration::from_secs(8);
/// Size of a small datagram.
pub(super) const SMALL: usize = 64;
/// The interface of an endpoint, whose MTU counts.
const MTU_FILE: &str = "/sys/class/net/eth0/mtu";

/// How a connection is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Way {
    /// A TCP connection.
    Tcp,
    /// A small datagram and its answer.
    Udp,
    /// Much data over TCP, in both directions.
    Bulk,
    /// A datagram that fills the MTU, unfragmented, and its answer.
    Full,
}

impl Way {
    const ALL: [(Self, &'static str); 4] =
        [(Self::Tcp, "tcp"), (Self::Udp, "udp"), (Self::Bulk, "bulk"), (Self::Full, "full")];

    pub(super) fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(way, _)| *way == self).map_or("", |(_, name)| name)
    }

    /// The protocol, as in a policy.
    pub(super) fn protocol(self) -> &'static str {
        if matches!(self, Self::Tcp | Self::Bulk) { "tcp" } else { "udp" }
    }
}

/// A connection to try: `WAY/IP/PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Target {
    pub(super) way: Way,
    pub(super) ip: IpAddr,
    pub(super) port: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.way.as_str(), self.ip, self.port)
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad =
            || format!("{text:?} is not tcp/IP/PORT, udp/IP/PORT, bulk/IP/PORT or full/IP/PORT");
        let [way, ip, port] = text.splitn(3, '/').collect::<Vec<_>>()[..] else {
            return Err(bad());
        };
        let way = Way::ALL.iter().find(|(_, name)| *name == way).ok_or_else(bad)?.0;
        let ip = ip.parse().map_err(|_| bad())?;
        let port = port.parse().map_err(|_| bad())?;
        Ok(Self { way, ip, port })
    }
}

/// Why a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Fault {
    /// Nothing came back.
    Silence,
    /// The other end has no program at this port, or a rule rejects it.
    Refused,
    /// A router or this host has no way there.
    Unreachable,
    /// The packet is larger than a link on the way permits.
    TooLong,
    /// It began, and broke off.
    Broken,
    /// This end could not try: its own configuration is wrong.
    Unable,
}

/// What came of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// The address that the other end saw.
    #[serde(default)]
    pub(super) seen: Option<IpAddr>,
    #[serde(default)]
    pub(super) fault: Option<Fault>,
    /// The system's message, or the number of bytes.
    #[serde(default)]
    pub(super) more: String,
}

impl Outcome {
    pub(super) fn failed(fault: Fault, more: impl Into<String>) -> Self {
        Self { seen: None, fault: Some(fault), more: more.into() }
    }

    pub(super) fn is_ok(&self) -> bool {
        self.fault.is_none()
    }
}

/// Tries all targets at once. The outcomes are in the same order.
pub(super) async fn try_all(targets: &[Target]) -> Vec<Outcome> {
    futures_util::future::join_all(targets.iter().map(one)).await
}

async fn one(target: &Target) -> Outcome {
    let at = SocketAddr::new(target.ip, target.port);
    let (within, work): (_, std::pin::Pin<Box<dyn Future<Output = io::Result<Outcome>> + Send>>) =
        match target.way {
            Way::Tcp => (TCP_WITHIN, Box::pin(tcp(at))),
            Way::Bulk => (BULK_WITHIN, Box::pin(bulk(at))),
            Way::Udp => (UDP_WITHIN * 4, Box::pin(small(at))),
            Way::Full => (UDP_WITHIN * 6, Box::pin(full(at))),
        };
    match timeout(within, work).await {
        Err(_) if target.way == Way::Bulk => {
            Outcome::failed(Fault::Broken, "it did not end in time")
        }
        Err(_) => Outcome::failed(Fault::Silence, ""),
        Ok(Err(error)) => Outcome::failed(fault(&error), error.to_string()),
        Ok(Ok(outcome)) => outcome,
    }
}

fn fault(error: &io::Error) -> Fault {
    /// `EMSGSIZE`, which has no kind of its own.
    const TOO_LONG: i32 = 90;
    match error.kind() {
        ErrorKind::ConnectionRefused => Fault::Refused,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
            Fault::Unreachable
        }
        ErrorKind::TimedOut => Fault::Silence,
        ErrorKind::AddrNotAvailable | ErrorKind::NotFound | ErrorKind::PermissionDenied => {
            Fault::Unable
        }
        _ if error.raw_os_error() == Some(TOO_LONG) => Fault::TooLong,
        _ => Fault::Broken,
    }
}

/// The first line of an answer: the address that the other end saw.
fn seen(line: &[u8]) -> io::Result<IpAddr> {
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let text = String::from_utf8_lossy(line);
    text.trim()
        .parse()
        .map_err(|_| io::Error::new(ErrorKind::InvalidData, "another program answers at this port"))
}

fn reached(seen: IpAddr, more: String) -> Outcome {
    Outcome { seen: Some(seen), fault: None, more }
}

async fn tcp(at: SocketAddr) -> io::Result<Outcome> {
    let mut stream = BufReader::new(TcpStream::connect(at).await?);
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await?;
    Ok(reached(seen(&line)?, String::new()))
}

async fn bulk(at: SocketAddr) -> io::Result<Outcome> {
    let stream = TcpStream::connect(at).await?;
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).await?;
    let seen = seen(&line)?;
    let send = async {
        writer.write_all(&vec![b'r'; BULK_BYTES]).await?;
        writer.shutdown().await
    };
    let receive = async {
        let (mut count, mut piece) = (0, vec![0; 64 << 10]);
        loop {
            match reader.read(&mut piece).await? {
                0 => return Ok::<_, io::Error>(count),
                more => count += more,
            }
        }
    };
    let (sent, received) = tokio::join!(send, receive);
    sent?;
    match received? {
        BULK_BYTES => Ok(reached(seen, format!("{BULK_BYTES} bytes both ways"))),
        count => {
            let why = format!("{count} of {BULK_BYTES} bytes came back");
            Ok(Outcome::failed(Fault::Broken, why))
        }
    }
}

/// A socket of its own for each attempt: connection tracking knows nothing of it.
async fn socket(at: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match at.ip() {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(at).await?;
    Ok(socket)
}

/// Sends a datagram and returns the answer; `None`: there is none in time.
async fn ask(socket: &UdpSocket, size: usize) -> io::Result<Option<Vec<u8>>> {
    socket.send(&vec![b'r'; size]).await?;
    let mut answer = vec![0; 1 << 16];
    match timeout(UDP_WITHIN, socket.recv(&mut answer)).await {
        Err(_) => Ok(None),
        Ok(count) => {
            answer.truncate(count?);
            Ok(Some(answer))
        }
    }
}

async fn small(at: SocketAddr) -> io::Result<Outcome> {
    let socket = socket(at).await?;
    for _ in 0..UDP_ATTEMPTS {
        if let Some(answer) = ask(&socket, SMALL).await? {
            return Ok(reached(seen(&answer)?, String::new()));
        }
    }
    Ok(Outcome::failed(Fault::Silence, ""))
}

/// Sends one datagram of the MTU's size: the kernel does not fragment it, and forgets what it learns of a smaller link
/// only later, so a second one would not be the same test.
async fn full(at: SocketAddr) -> io::Result<Outcome> {
    let mtu = tokio::fs::read_to_string(MTU_FILE).await?;
    let mtu: usize = mtu.trim().parse().map_err(|_| ErrorKind::InvalidData)?;
    let headers = if at.is_ipv4() { 28 } else { 48 };
    let first = small(at).await?;
    if !first.is_ok() {
        return Ok(first);
    }
    let socket = socket(at).await?;
    let size = mtu.saturating_sub(headers);
    match ask(&socket, size).await? {
        Some(answer) if answer.len() == size => {
            Ok(reached(seen(&answer)?, format!("packets of {mtu} bytes")))
        }
        Some(answer) => {
            let why = format!("{} of {size} bytes came back", answer.len());
            Ok(Outcome::failed(Fault::Broken, why))
        }
        None => Ok(Outcome::failed(Fault::TooLong, format!("packets of {mtu} bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::responder;
    use super::*;

    #[test]
    fn targets_are_read_as_they_are_written() {
        for text in ["tcp/10.0.0.1/80", "udp/fd00::1/7001", "bulk/::1/1", "full/10.0.0.1/65535"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for bad in ["", "tcp", "tcp/10.0.0.1", "icmp/10.0.0.1/1", "tcp/x/1", "tcp/10.0.0.1/99999"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_responder_is_reached_and_a_closed_port_is_not() {
        let responder = responder::start(&[0]).await.unwrap();
        let port = responder.ports()[0];
        let ip = IpAddr::from([127, 0, 0, 1]);
        let closed = tokio::net::TcpListener::bind((ip, 0)).await.unwrap();
        let unused = closed.local_addr().unwrap().port();
        drop(closed);
        let at = |way, port| Target { way, ip, port };
        let targets =
            [at(Way::Tcp, port), at(Way::Udp, port), at(Way::Bulk, port), at(Way::Tcp, unused)];
        let outcomes = try_all(&targets).await;
        for outcome in &outcomes[..3] {
            assert_eq!((outcome.seen, outcome.fault), (Some(ip), None), "{outcome:?}");
        }
        assert_eq!(outcomes[3].fault, Some(Fault::Refused));
        let text = serde_json::to_string(&outcomes).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Outcome>>(&text).unwrap(), outcomes);
    }

    #[tokio::test]
    async fn another_program_is_no_responder() {
        let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = other.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = other.accept().await.unwrap();
            stream.write_all(b"SSH-2.0-OpenSSH\n").await.unwrap();
        });
        let target = Target { way: Way::Tcp, ip: [127, 0, 0, 1].into(), port };
        let outcome = one(&target).await;
        assert!(outcome.more.contains("another program answers"), "{outcome:?}");
    }
}

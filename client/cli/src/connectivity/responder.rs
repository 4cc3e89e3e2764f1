//! `romana connectivity respond`: tells who connects which address it sees, and sends everything back.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// Largest datagram.
const DATAGRAM_MAX: usize = 1 << 16;

/// Servers at some ports, until it is dropped.
pub(super) struct Responder {
    ports: Vec<u16>,
    _tasks: JoinSet<()>,
}

impl Responder {
    /// The ports, in order; chosen by the system where 0 was asked for.
    pub(super) fn ports(&self) -> &[u16] {
        &self.ports
    }
}

/// Starts servers at these ports of all addresses, for TCP and UDP.
pub(super) async fn start(ports: &[u16]) -> io::Result<Responder> {
    let (mut bound, mut tasks) = (Vec::new(), JoinSet::new());
    for port in ports {
        let tcp = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, *port)).await {
            Ok(tcp) => tcp,
            // A kernel without IPv6.
            Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).await?,
        };
        let at = tcp.local_addr()?;
        let udp = UdpSocket::bind(at).await?;
        bound.push(at.port());
        tasks.spawn(accept(tcp));
        tasks.spawn(answer(udp));
    }
    Ok(Responder { ports: bound, _tasks: tasks })
}

/// Waits until the standard input ends: the program that started this one is gone.
pub(super) async fn until_stdin_ends() {
    let (mut stdin, mut piece) = (tokio::io::stdin(), [0; 64]);
    while stdin.read(&mut piece).await.is_ok_and(|count| count > 0) {}
}

/// The address of the other end as a line.
fn line(from: SocketAddr) -> String {
    let ip: IpAddr = from.ip().to_canonical();
    format!("{ip}\n")
}

async fn accept(tcp: TcpListener) {
    loop {
        match tcp.accept().await {
            Ok((stream, from)) => drop(tokio::spawn(echo(stream, from))),
            Err(error) => {
                tracing::debug!(%error, "accept failed");
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn echo(mut stream: TcpStream, from: SocketAddr) {
    let (mut reader, mut writer) = stream.split();
    // The other end sees what is missing.
    if writer.write_all(line(from).as_bytes()).await.is_ok() {
        _ = copy(&mut reader, &mut writer).await;
    }
}

async fn answer(udp: UdpSocket) {
    let mut datagram = vec![0; DATAGRAM_MAX];
    loop {
        match udp.recv_from(&mut datagram).await {
            Ok((count, from)) => {
                let mut answer = line(from).into_bytes();
                answer.resize(count, 0);
                _ = udp.send_to(&answer, from).await;
            }
            Err(error) => tracing::debug!(%error, "receive failed"),
        }
    }
}

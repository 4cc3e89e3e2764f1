//! The names of Services, questions about them, and the addresses that they have.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};

use crate::bench::load::Caller;

/// Services.
pub(super) const NAMES: usize = 10_000;
/// Longest wait for an answer, and for a change to be answered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
const HEADER_BYTES: usize = 12;
/// Type A, class IN.
const A_IN: [u8; 4] = [0, 1, 0, 1];

/// Name and namespace of a Service.
pub(super) fn service(at: usize) -> (String, String) {
    (format!("s{at}"), format!("n{}", at % 100))
}

/// The name that is asked.
pub(super) fn name(at: usize) -> String {
    let (service, namespace) = service(at);
    format!("{service}.{namespace}.svc.cluster.local")
}

/// The address that a Service has at first.
pub(super) fn first(at: usize) -> Ipv4Addr {
    address((10 << 24) | (1 << 16), at)
}

/// The address that it has after a change with this number.
pub(super) fn changed(number: usize) -> Ipv4Addr {
    address((10 << 24) | (128 << 16), number)
}

fn address(base: u32, at: usize) -> Ipv4Addr {
    Ipv4Addr::from(base + u32::try_from(at).unwrap_or_default())
}

/// A question for the addresses of a Service, as a packet.
fn question(id: u16, at: usize) -> Vec<u8> {
    let mut packet = Vec::with_capacity(64);
    packet.extend(id.to_be_bytes());
    // RD; one question.
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name(at).split('.') {
        packet.push(u8::try_from(label.len()).unwrap_or_default());
        packet.extend(label.bytes());
    }
    packet.push(0);
    packet.extend(A_IN);
    packet
}

/// Whether a packet is an answer to the question with this id, without an error.
fn is_answer(packet: &[u8], id: u16) -> bool {
    let reply = packet.len() > HEADER_BYTES && packet[..2] == id.to_be_bytes();
    reply && packet[2] & 0x80 != 0 && packet[3] & 0xf == 0 && packet[6..8] != [0, 0]
}

/// Whether an answer has an address record of this address.
fn has(packet: &[u8], ip: Ipv4Addr) -> bool {
    let [a, b, c, d] = ip.octets();
    // Length and content of the record.
    packet.windows(6).any(|window| window == [0, 4, a, b, c, d])
}

/// A client that asks for one name after the other.
pub(super) struct Asker {
    socket: UdpSocket,
    number: usize,
    buffer: [u8; 512],
}

impl Asker {
    pub(super) async fn open(server: SocketAddr) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        socket.connect(server).await?;
        Ok(Self { socket, number: 0, buffer: [0; 512] })
    }

    /// Asks for a name. Returns the answer; an error if it is none or takes too long.
    async fn ask(&mut self, at: usize) -> Result<&[u8]> {
        self.number += 1;
        let id = u16::try_from(self.number % 65_536).unwrap_or_default();
        self.socket.send(&question(id, at)).await?;
        let received = timeout(ANSWER_TIMEOUT, self.socket.recv(&mut self.buffer)).await;
        let length = received.context("no answer in time")??;
        let packet = &self.buffer[..length];
        ensure!(is_answer(packet, id), "{} is not answered: {packet:?}", name(at));
        Ok(packet)
    }
}

impl Caller for Asker {
    async fn call(&mut self) -> Result<()> {
        // Not in the order in which the servers were given the names.
        let at = self.number.wrapping_mul(7_919) % NAMES;
        self.ask(at).await.map(|_| ())
    }
}

/// Whether a server answers a name.
pub(super) async fn answers(server: SocketAddr, at: usize) -> bool {
    match Asker::open(server).await {
        Ok(mut asker) => asker.ask(at).await.is_ok_and(|packet| has(packet, first(at))),
        Err(_) => false,
    }
}

/// Asks for a name until it has this address.
pub(super) async fn probe(server: SocketAddr, at: usize, ip: Ipv4Addr) -> Result<()> {
    let (mut asker, end) = (Asker::open(server).await?, Instant::now() + CHANGE_TIMEOUT);
    loop {
        // A lost packet, or a name without an address in between: again.
        if asker.ask(at).await.is_ok_and(|packet| has(packet, ip)) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{} has not become {ip}", name(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_are_read() {
        let mut packet = question(7, 42);
        assert!(packet.ends_with(b"\x03s42\x03n42\x03svc\x07cluster\x05local\x00\x00\x01\x00\x01"));
        assert!(!is_answer(&packet, 7), "a question");
        (packet[2], packet[7]) = (0x81, 1);
        packet.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 1, 0, 42]);
        assert!(is_answer(&packet, 7) && !is_answer(&packet, 8));
        assert!(has(&packet, first(42)) && !has(&packet, changed(42)));
        packet[3] = 3;
        assert!(!is_answer(&packet, 7), "NXDOMAIN");
        assert!(!is_answer(&[], 7));
    }

    #[test]
    fn addresses_differ() {
        assert_eq!(first(NAMES - 1).to_string(), "10.1.39.15");
        assert_eq!(changed(300).to_string(), "10.128.1.44");
    }
}

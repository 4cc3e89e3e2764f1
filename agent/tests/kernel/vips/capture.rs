//! Who answers for an address: a capture on the switch of a segment.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with};

use crate::lab::in_namespace_thread;

/// All protocols (linux/if_ether.h).
const ETH_P_ALL: u16 = 3;

/// A frame that shows that a machine answers for an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) at: Instant,
    pub(crate) ip: IpAddr,
    pub(crate) mac: [u8; 6],
}

/// A running capture.
pub(crate) struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Answer>>,
}

impl Capture {
    /// Captures on all ports of a switch.
    pub(crate) fn start(ns: &str) -> Self {
        let (ns, stop) = (ns.to_owned(), Arc::new(AtomicBool::new(false)));
        let (ready, wait) = std::sync::mpsc::channel();
        let stopped = Arc::clone(&stop);
        let listen = move || {
            let protocol =
                NonZeroU32::from(std::num::NonZeroU16::new(ETH_P_ALL.to_be()).expect("3"));
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let protocol = Some(Protocol::from_raw(protocol));
            let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, protocol);
            let socket = socket.expect("a packet socket needs root");
            rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 16 << 20)
                .expect("a large buffer needs root");
            ready.send(()).expect("the test waits");
            let (mut all, mut frame) = (Vec::new(), [0; 2048]);
            while !stopped.load(Ordering::Relaxed) {
                let tick = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
                let mut waiting = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)];
                poll(&mut waiting, Some(&tick)).expect("it waits");
                while let Ok((length, _)) = recv(&socket, &mut frame[..], RecvFlags::empty()) {
                    let at = Instant::now();
                    let answer = answer(&frame[..length]);
                    all.extend(answer.map(|(ip, mac)| Answer { at, ip, mac }));
                }
            }
            all
        };
        let thread = std::thread::spawn(move || in_namespace_thread(&ns, listen));
        wait.recv().expect("it captures");
        Self { stop, thread }
    }

    /// Ends it.
    pub(crate) fn end(self) -> Vec<Answer> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it ends")
    }
}

/// The address that a frame speaks for, and the Ethernet address that does.
fn answer(frame: &[u8]) -> Option<(IpAddr, [u8; 6])> {
    let bytes = |at: usize, length: usize| frame.get(at..at + length);
    let four = |at| Some(IpAddr::from(<[u8; 4]>::try_from(bytes(at, 4)?).ok()?));
    let sixteen = |at| Some(IpAddr::from(<[u8; 16]>::try_from(bytes(at, 16)?).ok()?));
    let ip = match bytes(12, 2)? {
        [0x08, 0x06] => four(28)?,
        [0x08, 0x00] => four(26)?,
        // An advertisement is of its target, any other packet of its source.
        [0x86, 0xdd] if bytes(20, 1)? == [58] && bytes(54, 1)? == [136] => sixteen(62)?,
        [0x86, 0xdd] => sixteen(22)?,
        _ => return None,
    };
    Some((ip, bytes(6, 6)?.try_into().ok()?))
}

/// The machines that answered for an address, in order; one that answered, then another, then the first again, is in it
/// twice.
pub(crate) fn holders(answers: &[Answer], ip: IpAddr) -> Vec<[u8; 6]> {
    let of = answers.iter().filter(|answer| answer.ip == ip);
    let mut macs: Vec<[u8; 6]> = of.map(|answer| answer.mac).collect();
    macs.dedup();
    macs
}

//! Detects changes of nf_tables rules by other programs: the kernel announces every transaction with
//! the process that made it (`NFT_MSG_NEWGEN`, linux/netfilter/nf_tables.h). Changes of `ipset` sets
//! and x_tables are not announced.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rtnetlink::sys::Socket;
use tokio::sync::Notify;

/// NETLINK_NETFILTER (linux/netlink.h).
const NETLINK_NETFILTER: isize = 12;
/// NFNLGRP_NFTABLES (linux/netfilter/nfnetlink.h).
const GROUP: u32 = 7;
/// NFNL_SUBSYS_NFTABLES and NFT_MSG_NEWGEN, as a message type.
const NEW_GENERATION: u16 = 10 << 8 | 15;
/// NFTA_GEN_PROC_PID.
const PROCESS: u16 = 2;
/// Bytes of nlmsghdr, nfgenmsg and nlattr.
const HEADER: usize = 16;
const FAMILY: usize = 4;
const ATTRIBUTE: usize = 4;
/// How many of our processes are remembered: announcements arrive within milliseconds.
const OWN_MAX: usize = 64;

/// Processes of this agent that write rules.
#[derive(Clone, Debug, Default)]
pub struct OwnWriters(Arc<Mutex<VecDeque<u32>>>);

impl OwnWriters {
    /// Records a process.
    pub fn add(&self, process: u32) {
        let mut own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        own.push_back(process);
        if own.len() > OWN_MAX {
            own.pop_front();
        }
    }

    fn has(&self, process: u32) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&process)
    }
}

/// Notifies `wake` when a process that is not ours changes rules. The thread runs until the process exits.
///
/// # Errors
/// The socket cannot be opened; the timer still detects changes.
pub fn watch(own: OwnWriters, wake: Arc<Notify>) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.add_membership(GROUP)?;
    let listen = move || {
        loop {
            match socket.recv_from_full() {
                Ok((bytes, _)) => {
                    if writers(&bytes).into_iter().any(|process| !own.has(process)) {
                        wake.notify_one();
                    }
                }
                // Announcements were lost (ENOBUFS), perhaps one of another program's change.
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    wake.notify_one();
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
                Err(_) => {}
            }
        }
    };
    std::thread::Builder::new().name("nf_tables".into()).spawn(listen).map(drop)
}

/// Processes of the transactions in a datagram; 0 if the kernel does not name one.
fn writers(datagram: &[u8]) -> Vec<u32> {
    let mut found = Vec::new();
    let mut rest = datagram;
    while let Some(message) = length(rest, 4).and_then(|length| rest.get(..length)) {
        if short(message, 4) == Some(NEW_GENERATION) {
            found.push(process(message.get(HEADER + FAMILY..).unwrap_or_default()).unwrap_or(0));
        }
        if message.len() < HEADER {
            break;
        }
        rest = rest.get(message.len().next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn process(mut attributes: &[u8]) -> Option<u32> {
    loop {
        let size = usize::from(short(attributes, 0)?);
        let attribute = attributes.get(..size).filter(|bytes| bytes.len() >= ATTRIBUTE)?;
        if short(attribute, 2)? == PROCESS {
            let value = attribute.get(ATTRIBUTE..ATTRIBUTE + 4)?;
            return value.try_into().ok().map(u32::from_be_bytes);
        }
        attributes = attributes.get(size.next_multiple_of(4)..)?;
    }
}

fn length(bytes: &[u8], size: usize) -> Option<usize> {
    let bytes = bytes.get(..size)?.try_into().ok()?;
    usize::try_from(u32::from_ne_bytes(bytes)).ok()
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, process: u32) -> Vec<u8> {
        let mut bytes = 36_u32.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend([0; 4]);
        // The generation id comes first.
        bytes.extend([8_u16.to_ne_bytes(), 1_u16.to_ne_bytes()].concat());
        bytes.extend(7_u32.to_be_bytes());
        bytes.extend([8_u16.to_ne_bytes(), PROCESS.to_ne_bytes()].concat());
        bytes.extend(process.to_be_bytes());
        bytes.splice(0..4, u32::try_from(bytes.len()).unwrap().to_ne_bytes());
        bytes
    }

    #[test]
    fn the_writer_of_a_generation_is_read() {
        let two = [message(NEW_GENERATION, 4711), message(2560, 1), message(NEW_GENERATION, 12)];
        assert_eq!(writers(&two.concat()), [4711, 12]);
        assert_eq!(writers(&[]), [0; 0]);
    }

    proptest! {
        #[test]
        fn no_datagram_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            writers(&bytes);
            process(&bytes);
        }
    }
}

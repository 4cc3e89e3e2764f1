//! The host's side: what it may answer for, until when.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use super::VipAnswer;

/// The leases of a host. Times are readings of one monotonic clock that also runs while the machine sleeps.
#[derive(Clone, Debug, Default)]
pub struct HostLeases {
    sequence: u64,
    /// The renewal that waits for its answer, and when it was sent.
    asked: Option<(u64, Duration)>,
    held: BTreeMap<IpAddr, Duration>,
}

/// What an answer changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseChanges {
    /// Addresses to answer for, and until when.
    pub hold: Vec<(IpAddr, Duration)>,
    /// Addresses to remove now. They count as held until [`HostLeases::removed`].
    pub release: Vec<IpAddr>,
}

impl HostLeases {
    /// Counts an address as held that was found on the host at the start; its grant is unknown and counts as over.
    pub fn adopt(&mut self, ip: IpAddr) {
        self.held.entry(ip).or_insert(Duration::ZERO);
    }

    /// Begins a renewal: its number, and the addresses held. Take `now` before anything is sent. Answers to earlier
    /// renewals are ignored from now on.
    pub fn ask(&mut self, now: Duration) -> (u64, Vec<IpAddr>) {
        self.sequence += 1;
        self.asked = Some((self.sequence, now));
        (self.sequence, self.held.keys().copied().collect())
    }

    /// Takes the answer to a renewal. Ignored unless it is the last one. Grants that are over by now change nothing.
    pub fn answer(&mut self, sequence: u64, answer: &VipAnswer, now: Duration) -> LeaseChanges {
        let Some((_, sent)) = self.asked.take_if(|(asked, _)| *asked == sequence) else {
            return LeaseChanges::default();
        };
        let mut changes = LeaseChanges::default();
        for grant in &answer.granted {
            let until = sent.saturating_add(Duration::from_millis(grant.grant_ms));
            if until > now && !answer.released.contains(&grant.ip) {
                self.held.insert(grant.ip, until);
                changes.hold.push((grant.ip, until));
            }
        }
        let released = answer.released.iter().filter(|ip| self.held.contains_key(*ip));
        changes.release.extend(released.copied());
        for ip in &changes.release {
            self.held.insert(*ip, Duration::ZERO);
        }
        changes
    }

    /// Addresses whose grant is over, or that were released: to be removed from the kernel.
    #[must_use]
    pub fn over(&self, now: Duration) -> Vec<IpAddr> {
        let over = self.held.iter().filter(|(_, until)| **until <= now);
        over.map(|(ip, _)| *ip).collect()
    }

    /// The kernel does not have the address any more. Nothing happens if it was granted again since.
    pub fn removed(&mut self, ip: IpAddr, now: Duration) {
        if self.held.get(&ip).is_some_and(|until| *until <= now) {
            self.held.remove(&ip);
        }
    }

    /// Addresses that the host may answer for, and until when.
    pub fn held(&self) -> impl Iterator<Item = (IpAddr, Duration)> {
        self.held.iter().map(|(ip, until)| (*ip, *until))
    }

    /// When the next grant ends.
    #[must_use]
    pub fn next_end(&self) -> Option<Duration> {
        self.held.values().min().copied()
    }
}

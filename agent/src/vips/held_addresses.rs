//! What the watchdog does: it keeps the addresses that it was told to hold, each until its grant is over. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::frames::Mac;
use super::plan::{Place, lifetime};
use crate::kernel::addresses::{Write, Written};

/// When an address that was added is announced again, after the announcement before; then every [`PERIOD`].
const REPEATS: [Duration; 5] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
];
/// Neighbours that missed all of the first ones learn it then.
const PERIOD: Duration = Duration::from_secs(10);

/// What the agent asks of the watchdog.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Numbered from 1.
    pub number: u64,
    /// Addresses to remove, with the index of the link; before the others are added.
    pub release: Vec<(IpAddr, u32)>,
    pub hold: Vec<Hold>,
}

/// An address to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub ip: IpAddr,
    pub link: u32,
    pub mac: Mac,
    /// When the grant is over ([`super::clock`]).
    pub until: Duration,
    /// Whether the link has it already.
    pub known: bool,
}

/// What the watchdog has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The order that this answers; 0: none, grants are over.
    pub number: u64,
    /// Addresses that the kernel does not have any more.
    pub gone: Vec<IpAddr>,
    /// Addresses that could not be set, removed or announced, with the reason of each.
    pub failed: Vec<(IpAddr, String)>,
}

impl Report {
    /// Leaves out of what is gone what could not be removed from another link.
    pub fn only_gone(&mut self) {
        self.gone.retain(|ip| self.failed.iter().all(|(other, _)| other != ip));
    }
}

/// The addresses that are held.
#[derive(Debug, Default)]
pub struct HeldAddresses(BTreeMap<IpAddr, Entry>);

#[derive(Debug)]
struct Entry {
    hold: Hold,
    /// Whether the kernel has it.
    here: bool,
    /// How often it was announced, and when it is next.
    announced: usize,
    next: Duration,
}

impl HeldAddresses {
    /// Takes an order: what to write for it. What is over already is not held.
    pub fn take(&mut self, order: &Order, now: Duration) -> Vec<Write> {
        let mut writes = Vec::new();
        for (ip, link) in &order.release {
            writes.extend(self.forget(*ip).filter(|other| other != link).map(remove(*ip)));
            writes.push(Write::Remove { ip: *ip, link: *link });
        }
        for hold in order.hold.iter().filter(|hold| hold.until > now) {
            let (ip, link) = (hold.ip, hold.link);
            if self.0.get(&ip).is_some_and(|held| held.hold.link != link) {
                writes.extend(self.forget(ip).map(remove(ip)));
            }
            let seconds = lifetime(hold.until.saturating_sub(now));
            let here = self.0.get(&ip).is_some_and(|held| held.here);
            if seconds.is_none() && !here {
                // Its end would come too late if this process ended now. The next grant is longer.
                continue;
            }
            // Neighbours know one that was there before.
            let announced = if hold.known { REPEATS.len() } else { 0 };
            let next = if hold.known { now + PERIOD } else { now };
            let new = Entry { hold: hold.clone(), here: false, announced, next };
            self.0.entry(ip).or_insert(new).hold = hold.clone();
            writes.extend(seconds.map(|seconds| match here || hold.known {
                true => Write::Renew { ip, link, seconds },
                false => Write::Add { ip, link, seconds },
            }));
        }
        writes
    }

    /// Forgets an address. Returns the link that has it.
    fn forget(&mut self, ip: IpAddr) -> Option<u32> {
        self.0.remove(&ip).filter(|held| held.here).map(|held| held.hold.link)
    }

    /// Takes the outcomes of writes into a report.
    pub fn written(&mut self, writes: &[Write], outcomes: Vec<Written>, report: &mut Report) {
        for (write, outcome) in writes.iter().zip(outcomes) {
            match (*write, outcome) {
                (Write::Remove { ip, .. }, Written::Done | Written::Exists) => report.gone.push(ip),
                (Write::Add { ip, .. } | Write::Renew { ip, .. }, Written::Done) => {
                    self.0.get_mut(&ip).into_iter().for_each(|held| held.here = true);
                }
                (Write::Add { ip, .. } | Write::Renew { ip, .. }, Written::Exists) => {
                    self.0.remove(&ip);
                    report.failed.push((ip, String::from("the link has it already")));
                }
                (Write::Add { ip, .. } | Write::Renew { ip, .. }, Written::Failed(why)) => {
                    if self.0.get(&ip).is_some_and(|held| !held.here) {
                        self.0.remove(&ip);
                    }
                    report.failed.push((ip, why));
                }
                (Write::Remove { ip, .. }, Written::Failed(why)) => report.failed.push((ip, why)),
            }
        }
        report.only_gone();
    }

    /// Whether the grant of an address is not over.
    #[must_use]
    pub fn is_granted(&self, ip: IpAddr, now: Duration) -> bool {
        self.0.get(&ip).is_some_and(|held| held.hold.until > now)
    }

    /// Forgets addresses whose grant is over: what to write for that.
    pub fn over(&mut self, now: Duration) -> Vec<Write> {
        let over = self.0.iter().filter(|(_, held)| held.hold.until <= now);
        let over: Vec<IpAddr> = over.map(|(ip, _)| *ip).collect();
        let held = over.into_iter().filter_map(|ip| Some((ip, self.0.remove(&ip)?.hold.link)));
        // Also one that is not known to be there: the outcome of its addition may have been lost.
        held.map(|(ip, link)| Write::Remove { ip, link }).collect()
    }

    /// The addresses to announce now, with the link and its Ethernet address.
    pub fn announce(&mut self, now: Duration) -> Vec<(IpAddr, u32, Mac)> {
        let due = self.0.values_mut().filter(|held| held.here && held.next <= now);
        let due = due.filter(|held| held.hold.until > now);
        due.map(|held| {
            held.next = now + REPEATS.get(held.announced).copied().unwrap_or(PERIOD);
            held.announced += 1;
            (held.hold.ip, held.hold.link, held.hold.mac)
        })
        .collect()
    }

    /// When something is to be done next.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        let ends = self.0.values().map(|held| held.hold.until);
        let announcements = self.0.values().filter(|held| held.here).map(|held| held.next);
        ends.chain(announcements).min()
    }
}

fn remove(ip: IpAddr) -> impl Fn(u32) -> Write {
    move |link| Write::Remove { ip, link }
}

impl From<Place> for Hold {
    fn from(place: Place) -> Self {
        let Place { ip, link, mac, until, known } = place;
        Self { ip, link, mac, until, known }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: u32 = 2;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn ip() -> IpAddr {
        "10.0.0.100".parse().unwrap()
    }

    fn hold(link: u32, until: u64) -> Order {
        let hold = Hold { ip: ip(), link, mac: [2; 6], until: ms(until), known: false };
        Order { number: 1, release: Vec::new(), hold: vec![hold] }
    }

    fn done(addresses: &mut HeldAddresses, writes: &[Write]) -> Report {
        let mut report = Report::default();
        addresses.written(writes, vec![Written::Done; writes.len()], &mut report);
        report
    }

    #[test]
    fn an_address_is_added_renewed_announced_and_ends() {
        let mut addresses = HeldAddresses::default();
        let add = addresses.take(&hold(LINK, 1_000), ms(10));
        assert_eq!(add, [Write::Add { ip: ip(), link: LINK, seconds: 1 }]);
        assert!(addresses.announce(ms(10)).is_empty(), "it is not there yet");
        done(&mut addresses, &add);
        assert_eq!(addresses.announce(ms(11)).len(), 1);
        assert!(addresses.announce(ms(12)).is_empty());
        assert_eq!(addresses.announce(ms(31)).len(), 1);
        let renew = addresses.take(&hold(LINK, 1_250), ms(260));
        assert_eq!(renew, [Write::Renew { ip: ip(), link: LINK, seconds: 1 }]);
        done(&mut addresses, &renew);
        assert!(addresses.over(ms(1_249)).is_empty());
        assert!(addresses.announce(ms(1_250)).is_empty(), "its grant is over");
        let over = addresses.over(ms(1_250));
        assert_eq!(over, [Write::Remove { ip: ip(), link: LINK }]);
        assert_eq!(done(&mut addresses, &over).gone, [ip()]);
        assert_eq!(addresses.next(), None);
    }

    #[test]
    fn a_late_order_adds_nothing() {
        let mut addresses = HeldAddresses::default();
        assert!(addresses.take(&hold(LINK, 1_000), ms(1_000)).is_empty());
        // 499 ms are left, and the kernel would keep it for 1 s and a quarter: longer than REMOVAL.
        assert!(addresses.take(&hold(LINK, 1_000), ms(501)).is_empty());
        assert_eq!(addresses.next(), None);
        // One that is there is held for longer, and its lifetime stays as it is.
        let add = addresses.take(&hold(LINK, 1_000), ms(0));
        done(&mut addresses, &add);
        assert!(addresses.take(&hold(LINK, 1_100), ms(900)).is_empty());
        assert!(addresses.over(ms(1_050)).is_empty());
    }

    #[test]
    fn another_link_comes_after_the_end_on_the_first() {
        let mut addresses = HeldAddresses::default();
        let add = addresses.take(&hold(LINK, 1_000), ms(0));
        done(&mut addresses, &add);
        let moved = addresses.take(&hold(3, 1_250), ms(250));
        let expected =
            [Write::Remove { ip: ip(), link: LINK }, Write::Add { ip: ip(), link: 3, seconds: 1 }];
        assert_eq!(moved, expected);
    }

    #[test]
    fn what_is_there_already_is_not_touched() {
        let mut addresses = HeldAddresses::default();
        let add = addresses.take(&hold(LINK, 1_000), ms(0));
        let mut report = Report::default();
        addresses.written(&add, vec![Written::Exists], &mut report);
        assert_eq!(report.failed.len(), 1);
        assert!(addresses.over(ms(2_000)).is_empty(), "it is another program's");
    }
}

//! Reads the members' wall clocks and derives log time from them (the algorithm is [`crate::cluster_time`]).
//!
//! Each replica asks every other one for its wall clock on a dedicated connection, so that a reading never waits
//! behind other messages. An older release that does not know the request closes the connection and counts as
//! silent.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use romana_api::cluster::ClocksStatus;
use romana_api::cluster::MemberClock;
use romana_statemachine::{Millis, State};
use romana_storage::platform::{steady_time, unix_time};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cluster_time::{
    Agreement, Far, Interval, LogClock, Micros, Reading, Readings, agree, far,
};
use crate::raft::known::view::{Seen, View};
use crate::raft::peer::dial::{Conn, Dialer, is_unknown};
use crate::raft::peer::message::Purpose;
use crate::raft::store::codec::{pack, unpack};
use crate::raft::store::machine::Machine;

/// How often clocks are read and compared.
const READ_EVERY: Duration = Duration::from_millis(500);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);
/// Pause before asking a peer again that does not know the request.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(2);
/// Longest time that the first entry after a start waits for the clocks to agree.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// The answer to the request with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    number: u64,
    /// Microseconds since 1970.
    wall: u64,
}

/// This machine's wall clock. Tests can offset it.
#[derive(Clone, Debug, Default)]
pub struct WallClock {
    #[cfg(any(test, feature = "testing"))]
    pub(crate) ahead: Arc<std::sync::atomic::AtomicI64>,
}

impl WallClock {
    fn micros(&self) -> Micros {
        let now = micros(unix_time());
        #[cfg(any(test, feature = "testing"))]
        let now = now + self.ahead.load(std::sync::atomic::Ordering::Relaxed);
        now
    }
}

fn micros(time: Duration) -> Micros {
    Micros::try_from(time.as_micros()).unwrap_or(Micros::MAX)
}

fn steady() -> Micros {
    micros(steady_time())
}

/// The clocks and log time. Clones share them.
#[derive(Clone)]
pub(in crate::raft) struct Clocks(Arc<Inner>);

struct Inner {
    wall: WallClock,
    known: Mutex<Known>,
    settled: watch::Sender<bool>,
}

struct Known {
    log: LogClock,
    readings: Readings,
    agreed: Option<Agreement>,
    /// Deviations that were logged and still last.
    far: Far,
    disputed: bool,
}

impl Clocks {
    /// Initial state, without any reading.
    pub(in crate::raft) fn new(wall: WallClock) -> Self {
        let known = Known {
            log: LogClock::new(steady()),
            readings: Readings::default(),
            agreed: None,
            far: Far::new(),
            disputed: false,
        };
        let settled = watch::Sender::new(false);
        Self(Arc::new(Inner { wall, known: Mutex::new(known), settled }))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits briefly until log time is known: before the first entry after a start.
    pub(in crate::raft) async fn settle(&self) {
        let mut settled = self.0.settled.subscribe();
        // The sender lives as long as self, so only the timeout can fail.
        if timeout(SETTLE_MAX, settled.wait_for(|settled| *settled)).await.is_ok() {
            return;
        }
        let mut known = self.known();
        let now = steady();
        known.readings.set(0, Reading::own(now, self.0.wall.micros()));
        let offsets: Vec<Interval> = known.readings.offsets(now).into_values().collect();
        known.readings.retain(|id| id != 0);
        known.log.begin_alone(&offsets, now);
        tracing::warn!(
            "no majority of the replicas' clocks agree: log time goes on from the last entry by this replica's \
             monotonic clock"
        );
    }

    /// Log time now.
    pub(in crate::raft) fn log_time(&self) -> Millis {
        self.known().log.read(steady())
    }

    /// A time that has certainly passed: log time, bounded by what a majority of the clocks confirm.
    pub(in crate::raft) fn confirmed_time(&self) -> Option<Millis> {
        let mut known = self.known();
        let now = steady();
        let agreed = known.agreed?.offset.low.saturating_add(now).max(0);
        let agreed = Millis(u64::try_from(agreed / 1_000).unwrap_or(0));
        Some(known.log.read(now).min(agreed))
    }

    /// Status of the clocks.
    pub(in crate::raft) fn status(&self) -> ClocksStatus {
        let mut known = self.known();
        let now = steady();
        let log_time = known.log.read(now);
        let own = known.log.offset();
        let log = Agreement { offset: Interval { low: own, high: own }, tolerance: 0 };
        let base = known.agreed.unwrap_or(log);
        let offsets = known.readings.offsets(now);
        let member = |(id, clock): (&u64, &Interval)| MemberClock {
            id: *id,
            ahead_ms: base.distance(*clock) / 1_000,
            far: known.far.contains_key(id),
        };
        ClocksStatus {
            log_time,
            agreed: known.agreed.is_some(),
            log_ahead_ms: known.log.ahead().unwrap_or(0) / 1_000,
            members: offsets.iter().map(member).collect(),
        }
    }

    fn hear(&self, id: u64, reading: Reading) {
        self.known().readings.set(id, reading);
    }

    /// Compares the clocks, corrects log time, and logs changes.
    fn compare(&self, own: u64, seen: &Seen, last: Millis) {
        let mut known = self.known();
        let now = steady();
        known.readings.set(own, Reading::own(now, self.0.wall.micros()));
        known.readings.retain(|id| id == own || seen.members.contains_key(&id));
        let offsets = known.readings.offsets(now);
        // Until Raft reports the voters, count all members as voters.
        let votes = |id: &u64| seen.voters.contains(id) || seen.voters.is_empty();
        let voters = seen.members.keys().filter(|id| votes(id)).count();
        let clocks: Vec<Interval> =
            offsets.iter().filter(|(id, _)| votes(id)).map(|(_, clock)| *clock).collect();
        let agreed = if voters == 0 { None } else { agree(&clocks, voters) };
        known.log.raise(last, now);
        let stepped = known.log.correct(agreed, now);
        if stepped > STEP_LOGGED {
            let by = Duration::from_micros(stepped.unsigned_abs());
            tracing::info!(
                ?by,
                "log time stepped forward to the time that the clocks agree on: the cluster was down"
            );
        }
        let far = agreed.as_ref().map_or_else(Far::new, |agreed| far(&offsets, agreed));
        let disputed = agreed.is_none() && voters > 0 && clocks.len() > voters / 2;
        known.report(far, disputed, seen, &offsets);
        known.agreed = agreed;
        if known.log.is_settled() {
            self.0.settled.send_if_modified(|settled| !std::mem::replace(settled, true));
        }
    }
}

/// Smaller steps are not logged.
const STEP_LOGGED: Micros = 1_000_000;

impl Known {
    /// Logs when a clock becomes wrong, and when it is right again.
    fn report(&mut self, far: Far, disputed: bool, seen: &Seen, offsets: &BTreeMap<u64, Interval>) {
        let peer = |id: &u64| seen.members.get(id).map_or("", String::as_str).to_owned();
        for (replica, ahead) in far.iter().filter(|(id, _)| !self.far.contains_key(id)) {
            tracing::warn!(
                replica,
                peer = peer(replica),
                ahead_ms = ahead / 1_000,
                "the clock of a replica is far from what a majority of the replicas' clocks agree on, and is \
                 ignored: set it (is NTP running there?)"
            );
        }
        for replica in self.far.keys().filter(|id| !far.contains_key(id)) {
            if offsets.contains_key(replica) && !disputed {
                tracing::info!(
                    replica,
                    peer = peer(replica),
                    "the clock of a replica agrees with the majority again"
                );
            }
        }
        if disputed && !self.disputed {
            tracing::warn!(
                "no majority of the replicas' clocks agree: log time goes on by the leader's monotonic clock, \
                 and no history is purged by age; set the clocks (is NTP running?)"
            );
        }
        if self.disputed && !disputed {
            tracing::info!(
                "a majority of the replicas' clocks agree again, or too few are heard to tell"
            );
        }
        (self.far, self.disputed) = (far, disputed);
    }
}

/// Serves clock readings on a connection until it closes.
pub(in crate::raft) async fn answer(conn: Conn, clocks: &Clocks) -> io::Result<()> {
    let Conn { mut reader, mut writer } = conn;
    while let Some(frame) = reader.next().await? {
        let number: u64 = unpack("question for the clock", &frame)?;
        let wall = u64::try_from(clocks.0.wall.micros()).unwrap_or(0);
        writer.send(&pack(&Answer { number, wall })).await?;
    }
    Ok(())
}

/// Reads and compares the clocks of all members until `stop`.
pub(in crate::raft) struct Exchange {
    pub(in crate::raft) id: u64,
    pub(in crate::raft) clocks: Clocks,
    pub(in crate::raft) dialer: Dialer,
    pub(in crate::raft) view: View,
    pub(in crate::raft) machine: Machine,
}

impl Exchange {
    pub(in crate::raft) async fn run(self, stop: CancellationToken) {
        let mut tick = interval(READ_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Peers being polled, with their addresses; dropping the guard stops the polling.
        let mut asked: BTreeMap<u64, (String, DropGuard)> = BTreeMap::new();
        let (news, mut heard) = watch::channel(());
        loop {
            let seen = self.view.get();
            asked.retain(|id, (peer, _)| seen.members.get(id) == Some(peer));
            for (id, peer) in seen.members.iter().filter(|(id, _)| **id != self.id) {
                if !asked.contains_key(id) {
                    let over = stop.child_token();
                    let (id, peer) = (*id, peer.clone());
                    tokio::spawn(self.ask(id, peer.clone(), over.clone(), news.clone()));
                    asked.insert(id, (peer, over.drop_guard()));
                }
            }
            self.clocks.compare(self.id, &seen, self.machine.with_state(State::at));
            tokio::select! {
                () = stop.cancelled() => return,
                // Wait for the first readings after a start.
                _ = heard.changed(), if !*self.clocks.0.settled.borrow() => {}
                _ = tick.tick() => {}
            }
        }
    }

    fn ask(
        &self,
        id: u64,
        peer: String,
        over: CancellationToken,
        news: watch::Sender<()>,
    ) -> impl Future<Output = ()> + use<> {
        let (clocks, dialer) = (self.clocks.clone(), self.dialer.clone());
        async move {
            let repeat = async {
                loop {
                    let unknown =
                        match dialer.dial(id, &peer, Purpose::Clock, CONNECT_TIMEOUT).await {
                            Ok(conn) => match converse(conn, id, &clocks, &news).await {
                                Ok(()) => false,
                                Err(error) => is_unknown(&error),
                            },
                            Err(error) => is_unknown(&error),
                        };
                    sleep(if unknown { UNKNOWN_PAUSE } else { READ_EVERY }).await;
                }
            };
            tokio::select! {
                () = over.cancelled() => {}
                () = repeat => {}
            }
        }
    }
}

/// Reads a peer's clock repeatedly until the connection fails.
async fn converse(
    mut conn: Conn,
    id: u64,
    clocks: &Clocks,
    news: &watch::Sender<()>,
) -> io::Result<()> {
    let silent = || io::Error::new(io::ErrorKind::TimedOut, "the replica does not tell the time");
    for number in 0_u64.. {
        let sent = steady();
        let asked = async {
            conn.writer.send(&pack(&number)).await?;
            conn.reader.expect().await
        };
        let frame = timeout(ANSWER_TIMEOUT, asked).await.map_err(|_| silent())??;
        let received = steady();
        let answer: Answer = unpack("reading of a clock", &frame)?;
        if answer.number != number {
            return Err(silent());
        }
        let wall = Micros::try_from(answer.wall).unwrap_or(Micros::MAX);
        clocks.hear(id, Reading { sent, received, wall });
        news.send_replace(());
        sleep(READ_EVERY).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The wire format is frozen: replicas of different releases use it.
    #[test]
    fn the_exchange_has_its_form() {
        assert_eq!(pack(&Purpose::Clock), [5]);
        assert_eq!(pack(&300_u64), [0xac, 2]);
        let answer = Answer { number: 1, wall: 1_767_225_600_000_000 };
        assert_eq!(pack(&answer), [1, 0x80, 0x80, 0x81, 0xb1, 0x84, 0xe9, 0x91, 0x03]);
        assert_eq!(unpack::<Answer>("answer", &pack(&answer)).unwrap(), answer);
    }
}

//! Remembers what each replica holds, to detect a replica whose files are an older copy.
//!
//! A data directory that was rolled back (a snapshot of a virtual machine or a volume, a copy of files) has lost
//! votes that its replica granted and entries that it acknowledged. Nothing in it shows that. Its replica could
//! vote twice in a term, and elect a leader that lacks entries acknowledged by a majority. So the other replicas
//! remember:
//!
//! ```text
//!   each second, and before it votes or accepts entries after a start, each replica asks each other one:
//!     "how much do you hold, and what do you know that I held?"   more than it has ──► it stops with a fault
//!   the leader: a follower lacks an entry that it acknowledged ──► replication to it stops, with a problem
//! ```
//!
//! Only durable, committed entries count: a later leader may truncate uncommitted ones. An answer counts only from
//! a member's own address: a caller could use another member's name, and two such calls would stop a cluster of
//! three.
//!
//! The memory of the other replicas is lost when they restart. So a replica that was found to be an older copy
//! records that in its data directory, and refuses to take part at every later start.
//!
//! Not detected: what no other replica saw during the last second, and copies that were restored while all other
//! replicas were down.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use romana_statemachine::{Printable, plural};
use romana_storage::durable::{Disk, Files};
use romana_storage::platform::fs;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::raft::fault::FaultKind;
use crate::raft::peer::dial::{Conn, Dialer};
use crate::raft::peer::message::Purpose;
use crate::raft::peer::service::PeerService;
use crate::raft::peer::transfer::blocking;
use crate::raft::remedy::reseed;
use crate::raft::store::codec::{pack, unpack};
use crate::raft::store::log::Known;
use crate::raft::store::log::LogStore;
use crate::raft::store::machine::Machine;
use crate::raft::store::types::Vote;

/// How often the other replicas are asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Timeout of one request.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);
/// File that marks a data directory as an older copy; it contains the reason.
const NOTE: &str = "older-copy";

/// Raft position of a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) struct Position {
    /// The term of its last vote.
    pub(in crate::raft) term: u64,
    /// Index after its last entry.
    pub(in crate::raft) next: u64,
}

impl Position {
    /// Whether a replica at this position has lost something of `known`.
    fn lacks(self, known: Self) -> bool {
        self.term < known.term || self.next < known.next
    }

    fn max(self, other: Self) -> Self {
        Self { term: self.term.max(other.term), next: self.next.max(other.next) }
    }
}

/// The answer: what it knows about the asking replica, and its own position.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Answer {
    yours: Position,
    mine: Report,
}

/// What a replica reports about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Report {
    /// What is durable and committed.
    holds: Position,
    has: Position,
    /// Damage to its history, if it has noticed any; the other replicas report it to operators.
    damage: Option<String>,
}

/// What is remembered about one replica.
#[derive(Clone, Debug, Default)]
struct Remembered {
    held: Position,
    /// The leader's vote, and the last entry acknowledged to this replica under that vote.
    acknowledged: Option<(Vote, u64)>,
    /// It holds less than it held before.
    older: bool,
    damage: Option<String>,
}

/// What this replica remembers about the others. Clones share it.
#[derive(Clone, Debug, Default)]
pub(in crate::raft) struct Positions(Arc<Mutex<BTreeMap<u64, Remembered>>>);

impl Positions {
    fn with<R>(&self, id: u64, change: impl FnOnce(&mut Remembered) -> R) -> R {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(all.entry(id).or_default())
    }

    /// Replica `id` granted its vote in this term.
    pub(in crate::raft) fn voted(&self, id: u64, term: u64) {
        self.with(id, |it| it.held.term = it.held.term.max(term));
    }

    /// Replica `id` acknowledged the entries up to this one to the leader of `vote`, which had told it that the
    /// entries up to `committed` are committed.
    pub(in crate::raft) fn acknowledged(
        &self,
        id: u64,
        vote: Vote,
        index: u64,
        committed: Option<u64>,
    ) {
        self.with(id, |it| {
            let before = it.acknowledged.filter(|(by, _)| *by == vote).map_or(0, |(_, last)| last);
            it.acknowledged = Some((vote, index.max(before)));
            let next = committed.map_or(0, |committed| index.min(committed).saturating_add(1));
            it.held = it.held.max(Position { term: vote.leader_id.term, next });
        });
    }

    /// Replica `id` told the leader of `vote` that it lacks the entry at this index. Returns whether it had it.
    pub(in crate::raft) fn lacks(&self, id: u64, vote: Vote, index: u64) -> bool {
        self.with(id, |it| {
            let had = it.acknowledged.is_some_and(|(by, last)| by == vote && index <= last);
            let older = had || index < it.held.next;
            it.older |= older;
            older
        })
    }

    /// The known position of a replica.
    fn of(&self, id: u64) -> Position {
        self.with(id, |it| it.held)
    }

    /// Records the position that replica `id` reports; `known` is what was known before the request.
    fn said(&self, id: u64, known: Position, said: Report) {
        self.with(id, |it| {
            it.older = said.has.lacks(known);
            it.damage = said.damage.map(|what| Printable(what).to_string());
            if !it.older {
                it.held = it.held.max(said.holds);
            }
        });
    }

    /// Index after the last entry that replica `id` is known to hold.
    #[cfg(test)]
    pub(in crate::raft) fn held(&self, id: u64) -> u64 {
        self.of(id).next
    }

    /// Known damage to the history of replica `id`.
    pub(in crate::raft) fn damage(&self, id: u64) -> Option<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&id).and_then(|it| it.damage.clone())
    }

    /// Whether the files of replica `id` are known to be an older copy.
    pub(in crate::raft) fn is_older(&self, id: u64) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&id).is_some_and(|it| it.older)
    }
}

/// How other replicas describe it.
pub(in crate::raft) const OLDER: &str = "its data directory is an older copy: it lacks entries that it has acknowledged, or a vote that it gave";

/// The same, with the remedy.
pub(in crate::raft) fn older_text(id: u64) -> String {
    format!("{OLDER}; run `romana cluster replace {id}`")
}

/// How a replica describes this about itself.
fn own_text(id: u64, has: Position, known: Position) -> String {
    format!(
        "this data directory is an older copy of itself: another replica knows that this one had voted in term {} \
         and held {}, and it is at term {} with {}; it must neither vote nor acknowledge anything: {}",
        known.term,
        plural(known.next, "entry"),
        has.term,
        has.next,
        reseed(id)
    )
}

/// Holds back votes and entries until this replica knows what the others remember about it.
#[derive(Clone, Debug)]
pub(in crate::raft) struct ParticipationGate(Arc<watch::Sender<Participation>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Participation {
    Pending,
    Allowed,
    Forbidden,
}

impl ParticipationGate {
    /// A new gate, open or closed.
    pub(in crate::raft) fn new(open: bool) -> Self {
        let participation = if open { Participation::Allowed } else { Participation::Pending };
        Self(Arc::new(watch::Sender::new(participation)))
    }

    fn set(&self, participation: Participation) {
        self.0.send_replace(participation);
    }

    /// Waits for the gate; an error means that this replica must stop taking part.
    pub(in crate::raft) async fn pass(&self) -> io::Result<()> {
        let known = |participation: &Participation| *participation != Participation::Pending;
        // The sender lives as long as self, so the wait cannot fail.
        let participation =
            self.0.subscribe().wait_for(known).await.map(|participation| *participation);
        if matches!(participation, Ok(Participation::Allowed)) {
            return Ok(());
        }
        Err(io::Error::other("the data directory of this replica is an older copy"))
    }
}

/// This replica's position: what is durable and committed, and all it has.
fn own(log: &LogStore, machine: &Machine) -> Report {
    let (term, last, on_disk) = log.position();
    let snapshot = machine.snapshot_next();
    let agreed = machine.last_applied().map_or(0, |id| id.index + 1);
    Report {
        holds: Position { term, next: agreed.min(on_disk).max(snapshot) },
        has: Position { term, next: last.max(snapshot) },
        damage: machine.history().damage(),
    }
}

/// Serves the request on a connection opened for it.
pub(in crate::raft) async fn answer(
    mut conn: Conn,
    from: u64,
    host: &PeerService,
) -> io::Result<()> {
    let told = Answer { yours: host.positions.of(from), mine: own(&host.log, &host.machine) };
    conn.writer.send(&pack(&told)).await
}

fn plausible(known: &Known, position: Position) -> io::Result<()> {
    known.position(position.term, position.next)?;
    Ok(())
}

/// Asks one replica for its position and for what it knows about this one. Returns what was lost, if anything.
async fn ask(
    host: &PeerService,
    dialer: &Dialer,
    id: u64,
    peer: &str,
) -> io::Result<Option<Forgotten>> {
    // Read before the other replica reads its position: its answer must not look stale only because it was slow.
    let known = host.positions.of(id);
    let mut conn = dialer.dial(id, peer, Purpose::Position, ASK_TIMEOUT).await?;
    let stalled = || io::Error::new(io::ErrorKind::TimedOut, "the replica does not answer");
    let frame = timeout(ASK_TIMEOUT, conn.reader.expect()).await.map_err(|_| stalled())??;
    let Answer { yours, mine } = unpack("position", &frame)?;
    for position in [yours, mine.has, mine.holds] {
        plausible(&host.log.known(), position)?;
    }
    host.positions.said(id, known, mine);
    let has = own(&host.log, &host.machine).has;
    Ok(has.lacks(yours).then_some(Forgotten { has, known: yours }))
}

/// What a replica has, and what it had.
#[derive(Clone, Copy, Debug)]
struct Forgotten {
    has: Position,
    known: Position,
}

/// The recorded reason, if the data directory was found to be an older copy.
fn noted(dir: &Path) -> Option<String> {
    match fs::read(dir.join(NOTE)) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(format!("{} cannot be read: {error}", dir.join(NOTE).display())),
    }
}

/// Asks the other replicas periodically. Opens the gate after the first round if they know nothing that this replica
/// has lost; otherwise this replica stops, now and at every later start.
pub(in crate::raft) async fn watch(host: Arc<PeerService>, dialer: Dialer, dir: PathBuf) {
    let looked = dir.clone();
    let noted = blocking(move || Ok(noted(&looked))).await;
    let why = match noted.unwrap_or_else(|error| Some(error.to_string())) {
        Some(why) => why,
        None => {
            let Forgotten { has, known } = forgotten(&host, &dialer).await;
            host.gate.set(Participation::Forbidden);
            let why = own_text(host.identity.id, has, known);
            let text = why.clone();
            if let Err(error) =
                blocking(move || Ok(Disk.put(&dir.join(NOTE), text.as_bytes())?)).await
            {
                tracing::error!(%error, "cannot record that this data directory is an older copy");
            }
            why
        }
    };
    host.gate.set(Participation::Forbidden);
    host.fault.set_kind(FaultKind::OlderCopy, why);
}

/// Waits until another replica knows something that this one has lost.
async fn forgotten(host: &PeerService, dialer: &Dialer) -> Forgotten {
    let mut clock = interval(ASK_EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let id = host.identity.id;
    loop {
        clock.tick().await;
        let members = members(host).await;
        let others = members.iter().filter(|(other, _)| **other != id);
        let asked = others.map(async |(other, peer)| {
            let asked = ask(host, dialer, *other, peer).await;
            // A replica that does not answer, or is of an older release, knows nothing.
            asked.inspect_err(|error| dialer.refuse_error(peer, error)).ok().flatten()
        });
        if let Some(forgotten) = join_all(asked).await.into_iter().flatten().next() {
            return forgotten;
        }
        host.gate.set(Participation::Allowed);
        host.raft.runtime_config().elect(true);
    }
}

/// The known members: a replica that joined later reads them from its log.
async fn members(host: &PeerService) -> BTreeMap<u64, String> {
    let mut seen = host.view.watch();
    if own(&host.log, &host.machine).has.next > 0 {
        let known = seen.wait_for(|seen| !seen.members.is_empty());
        // No known members: there is no replica to ask.
        _ = timeout(ASK_TIMEOUT, known).await;
    }
    host.view.get().members
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u64, next: u64) -> Position {
        Position { term, next }
    }

    fn said(holds: Position, has: Position) -> Report {
        Report { holds, has, damage: None }
    }

    #[test]
    fn less_than_was_held_is_an_older_copy() {
        let positions = Positions::default();
        let say = |holds, has| positions.said(2, positions.of(2), said(holds, has));
        say(at(3, 10), at(3, 14));
        // Uncommitted: a later leader may have truncated them.
        say(at(3, 10), at(3, 11));
        assert!(!positions.is_older(2));
        for has in [at(3, 9), at(2, 20)] {
            say(has, has);
            assert!(positions.is_older(2), "{has:?}");
            assert_eq!(positions.of(2), at(3, 10));
        }
        // The report of an older copy is not stored; a replica that has everything is not an older copy.
        say(at(3, 10), at(4, 10));
        assert!(!positions.is_older(2) && !positions.is_older(3));
        // What was learnt after the request does not count against the replica.
        positions.said(2, at(3, 10), said(at(3, 12), at(3, 12)));
        positions.said(2, at(3, 10), said(at(3, 11), at(3, 11)));
        assert!(!positions.is_older(2));
        assert_eq!(positions.of(2), at(3, 12));
    }

    #[test]
    fn votes_and_acknowledgements_are_remembered() {
        let positions = Positions::default();
        positions.voted(2, 7);
        positions.voted(2, 5);
        assert_eq!(positions.of(2), at(7, 0));
        let vote = Vote::new_committed(8, 1);
        positions.acknowledged(2, vote, 20, Some(15));
        positions.acknowledged(2, vote, 18, Some(15));
        assert_eq!(positions.of(2), at(8, 16));
        // It acknowledged more than is committed to the same leader, and cannot lack that.
        assert!(positions.lacks(2, vote, 20) && positions.lacks(2, vote, 0));
        assert!(!positions.lacks(2, vote, 21));
        // To a later leader it can.
        let next = Vote::new_committed(9, 3);
        assert!(!positions.lacks(2, next, 16));
        assert!(positions.lacks(2, next, 15));
        assert!(!positions.lacks(3, next, 15));
    }
}

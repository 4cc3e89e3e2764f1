//! What each replica is known to hold: so that one whose files are an older copy is noticed.
//!
//! A data directory that was put back to what it was (a snapshot of a virtual machine or a volume, a copy of
//! files) has forgotten votes that its replica gave and entries that it acknowledged. Nothing in it shows
//! that. Its replica could vote twice in a term, and elect a leader that lacks what a majority has
//! acknowledged. So the others remember:
//!
//! ```text
//!   each second, and before it votes or takes entries after a start, each asks each other one:
//!     "how much do you hold, and what do you know that I held?"   more than it has ──► it stops, and says why
//!   the leader: a follower lacks an entry that it has acknowledged ──► it is not asked again, and that is said
//! ```
//!
//! What counts is on the disk and agreed on: entries beyond that may be taken back by a later leader. It counts when
//! it is heard at a member's own address: whoever calls could use another's name, and two such calls would stop a
//! cluster of three.
//!
//! What the others remember ends with their processes. So a replica that was found to be an older copy writes that
//! down in its data directory, and stays out of everything at every later start.
//!
//! Left out: what nobody else has seen in the last second, and copies that were put back while all others
//! were down: nobody remembers.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use romana_statemachine::{Printable, plural};
use romana_storage::durable;
use romana_storage::platform::fs;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::raft::config::reseed;
use crate::raft::fault::FaultKind;
use crate::raft::peer::bounds::Known;
use crate::raft::peer::dial::{Conn, Dialer};
use crate::raft::peer::message::Purpose;
use crate::raft::peer::service::PeerService;
use crate::raft::peer::transfer::blocking;
use crate::raft::store::codec::{pack, unpack};
use crate::raft::store::log::LogStore;
use crate::raft::store::machine::Machine;
use crate::raft::store::types::Vote;

/// How often the others are asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for one of them.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);
/// The file of a data directory that was found to be an older copy: why.
const NOTE: &str = "older-copy";

/// How far a replica has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) struct Position {
    /// The term that it has voted in.
    pub(in crate::raft) term: u64,
    /// Index after its last entry.
    pub(in crate::raft) next: u64,
}

impl Position {
    /// Whether a replica that has come to here has forgotten something.
    fn lacks(self, known: Self) -> bool {
        self.term < known.term || self.next < known.next
    }

    fn max(self, other: Self) -> Self {
        Self { term: self.term.max(other.term), next: self.next.max(other.next) }
    }
}

/// The answer: what it knows of who asks, and how far it has come itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Told {
    yours: Position,
    mine: Said,
}

/// How far a replica says that it has come.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Said {
    /// What is on the disk and agreed on.
    holds: Position,
    has: Position,
    /// What is damaged of its history, as far as was noticed: others tell operators.
    damage: Option<String>,
}

/// What is remembered of one replica.
#[derive(Clone, Debug, Default)]
struct Remembered {
    held: Position,
    /// The last entry that it has acknowledged to this replica as the leader by this vote.
    acknowledged: Option<(Vote, u64)>,
    /// It has less than it held.
    older: bool,
    damage: Option<String>,
}

/// What this replica remembers of the others. Clones share it.
#[derive(Clone, Debug, Default)]
pub(in crate::raft) struct Positions(Arc<Mutex<BTreeMap<u64, Remembered>>>);

impl Positions {
    fn with<R>(&self, id: u64, change: impl FnOnce(&mut Remembered) -> R) -> R {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(all.entry(id).or_default())
    }

    /// It has granted its vote in this term.
    pub(in crate::raft) fn voted(&self, id: u64, term: u64) {
        self.with(id, |it| it.held.term = it.held.term.max(term));
    }

    /// It has acknowledged the entries up to this one to the leader of `vote`, who has told it that those up to
    /// `committed` are agreed on.
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

    /// It says that it lacks the entry of this index, to the leader of `vote`. Whether it had it.
    pub(in crate::raft) fn lacks(&self, id: u64, vote: Vote, index: u64) -> bool {
        self.with(id, |it| {
            let had = it.acknowledged.is_some_and(|(by, last)| by == vote && index <= last);
            let older = had || index < it.held.next;
            it.older |= older;
            older
        })
    }

    /// How far it has come, as far as is known.
    fn of(&self, id: u64) -> Position {
        self.with(id, |it| it.held)
    }

    /// It says how far it has come; `known` is what was known before it was asked.
    fn said(&self, id: u64, known: Position, said: Said) {
        self.with(id, |it| {
            it.older = said.has.lacks(known);
            it.damage = said.damage.map(|what| Printable(what).to_string());
            if !it.older {
                it.held = it.held.max(said.holds);
            }
        });
    }

    /// Index after the last entry that it is known to hold.
    #[cfg(test)]
    pub(in crate::raft) fn held(&self, id: u64) -> u64 {
        self.of(id).next
    }

    /// What is damaged of its history, as far as is known.
    pub(in crate::raft) fn damage(&self, id: u64) -> Option<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&id).and_then(|it| it.damage.clone())
    }

    /// Whether its files are an older copy, as far as is known.
    pub(in crate::raft) fn is_older(&self, id: u64) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&id).is_some_and(|it| it.older)
    }
}

/// What others say about such a replica.
pub(in crate::raft) const OLDER: &str = "its data directory is an older copy: it lacks entries that it has acknowledged, or a vote that it gave";

/// The same, with what to do.
pub(in crate::raft) fn older_text(id: u64) -> String {
    format!("{OLDER}; run `romana cluster replace {id}`")
}

/// What a replica says about itself.
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

/// Whether this replica may vote and take entries: not before it has heard what the others know of it.
#[derive(Clone, Debug)]
pub(in crate::raft) struct Gate(Arc<watch::Sender<Passage>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passage {
    NotYet,
    Free,
    Never,
}

impl Gate {
    /// One that is closed, or open from the beginning.
    pub(in crate::raft) fn new(open: bool) -> Self {
        let passage = if open { Passage::Free } else { Passage::NotYet };
        Self(Arc::new(watch::Sender::new(passage)))
    }

    fn set(&self, passage: Passage) {
        self.0.send_replace(passage);
    }

    /// Waits until it is known; an error: this replica must not do anything any more.
    pub(in crate::raft) async fn pass(&self) -> io::Result<()> {
        let known = |passage: &Passage| *passage != Passage::NotYet;
        // The sender lives as long as self: waiting cannot fail.
        let passage = self.0.subscribe().wait_for(known).await.map(|passage| *passage);
        if matches!(passage, Ok(Passage::Free)) {
            return Ok(());
        }
        Err(io::Error::other("the data directory of this replica is an older copy"))
    }
}

/// How far this replica has come: what is on its disk and agreed on, and what it has at all.
fn own(log: &LogStore, machine: &Machine) -> Said {
    let (term, last, on_disk) = log.position();
    let snapshot = machine.snapshot_next();
    let agreed = machine.last_applied().map_or(0, |id| id.index + 1);
    Said {
        holds: Position { term, next: agreed.min(on_disk).max(snapshot) },
        has: Position { term, next: last.max(snapshot) },
        damage: machine.history().damage(),
    }
}

/// Answers on a connection that was opened for this.
pub(in crate::raft) async fn answer(
    mut conn: Conn,
    from: u64,
    host: &PeerService,
) -> io::Result<()> {
    let told = Told { yours: host.positions.of(from), mine: own(&host.log, &host.machine) };
    conn.writer.send(&pack(&told)).await
}

fn plausible(known: &Known, position: Position) -> io::Result<()> {
    known.position(position.term, position.next)?;
    Ok(())
}

/// Asks one replica how far it has come, and what it knows of this one. What was forgotten, if anything was.
async fn ask(
    host: &PeerService,
    dialer: &Dialer,
    id: u64,
    peer: &str,
) -> io::Result<Option<Forgotten>> {
    // Before it looks how far it has come: it must not have less than is known for having been slow.
    let known = host.positions.of(id);
    let mut conn = dialer.dial(id, peer, Purpose::Position, ASK_TIMEOUT).await?;
    let stalled = || io::Error::new(io::ErrorKind::TimedOut, "the replica does not answer");
    let frame = timeout(ASK_TIMEOUT, conn.reader.expect()).await.map_err(|_| stalled())??;
    let Told { yours, mine } = unpack("position", &frame)?;
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

/// What was written down when the data directory was found to be an older copy.
fn noted(dir: &Path) -> Option<String> {
    match fs::read(dir.join(NOTE)) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(format!("{} cannot be read: {error}", dir.join(NOTE).display())),
    }
}

/// Asks the others, again and again. Opens the gate after the first time, if they know nothing that this replica has
/// forgotten; otherwise this replica stops, now and at every later start.
pub(in crate::raft) async fn watch(host: Arc<PeerService>, dialer: Dialer, dir: PathBuf) {
    let looked = dir.clone();
    let noted = blocking(move || Ok(noted(&looked))).await;
    let why = match noted.unwrap_or_else(|error| Some(error.to_string())) {
        Some(why) => why,
        None => {
            let Forgotten { has, known } = forgotten(&host, &dialer).await;
            host.gate.set(Passage::Never);
            let why = own_text(host.identity.id, has, known);
            let text = why.clone();
            if let Err(error) =
                blocking(move || Ok(durable::put(&dir.join(NOTE), text.as_bytes())?)).await
            {
                tracing::error!(%error, "cannot record that this data directory is an older copy");
            }
            why
        }
    };
    host.gate.set(Passage::Never);
    host.fault.set_kind(FaultKind::OlderCopy, why);
}

/// Returns when another replica knows something that this one has forgotten.
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
            // One that does not answer knows nothing, nor one that is of an older release.
            asked.inspect_err(|error| dialer.refuse_error(peer, error)).ok().flatten()
        });
        if let Some(forgotten) = join_all(asked).await.into_iter().flatten().next() {
            return forgotten;
        }
        host.gate.set(Passage::Free);
        host.raft.runtime_config().elect(true);
    }
}

/// The members, as far as they are known: a replica that joined later reads them from its log.
async fn members(host: &PeerService) -> BTreeMap<u64, String> {
    let mut seen = host.view.watch();
    if own(&host.log, &host.machine).has.next > 0 {
        let known = seen.wait_for(|seen| !seen.members.is_empty());
        // Without any there is nobody to ask.
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

    fn said(holds: Position, has: Position) -> Said {
        Said { holds, has, damage: None }
    }

    #[test]
    fn less_than_was_held_is_an_older_copy() {
        let positions = Positions::default();
        let say = |holds, has| positions.said(2, positions.of(2), said(holds, has));
        say(at(3, 10), at(3, 14));
        // Not agreed on: a later leader may have taken them back.
        say(at(3, 10), at(3, 11));
        assert!(!positions.is_older(2));
        for has in [at(3, 9), at(2, 20)] {
            say(has, has);
            assert!(positions.is_older(2), "{has:?}");
            assert_eq!(positions.of(2), at(3, 10));
        }
        // What an older copy says is not learnt; one that has everything is none.
        say(at(3, 10), at(4, 10));
        assert!(!positions.is_older(2) && !positions.is_older(3));
        // What was learnt since it was asked does not count against it.
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
        // To the same leader it acknowledged more than is agreed on, and cannot lack that.
        assert!(positions.lacks(2, vote, 20) && positions.lacks(2, vote, 0));
        assert!(!positions.lacks(2, vote, 21));
        // To another one it can.
        let next = Vote::new_committed(9, 3);
        assert!(!positions.lacks(2, next, 16));
        assert!(positions.lacks(2, next, 15));
        assert!(!positions.lacks(3, next, 15));
    }
}

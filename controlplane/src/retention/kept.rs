//! Checkpoints in files: the state at each revision that was asked for, made by replay.
//!
//! ```text
//!   magic 8 · CRC of what follows u32 · standing 72 (revision, digest, state digest) · snapshot of the state
//! ```
//!
//! A file is written beside, made durable and renamed: what has a name is whole. One that is damaged is
//! set aside and made again, if the history still reaches back so far. Those before the history's
//! start are dropped when a newer one is there to replay from.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use romana_statemachine::{Digest, Revision, State};

use super::{Checkpoints, Standing};
use crate::history::History;

const MAGIC: [u8; 8] = *b"ROMANACP";
/// Bytes before the snapshot.
const HEAD: usize = 84;
const WHOLE: &str = "state";
const PARTIAL: &str = "tmp";
const DAMAGED: &str = "damaged";
/// Records read at a time.
const RECORDS_MAX: usize = 4096;
const RECORD_BYTES_MAX: usize = 4 << 20;

/// The checkpoints of one replica.
pub struct Kept {
    dir: PathBuf,
    history: History,
    known: Mutex<BTreeMap<Revision, Standing>>,
}

impl Kept {
    /// Those in `dir`, which is made if it is missing, of this history. Blocks.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub fn open(dir: PathBuf, history: History) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        let mut known = BTreeMap::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            match path.extension().and_then(|ending| ending.to_str()) {
                Some(PARTIAL) => fs::remove_file(&path)?,
                Some(WHOLE) => match read(&path) {
                    Ok((standing, _)) => _ = known.insert(standing.revision, standing),
                    Err(why) => set_aside(&path, &why)?,
                },
                _ => {}
            }
        }
        Ok(Self { dir, history, known: Mutex::new(known) })
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Revision, Standing>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, revision: Revision) -> PathBuf {
        self.dir.join(format!("{revision:020}.{WHOLE}"))
    }

    /// The state at a revision: from the nearest checkpoint before it, or from the first record of all.
    fn replay(
        &self,
        known: &mut BTreeMap<Revision, Standing>,
        revision: Revision,
    ) -> Result<State, String> {
        let mut state = self.base(known, revision)?;
        while state.revision() < revision {
            let read = self.history.read(state.revision() + 1, RECORDS_MAX, RECORD_BYTES_MAX);
            let records = read.map_err(|error| error.to_string())?;
            if records.is_empty() {
                return Err(format!("the history here ends at revision {}", state.revision()));
            }
            for record in records.iter().take_while(|record| record.revision <= revision) {
                state.follow(record).map_err(|error| error.to_string())?;
            }
        }
        Ok(state)
    }

    fn base(
        &self,
        known: &mut BTreeMap<Revision, Standing>,
        revision: Revision,
    ) -> Result<State, String> {
        let (start, _) = self.history.start();
        if revision < start {
            return Err(format!("the history here begins after revision {start}"));
        }
        while let Some((&base, standing)) = known.range(start..=revision).next_back() {
            let path = self.path(base);
            match read(&path) {
                Ok((found, state)) if found == *standing => return Ok(state),
                Ok(_) => set_aside(&path, "it is another than at the start"),
                Err(why) => set_aside(&path, &why),
            }
            .map_err(|error| error.to_string())?;
            known.remove(&base);
        }
        match start {
            0 => Ok(State::new()),
            _ => Err(format!("no state is kept between revisions {start} and {revision}")),
        }
    }

    /// Drops what the history has left behind, once it is no longer needed.
    fn drop_old(&self, known: &mut BTreeMap<Revision, Standing>) {
        let (start, _) = self.history.start();
        if known.range(start..).next().is_none() {
            return;
        }
        let old: Vec<Revision> = known.range(..start).map(|(revision, _)| *revision).collect();
        for revision in old {
            match fs::remove_file(self.path(revision)) {
                Ok(()) => _ = known.remove(&revision),
                Err(error) => tracing::warn!(revision, %error, "an old checkpoint is not removed"),
            }
        }
    }
}

impl Checkpoints for Kept {
    fn list(&self) -> Vec<Standing> {
        self.known().values().copied().collect()
    }

    fn hold(&self, revision: Revision) -> Result<Standing, String> {
        let mut known = self.known();
        if let Some(standing) = known.get(&revision) {
            return Ok(*standing);
        }
        let state = self.replay(&mut known, revision)?;
        let (digest, state_digest) = (state.digest(), state.state_digest());
        let standing = Standing { revision, digest, state_digest };
        write(&self.path(revision), &standing, &state).map_err(|error| error.to_string())?;
        known.insert(revision, standing);
        self.drop_old(&mut known);
        Ok(standing)
    }
}

fn head(standing: &Standing) -> [u8; HEAD - 12] {
    let mut head = [0; HEAD - 12];
    head[..8].copy_from_slice(&standing.revision.to_le_bytes());
    head[8..40].copy_from_slice(&standing.digest.0);
    head[40..].copy_from_slice(&standing.state_digest.0);
    head
}

/// Writes a checkpoint; it is there, whole and durable, when it has its name.
fn write(path: &Path, standing: &Standing, state: &State) -> io::Result<()> {
    let (head, content) = (head(standing), state.snapshot());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head);
    crc.update(&content);
    let partial = path.with_extension(PARTIAL);
    let mut file = File::create(&partial)?;
    file.write_all(&MAGIC)?;
    file.write_all(&crc.finalize().to_le_bytes())?;
    file.write_all(&head)?;
    file.write_all(&content)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    File::open(path.parent().unwrap_or_else(|| Path::new(".")))?.sync_all()
}

/// Reads a checkpoint and checks all that can be: the bytes, and that state and head agree.
fn read(path: &Path) -> Result<(Standing, State), String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let Some((head, content)) = bytes.split_first_chunk::<HEAD>() else {
        return Err("it is shorter than its head".into());
    };
    let (crc, rest) = (&head[8..12], &bytes[12..]);
    if head[..8] != MAGIC || crc32fast::hash(rest).to_le_bytes() != *crc {
        return Err("its checksum is wrong".into());
    }
    let digest = |at: usize| head[at..].first_chunk().copied().map(Digest).unwrap_or_default();
    let revision = head[12..].first_chunk().copied().map(u64::from_le_bytes).unwrap_or_default();
    let standing = Standing { revision, digest: digest(20), state_digest: digest(52) };
    let state = State::from_snapshot(content).map_err(|error| error.to_string())?;
    let found = Standing {
        revision: state.revision(),
        digest: state.digest(),
        state_digest: state.state_digest(),
    };
    let named = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
    if found != standing || named != Some(revision) {
        return Err(format!("it says {standing:?}, and the state in it is {found:?}"));
    }
    Ok((standing, state))
}

/// Keeps a bad file for whoever wants to know, out of the way.
fn set_aside(path: &Path, why: &str) -> io::Result<()> {
    tracing::error!(file = %path.display(), why, "a checkpoint is damaged and set aside");
    fs::rename(path, path.with_extension(DAMAGED))
}

#[cfg(test)]
mod tests {
    use romana_statemachine::command::TenantSpec;
    use romana_statemachine::{Actor, Command, Entry, Labels, Millis, Position, Proposal, Record};

    use super::*;
    use crate::history::HistoryOptions;

    /// A history of tenants, and the state after each record.
    fn world(count: u64) -> (Vec<State>, Vec<Record>) {
        let (mut states, mut records) = (vec![State::new()], Vec::new());
        for index in 1..=count {
            let mut state = states[states.len() - 1].clone();
            let spec = TenantSpec { id: format!("t{index}").into(), labels: Labels::new() };
            let command = Command::CreateTenant(spec);
            let proposal = Proposal { actor: Actor::from("test"), command };
            let entry = Entry { at: Millis(index), proposals: vec![proposal] };
            records.extend(state.apply(Position { term: 1, index }, &entry).1);
            states.push(state);
        }
        (states, records)
    }

    fn standing(state: &State) -> Standing {
        let (revision, digest) = (state.revision(), state.digest());
        Standing { revision, digest, state_digest: state.state_digest() }
    }

    #[test]
    fn what_is_held_outlives_the_history_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let (states, records) = world(200);
        let options = HistoryOptions { segment_bytes: 1000 };
        let history = History::open(&dir.path().join("history"), options).unwrap();
        records.chunks(5).for_each(|part| history.append(part).unwrap());
        let open = || Kept::open(dir.path().join("checkpoints"), history.clone()).unwrap();
        let kept = open();
        assert!(kept.list().is_empty());
        for revision in [50, 20, 120, 50] {
            let want = standing(&states[usize::try_from(revision).unwrap()]);
            assert_eq!(kept.hold(revision), Ok(want));
        }
        assert!(kept.hold(201).unwrap_err().contains("ends at revision 200"));
        let all: Vec<Revision> = kept.list().iter().map(|it| it.revision).collect();
        assert_eq!(all, [20, 50, 120]);

        let oldest = history.purge_before(120).unwrap();
        assert!(oldest > 60);
        let kept = open();
        assert_eq!(kept.list().len(), 3);
        assert_eq!(kept.hold(150), Ok(standing(&states[150])));
        let all: Vec<Revision> = kept.list().iter().map(|it| it.revision).collect();
        assert_eq!(all, [120, 150], "what the history has left behind goes");
        assert!(kept.hold(oldest - 2).is_err() && kept.hold(10).is_err());
    }

    #[test]
    fn a_damaged_one_is_set_aside_and_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let (states, records) = world(60);
        let history =
            History::open(&dir.path().join("history"), HistoryOptions::default()).unwrap();
        history.append(&records).unwrap();
        let open = || Kept::open(dir.path().join("checkpoints"), history.clone()).unwrap();
        open().hold(40).unwrap();
        let path = open().path(40);
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(7) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x20;
            for bytes in [bytes, whole[..at].to_vec()] {
                fs::write(&path, bytes).unwrap();
                let kept = open();
                assert!(kept.list().is_empty(), "byte {at}");
                assert_eq!(kept.hold(40), Ok(standing(&states[40])));
            }
        }
        // Damaged while it is in use.
        let kept = open();
        fs::write(&path, &whole[..50]).unwrap();
        assert_eq!(kept.hold(45), Ok(standing(&states[45])));
        assert!(path.with_extension(DAMAGED).exists());
    }
}

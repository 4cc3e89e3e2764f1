//! Locks the state directory for one agent, and removes temporary files of killed writers.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use romana_daemon::owner::{self, Program};
use romana_statemachine::name::InstanceId;

use crate::ownership::{ATTACHMENTS_DIR, INSTANCE_FILE, LOCK_FILE, SPOOL_DIR};
use romana_daemon::durable::{self, DurableError};

/// Longer than a plugin takes to spool a DEL.
const PLUGIN_TIME: Duration = Duration::from_secs(60);

/// A state directory locked by this process. The kernel releases the lock when the process ends.
#[derive(Debug)]
pub struct StateDir {
    _lock: File,
    /// The agent's instance name: random, generated once.
    pub instance: InstanceId,
}

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    #[error("cannot use {path}")]
    Unusable {
        path: String,
        #[source]
        source: io::Error,
    },
    /// Another agent uses it: two agents would undo each other's changes.
    #[error("another agent uses {path}: stop it, or choose another --state-dir")]
    Locked { path: String },
    /// It belongs to a replica, or contains something other than files.
    #[error(transparent)]
    Unfit(#[from] owner::Unfit),
    #[error(transparent)]
    Leftovers(#[from] DurableError),
}

impl StateDir {
    /// Creates the directory if necessary, locks it, and removes temporary files of killed writers. `socket`:
    /// the agent's socket; a second copy of the instance name next to it survives the loss of the directory.
    ///
    /// # Errors
    /// [`StateDirError`].
    pub fn open(dir: &Path, socket: &Path) -> Result<Self, StateDirError> {
        let shown = || dir.display().to_string();
        let unusable = |source| StateDirError::Unusable { path: shown(), source };
        owner::check(dir, Program::Agent)?;
        std::fs::create_dir_all(dir).map_err(unusable)?;
        let lock =
            File::options().create(true).truncate(false).write(true).open(dir.join(LOCK_FILE));
        let lock = lock.map_err(unusable)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StateDirError::Locked { path: shown() },
            TryLockError::Error(source) => unusable(source),
        })?;
        durable::remove_leftovers(dir, Duration::ZERO)?;
        durable::remove_leftovers(&dir.join(ATTACHMENTS_DIR), Duration::ZERO)?;
        // Plugins write there whether or not an agent runs.
        durable::remove_leftovers(&dir.join(SPOOL_DIR), PLUGIN_TIME)?;
        Ok(Self { _lock: lock, instance: instance(dir, socket)? })
    }
}

/// The instance name of this agent. Without it, the agent would count as another one,
/// and have to wait to take over.
fn instance(dir: &Path, socket: &Path) -> Result<InstanceId, DurableError> {
    let files = [dir.join(INSTANCE_FILE), socket.with_extension(INSTANCE_FILE)];
    let read = |file: &PathBuf| match durable::load::<InstanceId>(file) {
        Ok(found) => Ok(found.filter(|instance| instance.check().is_ok())),
        Err(error @ DurableError::Damaged { .. }) => {
            let aside = durable::set_aside(file);
            tracing::error!(%error, aside = %aside.display(), "damaged instance file set aside");
            Ok(None)
        }
        Err(error) => Err(error),
    };
    let [first, second] = [read(&files[0])?, read(&files[1])?];
    let known = first.clone().or_else(|| second.clone());
    let instance =
        known.unwrap_or_else(|| InstanceId::from(format!("{:032x}", rand::random::<u128>())));
    for (file, found) in files.iter().zip([first, second]) {
        if found.as_ref() == Some(&instance) {
            continue;
        }
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir).map_err(DurableError::io("make", dir))?;
        }
        durable::save(file, &instance)?;
    }
    Ok(instance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replicas_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let identity = dir.path().join("identity.json");
        std::fs::write(identity, "{\"cluster_id\": \"x\"}").unwrap();
        for state in [dir.path().to_owned(), dir.path().join("agent")] {
            let refused = StateDir::open(&state, &dir.path().join("s")).unwrap_err();
            assert!(matches!(refused, StateDirError::Unfit(_)), "{refused}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was made");
    }

    #[test]
    fn one_agent_uses_it_and_finds_it_clean() {
        let dir = tempfile::tempdir().unwrap();
        let (path, socket) = (dir.path().join("state"), dir.path().join("run/agent.sock"));
        let first = StateDir::open(&path, &socket).unwrap();
        let refused = StateDir::open(&path, &socket).unwrap_err();
        assert!(matches!(refused, StateDirError::Locked { .. }), "{refused}");
        std::fs::create_dir_all(path.join(ATTACHMENTS_DIR)).unwrap();
        let left = path.join(ATTACHMENTS_DIR).join(".tmpAbCdEf");
        std::fs::write(&left, "half").unwrap();
        let name = first.instance.clone();
        drop(first);
        let second = StateDir::open(&path, &socket).unwrap();
        assert_eq!(second.instance, name, "it keeps its name");
        assert!(!left.exists());
        drop(second);
        std::fs::remove_dir_all(&path).unwrap();
        assert_eq!(
            StateDir::open(&path, &socket).unwrap().instance,
            name,
            "also without its files"
        );
    }
}

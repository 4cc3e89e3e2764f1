//! `romanad recover`: creates a backup from the survivors of a cluster that lost its majority permanently.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use romana_daemon::error::chain;
use romana_daemon::owner::{self, Program};
use romana_statemachine::{Millis, plural};

use super::file::{self, FileError};
use super::offline::{Salvage, SalvageError};
use super::take::{Take, TakeError, origin};

/// Why no backup was written.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// No survivor can be read.
    #[error("no survivor can be read")]
    Salvage(#[from] SalvageError),
    /// The survivors belong to different clusters.
    #[error("{} and {} are of different clusters: {ours} and {theirs}", .dirs.0.display(), .dirs.1.display())]
    Mixed {
        dirs: (PathBuf, PathBuf),
        /// Cluster of the first directory.
        ours: String,
        /// Cluster of the second directory.
        theirs: String,
    },
    /// The backup cannot be taken.
    #[error("the backup cannot be taken")]
    Take(#[from] TakeError),
    /// The backup cannot be written.
    #[error("the backup cannot be written")]
    File(#[from] FileError),
}

/// Reads the data directories of stopped survivors, writes a backup of the one with the most data to `out`, which
/// must not exist, and returns a summary for the operator. Blocks.
///
/// # Errors
/// [`RecoverError`].
pub fn recover(data_dirs: &[PathBuf], out: &Path) -> Result<String, RecoverError> {
    let scratch = out.parent().filter(|parent| !parent.as_os_str().is_empty());
    let scratch = scratch.unwrap_or_else(|| Path::new("."));
    let mut text = String::new();
    let (mut found, mut failure): (Vec<Salvage>, Option<SalvageError>) = (Vec::new(), None);
    for dir in data_dirs {
        let readable = owner::readable(dir, Program::Replica).map_err(SalvageError::from);
        match readable.and_then(|()| Salvage::read(dir, scratch)) {
            Ok(salvage) => found.push(salvage),
            Err(error) => {
                text += &format!("not used: {}\n", chain(&error));
                failure = Some(error);
            }
        }
    }
    if let [first, rest @ ..] = found.as_slice()
        && let Some(other) = rest.iter().find(|other| other.cluster != first.cluster)
    {
        return Err(RecoverError::Mixed {
            dirs: (first.dir.clone(), other.dir.clone()),
            ours: first.cluster.clone(),
            theirs: other.cluster.clone(),
        });
    }
    for salvage in &found {
        text += &summary(salvage);
    }
    let count = found.len();
    let best = found.into_iter().max_by_key(|salvage| salvage.last);
    let Some(best) = best else {
        // There is at least one directory: without a survivor there is a failure.
        let dir = data_dirs.first().cloned().unwrap_or_default();
        return Err(failure.unwrap_or(SalvageError::Nobody { dir }).into());
    };
    let origin = origin(best.cluster.clone(), best.id, true);
    let take = Take::begin(&best.state, best.history.clone(), origin, true)?;
    file::write(out, take)?;
    text += &outcome(&best, count, out);
    Ok(text)
}

fn time(at: Millis) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).map_or_else(|_| at.to_string(), |time| time.to_string())
}

fn summary(salvage: &Salvage) -> String {
    let Salvage { dir, id, cluster, state, last: (term, index), .. } = salvage;
    format!(
        "{}: replica {id} of cluster {cluster}, to entry {index} of term {term}, revision {}, {}\n",
        dir.display(),
        state.revision(),
        time(salvage.at()),
    )
}

/// The summary for the operator.
fn outcome(best: &Salvage, survivors: usize, out: &Path) -> String {
    let Salvage { id, state, last, agreed, agreed_revision, unsure, voted, .. } = best;
    let members = best.initial_cluster.len().max(state.members().count());
    let mut text = format!(
        "\nwritten: {} from replica {id}: revision {}, {}, {}\n\n",
        out.display(),
        state.revision(),
        plural(state.ipam().address_count(), "address"),
        plural(state.hosts().count(), "host"),
    );
    text += &if survivors * 2 > members {
        format!(
            "May be lost: nothing that was acknowledged, as {survivors} of {members} members were read.\n"
        )
    } else {
        format!(
            "May be lost: whatever others acknowledged after entry {} ({}). With {survivors} of {members} \
             members read,\n  this program cannot know whether there was anything.\n",
            last.1,
            time(best.at()),
        )
    };
    if *voted > last.0 {
        text += &format!(
            "  Replica {id} had voted in term {voted}, after its last entry: there probably was a later \
             leader.\n"
        );
    }
    text += &if *unsure == 0 {
        String::from("May appear that was never acknowledged: nothing.\n")
    } else {
        format!(
            "May appear that was never acknowledged: {unsure} log entries after entry {agreed} (revisions \
             after {agreed_revision}).\n  They were on this disk; whether a majority had them is not \
             known.\n"
        )
    };
    text += "\nNext: start a NEW cluster from it, with empty data directories on all replicas:\n  romanad \
             --restore FILE --initial-cluster … --data-dir EMPTY …\nNever start the old replicas again. \
             Nothing fresh is allocated until every host has reported\nwhat runs there, or you say `romana \
             cluster resume`.\n";
    text
}

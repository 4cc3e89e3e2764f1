//! How long the history is kept, and the checkpoint before which it may be purged. Since version 2.

use alloc::vec;
use alloc::vec::Vec;

use crate::command::{Retention, SignCheckpoint};
use crate::entry::Revision;
use crate::event::{CheckpointSigned, Event};
use crate::limits::{RETENTION_AGE_MS, RETENTION_BYTES};
use crate::refusal::Refusal;
use crate::state::State;

pub(crate) fn decide(state: &State, wanted: &Retention) -> Result<Vec<Event>, Refusal> {
    let within = |setting: &str, value: Option<u64>, (min, max): (u64, u64)| match value {
        Some(value) if value < min || value > max => {
            Err(Refusal::SettingOutOfRange { setting: setting.into(), value, min, max })
        }
        _ => Ok(()),
    };
    within("history_retention_ms", wanted.age_ms, RETENTION_AGE_MS)?;
    within("history_retention_bytes", wanted.bytes, RETENTION_BYTES)?;
    if *wanted == state.retention {
        return Ok(Vec::new());
    }
    Ok(vec![Event::RetentionSet(wanted.clone())])
}

pub(crate) fn decide_sign(state: &State, sign: &SignCheckpoint) -> Result<Vec<Event>, Refusal> {
    let SignCheckpoint { revision, digest, state_digest, .. } = *sign;
    let signed = state.signed.as_ref().map_or(Revision(0), |signed| signed.revision);
    if revision <= signed || revision > state.revision {
        return Err(Refusal::CheckpointNotNext { revision, signed, current: state.revision });
    }
    Ok(vec![Event::CheckpointSigned(CheckpointSigned { revision, digest, state_digest })])
}

impl State {
    /// The retention of the history.
    #[must_use]
    pub fn retention(&self) -> &Retention {
        &self.retention
    }

    /// The last checkpoint that the cluster agreed on: the history before it may be purged.
    #[must_use]
    pub fn signed(&self) -> Option<&CheckpointSigned> {
        self.signed.as_ref()
    }
}

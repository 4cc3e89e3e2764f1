//! The packer thread, which compresses full segments.

use std::sync::Arc;

use romana_statemachine::Revision;

use super::error::HistoryError;
use super::open_segment::Raw;
use super::sealed_segment::{self, Full, Packed};
use super::{Segment, Shared};
use crate::durable::{Disk, Files};
use crate::platform::{Work, fs};

/// State of the packer thread.
pub(super) struct Packer(pub(super) Arc<Shared>);

impl Work for Packer {
    type Job = Full;

    fn take(&mut self, full: Full, _: &mut dyn FnMut() -> Option<Full>) {
        if let Err(error) = replace(&self.0, &full) {
            // The open segment stays and remains usable. The next start tries again.
            tracing::warn!(
                file = %full.raw.path.display(),
                error = &error as &dyn std::error::Error,
                "cannot compress a segment of the history"
            );
        }
    }
}

/// Compresses a segment and replaces it with the result.
fn replace(shared: &Shared, full: &Full) -> Result<(), HistoryError> {
    let partial = sealed_segment::pack(full)?;
    let raw = &full.raw;
    let path = sealed_segment::packed_path(raw);
    sync_before(shared, raw.start.first)?;
    {
        let mut state = shared.state();
        let current = state.segments.get(&raw.start.first);
        if !matches!(current, Some(Segment::Raw(current)) if Arc::ptr_eq(current, raw)) {
            // The history was reset, or the segment purged, during the compression.
            return fs::remove_file(&partial).map_err(HistoryError::io("remove", &partial));
        }
        fs::rename(&partial, &path).map_err(HistoryError::io("rename", &partial))?;
        let packed = Arc::new(Packed::open(path)?);
        state.segments.insert(raw.start.first, Segment::Packed(packed));
    }
    Disk.sync_parent(&raw.path)?;
    match fs::remove_file(&raw.path) {
        // The segment was purged concurrently, in both its forms.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(HistoryError::io("remove", &raw.path)),
    }
}

/// Makes the open segments before `first` durable. They exist where compression failed. Required because a closed
/// segment proves that everything before it was durable.
fn sync_before(shared: &Shared, first: Revision) -> Result<(), HistoryError> {
    let _one = shared.syncing();
    shared.check()?;
    let open: Vec<Arc<Raw>> = {
        let state = shared.state();
        state.segments.range(..first).filter_map(|(_, segment)| segment.open()).collect()
    };
    for raw in &open {
        raw.sync().map_err(|error| shared.fail(error))?;
    }
    open.last().map_or(Ok(()), |raw| {
        Disk.sync_parent(&raw.path).map_err(|error| shared.fail(error.into()))
    })
}

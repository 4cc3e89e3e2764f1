//! A segment, open or sealed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use romana_statemachine::Revision;

use super::frame::Start;
use super::open_segment::Raw;
use super::sealed_segment::{Full, Packed};

#[derive(Clone, Debug)]
pub(super) enum Segment {
    Raw(Arc<Raw>),
    Packed(Arc<Packed>),
}

impl Segment {
    pub(super) fn start(&self) -> Start {
        match self {
            Self::Raw(raw) => raw.start,
            Self::Packed(packed) => packed.start,
        }
    }

    /// The open segment, if this is one.
    pub(super) fn open(&self) -> Option<Arc<Raw>> {
        match self {
            Self::Raw(raw) => Some(Arc::clone(raw)),
            Self::Packed(_) => None,
        }
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Raw(raw) => &raw.path,
            Self::Packed(packed) => &packed.path,
        }
    }

    /// Size on disk.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Raw(raw) => raw.index().end,
            Self::Packed(packed) => packed.bytes(),
        }
    }
}

/// Open segments that have successors: their compression was interrupted. Each ends where the next one starts.
pub(super) fn full_segments(segments: &BTreeMap<Revision, Segment>) -> Vec<Full> {
    let pairs = segments.values().zip(segments.values().skip(1));
    let full = pairs.filter_map(|(segment, next)| match segment {
        Segment::Raw(raw) => {
            let last = (next.start().first.minus(1), next.start().previous);
            Some(Full { raw: Arc::clone(raw), last })
        }
        Segment::Packed(_) => None,
    });
    full.collect()
}

//! Parts of the messages of refusals.

use alloc::format;
use alloc::string::String;
use core::cmp::Ordering;
use core::fmt;

use crate::command::Source;
use crate::name::NetworkName;
use crate::time::{Size, Span};

/// Names or ranges in a sentence; only the first of them if there are many.
pub(super) struct Several<'a, T>(pub(super) &'a [T]);

impl<T: fmt::Display> fmt::Display for Several<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (at, item) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{item}", if at == 0 { "" } else { ", " })?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Where an object comes from.
pub(super) struct Came<'a>(pub(super) Option<&'a Source>);

impl fmt::Display for Came<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(source) => write!(f, "it comes from {source}"),
            None => f.write_str("it comes from no source"),
        }
    }
}

/// A setting's value, formatted by the unit in its name.
pub(super) struct Setting<'a>(pub(super) &'a str, pub(super) u64);

impl fmt::Display for Setting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self(name, value) if name.ends_with("_ms") => write!(f, "{}", Span(value)),
            Self(name, value) if name.ends_with("_bytes") => write!(f, "{}", Size(value)),
            Self(_, value) => write!(f, "{value}"),
        }
    }
}

/// Why a block mask does not fit. If end addresses are skipped, no mask may fit.
pub(super) fn unfit_mask(network: &NetworkName, given: u32, min: u32, max: u32) -> String {
    match min.cmp(&max) {
        Ordering::Less => {
            format!("block_mask {given} of network {network} is not between {min} and {max}")
        }
        Ordering::Equal => format!("block_mask {given} of network {network} cannot be but {min}"),
        Ordering::Greater => format!(
            "network {network} is too small for blocks without their first and last address"
        ),
    }
}

//! Lists: a page at a time, in ascending order of a key.

use romana_api::Page;
use romana_statemachine::State;
use romana_statemachine::name::{HostName, NetworkName, PolicyName, SegmentId, TenantId, VipName};
use serde::Serialize;

use super::call::Call;
use super::head::bad_query;
use super::reply;

/// A page of a list in ascending order of `key`: the items after `?continue=`, at most `?limit=`.
/// `continue` is the key of the previous page's last item, so pages never repeat an item.
pub(crate) fn page<I, T, K, V>(
    call: &Call,
    state: &State,
    items: I,
    key: impl Fn(&T) -> K,
    view: impl Fn(T) -> V,
) -> reply::Result
where
    I: Iterator<Item = T>,
    K: Ord + std::fmt::Display + Token,
    V: Serialize,
{
    let limit = call.limit()?;
    let after = match call.query("continue") {
        None => None,
        Some(text) => Some(
            K::token(text)
                .ok_or_else(|| bad_query("continue", text, "it is not one that a list gave"))?,
        ),
    };
    let mut rest = items.skip_while(|item| after.as_ref().is_some_and(|after| key(item) <= *after));
    let mut page = Vec::new();
    let mut last = None;
    for item in rest.by_ref().take(limit) {
        last = Some(key(&item));
        page.push(view(item));
    }
    let next = if rest.next().is_some() { last.map(|key| key.to_string()) } else { None };
    reply::ok(
        state.revision(),
        &Page { items: page, revision: state.revision(), next, oldest: None },
    )
}

/// A key that can be a `continue` token.
pub(crate) trait Token: Sized {
    /// Parses a token.
    fn token(text: &str) -> Option<Self>;
}

macro_rules! tokens {
    (names: $($name:ty),*; parsed: $($parsed:ty),*) => {
        $(impl Token for $name {
            fn token(text: &str) -> Option<Self> {
                Some(Self::from(text))
            }
        })*
        $(impl Token for $parsed {
            fn token(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        })*
    };
}

tokens! {
    names: HostName, NetworkName, PolicyName, SegmentId, TenantId, VipName, String;
    parsed: std::net::IpAddr, ipnet::IpNet
}

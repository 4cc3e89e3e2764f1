//! The program: questions by `dig` and by hand to a running `romana-dns`, which follows an API server.

#![cfg(feature = "kubernetes")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod dnssec;
mod hostile;
mod kubernetes;
mod outages;
mod records;
mod scale;
mod support;
mod upstreams;

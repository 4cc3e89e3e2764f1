//! The API end to end: a real replica, a real server, real sockets on loopback.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod abuse;
mod agents;
mod backup;
mod errors;
mod feed;
mod fuzz;
mod routes;
mod schema;
mod settings;
mod topologies;
mod vips;
mod world;

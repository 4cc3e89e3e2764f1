//! The API end to end: a real replica, a real server, real sockets on loopback.

mod errors;
mod feed;
mod fuzz;
mod routes;
mod schema;
mod world;

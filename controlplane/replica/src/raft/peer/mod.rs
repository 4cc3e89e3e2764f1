//! Communication between replicas: frames, messages and their plausibility checks, connections, requests, and
//! snapshot transfer.

pub(super) mod bounds;
pub(super) mod dial;
pub(super) mod facts;
pub(super) mod frame;
pub(super) mod link;
pub(super) mod message;
pub(super) mod network;
pub(super) mod server;
pub(super) mod service;
pub(super) mod transfer;

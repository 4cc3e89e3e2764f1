//! How replicas talk: frames, messages and what can be true in them, connections, questions and answers, snapshots on
//! their way.

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

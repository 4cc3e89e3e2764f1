//! Replicas in one process, on loopback and real disks; and openraft's own test suite for storage.

mod clocks;
mod cluster;
mod damage;
mod files;
mod hostile;
mod older;
mod retention;
mod storage;
mod vips;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use romana_storage::wal::Wal;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::raft::{ProposeError, Replica, ReplicaConfig, StartError, Tuning};
use crate::testing::{Cluster, PATIENCE, create, eventually, has, soon, tenant};

impl Replica {
    /// The log of this replica.
    pub(crate) fn wal(&self) -> &Wal {
        self.0.log.wal()
    }
}

//! openraft's conformance suite, run on our log and state machine.

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use romana_storage::history::{History, HistoryOptions};
use romana_storage::wal::{Wal, WalOptions};
use tempfile::TempDir;

use crate::audit::Audit;
use crate::feed::Feed;
use crate::raft::fault::Fault;
use crate::raft::store::log::LogStore;
use crate::raft::store::machine::Machine;
use crate::raft::store::snapshot::SnapshotStore;
use crate::raft::store::types::TypeConfig;

struct Builder {
    /// Memory for the tail of the log: with 0, everything is read back from disk.
    tail_bytes: usize,
}

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let options = WalOptions { segment_bytes: 64 << 10, mark: None, owner: None };
        let (wal, recovered) = Wal::open(&path.join("wal"), options).unwrap();
        let log = LogStore::open(wal, &recovered, self.tail_bytes).unwrap();
        let history = History::open(&path.join("history"), HistoryOptions::default()).unwrap();
        let feed = Feed::new(history.clone(), 1 << 20);
        let snapshots = SnapshotStore::open(path.join("snapshots"), "test".into()).unwrap();
        let audit = Audit::start(history.clone(), path, 100).unwrap();
        let machine = Machine::open(snapshots, None, history, feed, audit, Fault::none()).unwrap();
        Ok((dir, log, machine))
    }
}

#[test]
fn storage_suite_from_memory() {
    run(64 << 20);
}

#[test]
fn storage_suite_from_disk() {
    run(0);
}

fn run(tail_bytes: usize) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(Suite::test_all(Builder { tail_bytes })).unwrap();
}

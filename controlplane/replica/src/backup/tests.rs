//! Backups of running replicas, restored into new clusters; and recovery from the files of a dead replica.

use std::fs;
use std::path::{Path, PathBuf};

use romana_statemachine::command::ResumeAllocation;
use romana_statemachine::{Command, Event, Refusal, State};

use super::file::FileError;
use super::*;
use crate::testing::{
    Cluster, PATIENCE, allocate, backup, create, done, has, populate, restored, say, soon,
};
use crate::{IdentityError, ReplicaConfig, StartError};

fn addresses(state: &State) -> Vec<(String, std::net::IpAddr)> {
    state.ipam().addresses_after(None).map(|live| (live.name.to_string(), live.ip)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_begins_a_new_cluster_that_holds_its_breath() {
    let old = Cluster::started(3).await;
    populate(old.on(old.leader().await), 20).await;
    let follower = old.on(old.follower().await);
    follower.reads().linearize(soon()).await.unwrap();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("backup");
    let before = backup(follower, &path, true);
    let source = follower.cluster_id();
    let checked = file::read::<FileError>(&path, |_| Ok(())).unwrap();
    assert!(checked.replayed);
    old.end().await;

    let (mut new, restorations) = restored(&path, 3).await;
    assert!(restorations.iter().all(|other| *other == restorations[0]));
    let said = &restorations[0];
    assert_eq!((said.from_revision, said.revision), (before.revision(), before.revision().next()));
    assert_eq!((said.addresses, said.waiting, &said.source), (20, 1, &source));
    assert_ne!(said.cluster_id, source);
    let leader = new.leader().await;
    let replica = new.on(leader);
    assert_eq!(replica.cluster_id(), said.cluster_id);
    replica.reads().linearize(soon()).await.unwrap();
    assert_eq!(addresses(&replica.state()), addresses(&before));
    replica.state().validate().unwrap();
    // The history continues where the backup ends.
    assert_eq!(replica.history().begin().0, 1);
    let records = replica.history().read(said.revision, 1, 1 << 20).unwrap();
    assert!(matches!(&records[0].event, Event::Restored(event) if event.source == source));
    assert!(records[0].follows(&before.digest()));

    let fresh = say(replica, allocate("fresh", None)).await.unwrap().result;
    assert!(matches!(fresh, Err(Refusal::AllocationHeld { waiting: 1, .. })), "{fresh:?}");
    // What the host reports as running is adopted, with its address.
    let ip = "10.0.0.77".parse().unwrap();
    done(replica, allocate("runs", Some(ip))).await;
    done(replica, Command::ResumeAllocation(ResumeAllocation {})).await;
    done(replica, allocate("fresh", None)).await;
    new.converge().await;
    assert_eq!(new.on(leader).state().ipam().address_count(), 22);
    assert_eq!(new.on(leader).history().verify().unwrap().0, new.on(leader).state().revision());

    // The log has nothing before the snapshot, and a restart works normally.
    let purged = new.on(leader).wal().read(0, 2, 1 << 20);
    assert!(
        matches!(purged, Err(romana_storage::wal::WalError::Purged { first: 2 })),
        "{purged:?}"
    );
    for id in 1..=3 {
        new.stop(id).await;
    }
    for id in 1..=3 {
        assert_eq!(restore(&new.config(id), &path).unwrap(), None, "restored twice");
        new.start(id).await;
    }
    new.ready().await;
    new.converge().await;
    assert_eq!(new.on(1).state().ipam().address_count(), 22);
    new.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_without_history_is_enough() {
    let old = Cluster::started(1).await;
    populate(old.on(1), 5).await;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("backup");
    let before = backup(old.on(1), &path, false);
    old.end().await;
    let (new, said) = restored(&path, 1).await;
    assert_eq!(new.on(1).history().begin(), (before.revision().next(), before.digest()));
    assert_eq!(new.on(1).state().revision(), said[0].revision);
    done(new.on(1), Command::ResumeAllocation(ResumeAllocation {})).await;
    done(new.on(1), allocate("fresh", None)).await;
    // Back up the restored cluster again.
    let again = new.dir.path().join("again");
    let state = backup(new.on(1), &again, true);
    let checked = file::read::<FileError>(&again, |_| Ok(())).unwrap();
    assert_eq!(checked.state.digest(), state.digest());
    assert_eq!(checked.header.oldest, before.revision().next());
    new.end().await;
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .map(|list| list.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_restored_is_refused_and_leaves_nothing() {
    let mut old = Cluster::started(1).await;
    populate(old.on(1), 5).await;
    let place = tempfile::tempdir().unwrap();
    let dir = place.path();
    let (first, second) = (dir.join("first"), dir.join("second"));
    backup(old.on(1), &first, true);
    create(old.on(1), "later").await;
    backup(old.on(1), &second, true);
    let whole = fs::read(&first).unwrap();

    let new = Cluster::new(3).await;
    let bad = dir.join("bad");
    for cut in [0, 5, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&bad, &whole[..cut]).unwrap();
        let error = restore(&new.config(1), &bad).unwrap_err();
        assert!(matches!(error, RestoreError::File(FileError::Backup { .. })), "{cut}: {error}");
        assert_eq!(files(&new.data(1)), Vec::<PathBuf>::new(), "{cut}");
    }
    fs::write(new.data(1).join("precious"), "x").unwrap();
    let error = restore(&new.config(1), &first).unwrap_err();
    assert!(matches!(error, RestoreError::NotEmpty { .. }), "{error}");
    fs::remove_file(new.data(1).join("precious")).unwrap();

    restore(&new.config(1), &first).unwrap().unwrap();
    let error = restore(&new.config(1), &second).unwrap_err();
    assert!(matches!(error, RestoreError::Taken { .. }), "{error}");
    // A directory of a cluster that was not restored.
    let running = old.config(1);
    old.stop(1).await;
    let error = restore(&running, &first).unwrap_err();
    assert!(error.to_string().contains("was not restored"), "{error}");
    let token = ReplicaConfig { cluster_token: "other".into(), ..new.config(1) };
    let error = restore(&token, &first).unwrap_err();
    assert!(matches!(error, RestoreError::Identity(IdentityError::OtherCluster { .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_restore_is_done_again() {
    let old = Cluster::started(1).await;
    populate(old.on(1), 5).await;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("backup");
    backup(old.on(1), &path, true);
    old.end().await;
    let mut new = Cluster::new(1).await;
    restore(&new.config(1), &path).unwrap().unwrap();
    // As if the process had been killed just before the end.
    fs::remove_file(new.data(1).join("identity.json")).unwrap();
    fs::write(new.data(1).join("restoring"), "").unwrap();
    let error = new.try_start(new.config(1)).await.err().unwrap();
    assert!(matches!(error, StartError::Identity(IdentityError::HalfRestored { .. })), "{error}");
    let told = error.to_string();
    assert!(told.contains("--restore"), "{told}");
    restore(&new.config(1), &path).unwrap().unwrap();
    new.start(1).await;
    new.ready().await;
    assert_eq!(new.on(1).state().ipam().address_count(), 5);
    new.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_with_another_file_stays_out() {
    let old = Cluster::started(1).await;
    populate(old.on(1), 5).await;
    let place = tempfile::tempdir().unwrap();
    let (first, second) = (place.path().join("first"), place.path().join("second"));
    backup(old.on(1), &first, true);
    create(old.on(1), "later").await;
    backup(old.on(1), &second, true);
    old.end().await;
    let mut new = Cluster::new(3).await;
    let said = restore(&new.config(1), &first).unwrap().unwrap();
    restore(&new.config(2), &first).unwrap().unwrap();
    let other = restore(&new.config(3), &second).unwrap().unwrap();
    assert_ne!(said.cluster_id, other.cluster_id);
    for id in 1..=3 {
        new.start(id).await;
    }
    for id in [1, 2] {
        tokio::time::timeout(PATIENCE, new.on(id).health().wait_ready()).await.unwrap().unwrap();
    }
    create(new.on(1), "goes on").await;
    assert!(!new.on(3).health().is_ready());
    assert!(!has(new.on(3), "goes on"));
    new.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_survivor_has_is_recovered_and_its_directory_untouched() {
    let mut old = Cluster::new(3).await;
    old.tuning.snapshot_entries = 50;
    old.tuning.keep_entries = 5;
    for id in 1..=3 {
        old.start(id).await;
    }
    old.ready().await;
    let leader = old.leader().await;
    populate(old.on(leader), 120).await;
    old.converge().await;
    let survivor = old.follower().await;
    let expected = old.on(survivor).state();
    let error = Salvage::read(&old.data(survivor), old.dir.path()).unwrap_err();
    assert!(matches!(error, SalvageError::InUse { .. }), "{error}");
    for id in 1..=3 {
        old.stop(id).await;
    }
    let listing = |dir: &Path| -> Vec<(PathBuf, Vec<u8>)> {
        let all = ["", "wal", "history", "snapshots"];
        let paths = all.iter().flat_map(|sub| files(&dir.join(sub)));
        paths.filter(|p| p.is_file()).map(|p| (p.clone(), fs::read(&p).unwrap())).collect()
    };
    let before = listing(&old.data(survivor));
    let salvage = Salvage::read(&old.data(survivor), old.dir.path()).unwrap();
    assert!(before == listing(&old.data(survivor)), "the directory was changed");
    assert_eq!(salvage.state.digest(), expected.digest());
    assert_eq!(salvage.unsure, 0);
    assert_eq!(salvage.history.last(), (expected.revision(), expected.digest()));

    let dirs = [1, 2, 3, 4].map(|id| old.data(id));
    let out = old.dir.path().join("out");
    let said = recover::recover(&dirs, &out).unwrap();
    for words in ["not used: ", "May be lost", "May appear", "Never start the old replicas again"] {
        assert!(said.contains(words), "{words} is not in:\n{said}");
    }
    let checked = file::read::<FileError>(&out, |_| Ok(())).unwrap();
    assert!(checked.header.recovered && checked.replayed);
    assert_eq!(addresses(&checked.state), addresses(&expected));
    let error = recover::recover(&dirs, &out).unwrap_err();
    assert!(matches!(error, recover::RecoverError::File(_)), "{error}");
    let (new, _) = restored(&out, 3).await;
    assert_eq!(addresses(&new.on(1).state()), addresses(&expected));
    new.end().await;
}

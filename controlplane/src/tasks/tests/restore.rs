//! The hold on allocations after a restore, until the hosts have reported.

use romana_replica::testing::{allocate, backup, done, eventually, populate, restored, say};
use romana_statemachine::{Event, Refusal, Revision};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_wait_for_reports_ends_when_it_is_set_to() {
    let old = Cluster::started(1).await;
    populate(old.on(1), 1).await;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("backup");
    backup(old.on(1), &path, true);
    old.end().await;
    let (new, _) = restored(&path, 1).await;
    let replica = new.on(1);
    let stop = CancellationToken::new();
    let running = tokio::spawn(run(replica.clone(), standard(Vec::new()), stop.clone()));
    eventually("version 3", || (replica.state().version() >= 3).then_some(())).await;
    let fresh = say(replica, allocate("fresh", None)).await.unwrap().result;
    assert!(matches!(fresh, Err(Refusal::AllocationHeld { .. })), "without a limit it waits");
    let change = r#"{"ChangeAgentSettings": {"restore_hold_max_ms": 1}}"#;
    done(replica, serde_json::from_str(change).unwrap()).await;
    eventually("the end of the wait", || replica.state().held().is_none().then_some(())).await;
    done(replica, allocate("fresh", None)).await;
    let (last, _) = replica.history().last();
    let records =
        replica.history().read(Revision(1), usize::try_from(last.get()).unwrap(), 1 << 20).unwrap();
    let ended = records.iter().find(|record| matches!(record.event, Event::AllocationResumed(_)));
    assert_eq!(ended.unwrap().actor.as_str(), "task:hold");
    stop.cancel();
    running.await.unwrap();
    new.end().await;
}

//! Retention of the history as a setting.

use serde_json::{Value, json};

use super::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_is_a_setting_from_version_two_on() {
    let world = World::new().await;
    let patch = async |change: Value| world.json("PATCH", "/v1/settings", &change).await;
    let month = json!({"history_retention_ms": 2_592_000_000_u64});
    let early = patch(month.clone()).await;
    assert_eq!((early.status.as_u16(), early.code().as_str()), (409, "VersionTooLow"));
    world.raise(2).await;

    let before = world.get("/v1/settings").await.json();
    assert_eq!(before["history_retention_ms"], Value::Null);
    assert_eq!(before["history_retention_bytes"], Value::Null);
    assert_eq!(patch(month).await.json()["history_retention_ms"], 2_592_000_000_u64);
    // Each half leaves the other unchanged; null means forever; other settings can be set in the same request.
    let size = json!({"history_retention_bytes": 10_u64 << 30, "address_reuse_delay_ms": 5});
    let set = patch(size).await.json();
    assert_eq!(set["history_retention_ms"], 2_592_000_000_u64);
    assert_eq!(set["history_retention_bytes"], 10_u64 << 30);
    assert_eq!(set["address_reuse_delay_ms"], 5);
    let off = patch(json!({"history_retention_ms": null})).await.json();
    assert_eq!(off["history_retention_ms"], Value::Null);
    assert_eq!(off["history_retention_bytes"], 10_u64 << 30);

    // One refused value refuses the others as well.
    let bad = patch(json!({"history_retention_ms": 5, "address_reuse_delay_ms": 7})).await;
    assert_eq!((bad.status.as_u16(), bad.code().as_str()), (400, "SettingOutOfRange"));
    let bad = patch(json!({"history_retention_ms": null, "vip_lease_ms": 1})).await;
    assert_eq!(bad.code(), "SettingOutOfRange");
    assert_eq!(world.get("/v1/settings").await.json()["revision"], off["revision"]);
    assert_eq!(patch(json!({"history_retention": 5})).await.code(), "MalformedBody");
    world.end().await;
}

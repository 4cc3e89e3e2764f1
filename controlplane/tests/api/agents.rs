//! Agents' reports and heartbeats over HTTP, and their effects.

use serde_json::{Value, json};

use super::world::{World, allocation};

async fn world() -> World {
    let world = World::furnished().await;
    for name in ["a", "b"] {
        world.post("/v1/addresses", &allocation(name, "h1")).await;
    }
    world
}

fn attached(name: &str, ip: &str) -> Value {
    json!({"name": name, "ip": ip, "tenant": "t1", "segment": "s1"})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_with_addresses_free_adopt_and_find_conflicts() {
    let world = world().await;
    let report = async |attached: Value| {
        let revision = world.get("/v1/snapshot?topics=vips").await.json();
        let body = json!({
            "revision": revision["revision"], "at": revision["at"], "running": ["b"],
            "attached": attached,
        });
        world.post("/v1/hosts/h1/report", &body).await
    };
    let ip = world.get("/v1/addresses/a").await.json()["ip"].clone();
    let free = "10.111.0.5";
    // A cluster with an older version accepts the names only.
    let early = report(json!([attached("a", ip.as_str().unwrap()), attached("x", free)])).await;
    assert_eq!(early.json()["changed"], false);
    assert_eq!(world.get("/v1/addresses/x").await.status, 404);
    world.raise(2).await;
    world.raise(3).await;
    let done = report(json!([attached("x", free), attached("y", "10.99.0.1")])).await;
    assert_eq!(done.json()["changed"], true);
    assert_eq!(world.get("/v1/addresses/a").await.status, 404, "it does not run");
    assert_eq!(world.get("/v1/addresses/b").await.status, 200, "it is being set up");
    assert_eq!(world.get("/v1/addresses/x").await.json()["ip"], free);
    let who = world.get(&format!("/v1/audit/who?ip={free}")).await.json();
    assert!(who["items"][0]["late"]["adopted"].is_u64(), "{who}");

    let found = world.get("/v1/ipam/check").await.json();
    let codes: Vec<&str> =
        found["items"].as_array().unwrap().iter().map(|f| f["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["AddressOutsideGroup", "AddressesUnverified"], "{found}");
    let seen = world.get("/v1/snapshot?topics=hosts").await.json();
    assert_eq!(seen["conflicts"]["h1"][0]["name"], "y");
    report(json!([attached("x", free)])).await;
    assert_eq!(world.get("/v1/snapshot?topics=hosts").await.json()["conflicts"], json!({}));
    let bad = report(json!([attached("x", free), {"name": "z"}])).await;
    assert_eq!(bad.code(), "MalformedBody");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_are_remembered_and_told() {
    let world = world().await;
    let beat = json!({"version": "1.2", "revision": 7, "applied": null, "problems": ["no link"]});
    assert_eq!(world.post("/v1/hosts/h1/heartbeat", &beat).await.status, 200);
    assert_eq!(
        world.get("/v1/heartbeats").await.json()["items"],
        json!([]),
        "not before version 3"
    );
    world.raise(2).await;
    world.raise(3).await;
    assert_eq!(world.post("/v1/hosts/h9/heartbeat", &beat).await.code(), "HostNotFound");
    let long = json!({"version": "1", "revision": 1, "problems": vec!["x".repeat(2000); 30]});
    assert_eq!(world.post("/v1/hosts/h2/heartbeat", &long).await.status, 200);
    world.post("/v1/hosts/h1/heartbeat", &beat).await;
    let mut heard = json!([]);
    while heard.as_array().is_some_and(|heard| heard.len() < 2) {
        heard = world.get("/v1/heartbeats").await.json()["items"].clone();
        tokio::task::yield_now().await;
    }
    let first = &heard[0]["heartbeat"];
    assert_eq!((&first["host"], &first["problems"]), (&json!("h1"), &json!(["no link"])));
    assert!(heard[0]["silent_ms"].as_u64().unwrap() < 60_000);
    let problems = heard[1]["heartbeat"]["problems"].as_array().unwrap();
    assert!(problems.len() == 16 && problems[0].as_str().unwrap().len() <= 512);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_has_one_agent_and_people_see_the_other() {
    let world = world().await;
    for version in 2..=4 {
        world.raise(version).await;
    }
    let enrol = |instance: &str| json!({"instance": instance});
    assert_eq!(world.post("/v1/hosts/h1/agent", &enrol("a1")).await.status, 200);
    let refused = world.post("/v1/hosts/h1/agent", &enrol("b2")).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (409, "HostHasAgent"));
    assert_eq!(refused.json()["error"]["details"]["instance"], "a1");
    let beat = |instance: &str| {
        json!({"version": "1", "revision": 1, "applied": 1, "problems": [], "instance": instance,
            "machine": "m7"})
    };
    assert_eq!(world.post("/v1/hosts/h1/heartbeat", &beat("a1")).await.status, 200);
    let refused = world.post("/v1/hosts/h1/heartbeat", &beat("b2")).await;
    assert_eq!(refused.code(), "HostHasAgent");
    let found = loop {
        let found = world.get("/v1/ipam/check").await.json()["items"].clone();
        if let Some(two) =
            found.as_array().unwrap().iter().find(|one| one["code"] == "HostHasTwoAgents")
        {
            break two.clone();
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(found["subject"], "host h1");
    assert!(found["why"].as_str().unwrap().contains("b2 on machine \"m7\""), "{found}");
    let heard = world.get("/v1/heartbeats").await.json();
    assert!(heard["items"].as_array().unwrap().len() <= 1, "only one of them is heard: {heard}");
    let replaced = json!({"instance": "b2", "replaces": "a1"});
    assert_eq!(world.post("/v1/hosts/h1/agent", &replaced).await.status, 200);
    assert_eq!(world.post("/v1/hosts/h1/heartbeat", &beat("a1")).await.code(), "HostHasAgent");
    assert_eq!(world.post("/v1/hosts/h1/heartbeat", &beat("b2")).await.status, 200);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_sent_its_own_addresses() {
    let world = world().await;
    world.post("/v1/addresses", &allocation("c", "h2")).await;
    let names = async |query: &str| {
        let seen = world.get(&format!("/v1/snapshot?topics=addresses{query}")).await.json();
        let all = seen["addresses"].as_array().unwrap().clone();
        all.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("").await.len(), 3);
    assert_eq!(names("&host=h2").await, ["c"]);
    assert_eq!(names("&host=nobody").await, [""; 0]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_agents_wait_for_version_three() {
    let world = world().await;
    let patch = async |change: Value| world.json("PATCH", "/v1/settings", &change).await;
    let change = json!({"reserve_per_owner": 2, "host_down_after_ms": 3000});
    assert_eq!(patch(change.clone()).await.code(), "VersionTooLow");
    world.raise(2).await;
    world.raise(3).await;
    assert_eq!(patch(change).await.json()["reserve_per_owner"], 2);
    // One refused value refuses the others as well.
    let bad = patch(json!({"reserve_per_owner": 65, "address_reuse_delay_ms": 7})).await;
    assert_eq!(bad.code(), "SettingOutOfRange");
    let shown = world.get("/v1/settings").await.json();
    assert_eq!(
        (&shown["host_down_after_ms"], &shown["restore_hold_max_ms"]),
        (&json!(3000), &json!(0))
    );
    assert_eq!(world.get("/v1/snapshot").await.json()["settings"]["reserve_per_owner"], 2);
    world.end().await;
}

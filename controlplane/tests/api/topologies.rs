//! Complete topologies over HTTP: the examples in `deploy/topologies`, and the
//! built-in ones. Figures are from the Romana 2.0 reference, §1.3, §1.9 and §14.

use romana_statemachine::topology::builtin;
use serde_json::{Value, json};

use super::world::World;

/// CIDRs of the leaf groups of a topology in an answer, in order.
fn leaves(group: &Value, found: &mut Vec<String>) {
    match group["groups"].as_array() {
        Some(inner) if !inner.is_empty() => inner.iter().for_each(|group| leaves(group, found)),
        _ => found.push(group["cidr"].as_str().unwrap().to_owned()),
    }
}

/// Sets a topology, checks that setting the answer again changes nothing, and returns the groups
/// of each map.
async fn set(world: &World, document: &Value) -> Vec<Vec<String>> {
    let answer = world.put("/v1/topology", document).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let shown = world.get("/v1/topology").await;
    let again = world.put("/v1/topology", &shown.json()).await;
    assert_eq!(again.status, 200, "{}", String::from_utf8_lossy(&again.body));
    assert_eq!(shown.headers["x-romana-revision"], again.headers["x-romana-revision"]);
    let maps = shown.json()["topologies"].as_array().unwrap().clone();
    let groups = |map: &Value| {
        let mut found = Vec::new();
        map["map"].as_array().unwrap().iter().for_each(|group| leaves(group, &mut found));
        found
    };
    maps.iter().map(groups).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seeds_topologies_give_their_figures() {
    let quarters = ["10.111.0.0/18", "10.111.64.0/18", "10.111.128.0/18", "10.111.192.0/18"];
    let zones = [
        "10.111.0.0/19",
        "10.111.32.0/19",
        "10.111.64.0/19",
        "10.111.96.0/19",
        "10.111.128.0/18",
        "10.111.192.0/18",
    ];
    let cases: [(&str, &[&str]); 3] = [
        (include_str!("../../../deploy/topologies/flat.json"), &["10.111.0.0/16"]),
        (include_str!("../../../deploy/topologies/four-racks.json"), &quarters),
        (include_str!("../../../deploy/topologies/zones-and-racks.json"), &zones),
    ];
    let world = World::new().await;
    for (document, expected) in cases {
        let document = serde_json::from_str(document).unwrap();
        assert_eq!(set(&world, &document).await, [expected]);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn built_in_topologies_give_their_figures() {
    let world = World::new().await;
    let document = json!(builtin("kubeadm").unwrap());
    let eighths: Vec<String> = (0..8).map(|nth| format!("10.{}.0.0/15", 112 + 2 * nth)).collect();
    assert_eq!(set(&world, &document).await, [eighths]);
    let document = json!(builtin("aws-us-west-1").unwrap());
    let two_zones: Vec<String> =
        (0..16).map(|nth| format!("100.{}.0.0/15", 96 + 2 * nth)).collect();
    assert_eq!(set(&world, &document).await, [two_zones]);
    let document = json!(builtin("aws-us-east-1").unwrap());
    let six_zones: Vec<String> = (0..24).map(|nth| format!("100.{}.0.0/16", 96 + nth)).collect();
    assert_eq!(set(&world, &document).await, [six_zones]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_and_racks_decide_where_addresses_come_from() {
    let world = World::new().await;
    let document = include_str!("../../../deploy/topologies/tenants.json");
    set(&world, &serde_json::from_str(document).unwrap()).await;
    let host = json!({"name": "h1", "ip": "192.168.0.1"});
    assert_eq!(world.post("/v1/hosts", &host).await.status, 201);
    for (tenant, status, ip) in
        [("web", 201, "10.111.0.0"), ("qa", 201, "10.222.0.0"), ("x", 422, "")]
    {
        let ask = json!({"name": tenant, "host": "h1", "tenant": tenant, "segment": "s"});
        let answer = world.post("/v1/addresses", &ask).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.json()["ip"].as_str().unwrap_or(""), ip);
    }
    world.end().await;

    let world = World::new().await;
    let document = include_str!("../../../deploy/topologies/four-racks.json");
    set(&world, &serde_json::from_str(document).unwrap()).await;
    let host = json!({"name": "h3", "ip": "192.168.0.3", "labels": {"rack": "rack-3"}});
    assert_eq!(world.post("/v1/hosts", &host).await.status, 201);
    let unlabelled = world.post("/v1/hosts", &json!({"name": "h", "ip": "192.168.0.9"})).await;
    assert_eq!((unlabelled.status.as_u16(), unlabelled.code().as_str()), (422, "NoGroupForHost"));
    let ask = json!({"name": "a", "host": "h3", "tenant": "t", "segment": "s"});
    assert_eq!(world.post("/v1/addresses", &ask).await.json()["ip"], "10.111.128.0");
    world.end().await;
}

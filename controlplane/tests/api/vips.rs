//! Virtual IPs over HTTP: hosts renew, the leader's task places, grants and releases.

use std::sync::Arc;
use std::time::{Duration, Instant};

use romana_controlplane::tasks::{self, vips::Vips};
use romana_statemachine::Command;
use romana_statemachine::command::VipSpec;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::world::World;

const IP: &str = "192.168.99.101";
/// Longest wait for a condition.
const PATIENCE: Duration = Duration::from_secs(30);

/// A host's agent.
struct Agent<'a> {
    world: &'a World,
    host: &'static str,
    sequence: u64,
    held: Vec<&'static str>,
}

impl<'a> Agent<'a> {
    async fn enrolled(world: &'a World, host: &'static str) -> Self {
        let enrol = json!({"instance": host, "replaces": null});
        let enrolled = world.post(&format!("/v1/hosts/{host}/agent"), &enrol).await;
        assert_eq!(enrolled.status, 200, "{}", enrolled.json());
        Self { world, host, sequence: 0, held: Vec::new() }
    }

    /// Renews once: whether the address was granted, and whether it was released.
    async fn renew(&mut self) -> (bool, bool) {
        self.sequence += 1;
        let body = json!({
            "instance": self.host, "run": 1, "sequence": self.sequence, "held": self.held,
            "subnets": ["192.168.99.0/24"],
        });
        let answer = self.world.post(&format!("/v1/hosts/{}/vips", self.host), &body).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        let answer = answer.json();
        let granted = answer["granted"].as_array().unwrap().iter().any(|grant| grant["ip"] == IP);
        if granted {
            self.held = vec![IP];
        }
        (granted, answer["released"] == json!([IP]))
    }
}

/// Both renew until the first one is granted the address. The second one is never granted it on the way.
async fn until_granted(first: &mut Agent<'_>, second: Option<&mut Agent<'_>>) -> Instant {
    let (began, mut second) = (Instant::now(), second);
    loop {
        if first.renew().await.0 {
            return Instant::now();
        }
        if let Some(second) = &mut second {
            assert!(!second.renew().await.0, "{} was granted it", second.host);
        }
        assert!(began.elapsed() < PATIENCE, "{} was not granted it", first.host);
        tokio::task::yield_now().await;
    }
}

async fn placement(world: &World) -> Value {
    world.get("/v1/vips/web").await.json()["placement"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vip_is_on_one_host_and_moves() {
    let world = World::furnished().await;
    let early = json!({"instance": "h1", "run": 1, "sequence": 1});
    let early = world.post("/v1/hosts/h1/vips", &early).await;
    assert_eq!(early.code(), "VersionTooLow");
    for version in 2..=4 {
        world.raise(version).await;
    }
    let stop = CancellationToken::new();
    let leads = tokio::spawn(tasks::run(world.replica.clone(), vec![Arc::new(Vips)], stop.clone()));
    let mut h1 = Agent::enrolled(&world, "h1").await;
    let mut h2 = Agent::enrolled(&world, "h2").await;
    let spec = VipSpec { name: "web".into(), ip: IP.parse().unwrap(), candidates: Vec::new() };
    world.propose("test", Command::RequestVip(spec)).await;

    // Both can have it, and none has one: the first by name gets it.
    until_granted(&mut h1, Some(&mut h2)).await;
    let placed = placement(&world).await;
    assert_eq!((&placed["host"], &placed["reason"]), (&json!("h1"), &json!("first")));
    let leases = world.get("/v1/leases").await.json();
    assert_eq!(
        (&leases["items"][0]["host"], &leases["items"][0]["ip"]),
        (&json!("h1"), &json!(IP))
    );
    assert!(leases["items"][0]["left_ms"].as_u64().unwrap() <= 1_838, "{leases}");

    // Another agent of the same host is granted nothing, and is told to give up what it has.
    let other = json!({"instance": "x", "run": 9, "sequence": 1, "held": [IP]});
    let answer = world.post("/v1/hosts/h1/vips", &other).await.json();
    assert_eq!((&answer["granted"], &answer["released"]), (&json!([]), &json!([IP])));

    // A planned move: not before the holder has given it up, and then at once.
    let draining = json!({"state": "draining"});
    assert_eq!(world.json("PATCH", "/v1/hosts/h1", &draining).await.status, 200);
    let began = Instant::now();
    while !h1.renew().await.1 {
        assert!(!h2.renew().await.0, "h1 has not given it up");
        assert!(began.elapsed() < PATIENCE);
    }
    h1.held.clear();
    until_granted(&mut h2, Some(&mut h1)).await;
    assert_eq!(placement(&world).await["reason"], "holder_draining");

    // The holder falls silent: nothing is granted before its grant must be over.
    assert_eq!(world.json("PATCH", "/v1/hosts/h1", &json!({"state": "up"})).await.status, 200);
    // The grant counts from when the renewal arrived, which is later than this.
    let last = Instant::now();
    assert!(h2.renew().await.0);
    let elsewhere = until_granted(&mut h1, None).await;
    assert!(elsewhere - last >= Duration::from_millis(1_700), "{:?}", elsewhere - last);
    let placed = placement(&world).await;
    assert_eq!((&placed["host"], &placed["reason"]), (&json!("h1"), &json!("holder_silent")));
    // It is back: it has to give up what it may think it has.
    assert_eq!(h2.renew().await, (false, true));

    stop.cancel();
    leads.await.unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_of_a_pool_stays() {
    let world = World::furnished().await;
    for version in 2..=4 {
        world.raise(version).await;
    }
    let put = async |path: &str, body: Value, status: u16| {
        let answer = world.json("PUT", path, &body).await;
        assert_eq!(answer.status.as_u16(), status, "{path} {body}: {}", answer.json());
        answer.json()
    };
    let ranges = ["192.168.98.0/30", "fd00:98::/126"];
    let pools = json!({"pools": [{"name": "edge", "ranges": ranges}]});
    let set = put("/v1/vip-pools", pools, 200).await;
    assert_eq!(set["items"], json!([{"name": "edge", "ranges": ranges, "vips": 0}]));
    let (any, ipv6) = (json!({"auto": true}), json!({"auto": true, "family": "ipv6"}));
    assert_eq!(put("/v1/vips/a", any.clone(), 201).await["ip"], "192.168.98.1");
    assert_eq!(put("/v1/vips/a", any.clone(), 200).await["ip"], "192.168.98.1");
    assert_eq!(put("/v1/vips/b", ipv6, 201).await["ip"], "fd00:98::1");
    let none = put("/v1/vips/c", json!({"auto": true, "pool": "side"}), 404).await;
    assert_eq!(none["error"]["code"], "VipPoolNotFound");
    for (name, ip) in [("c", "192.168.98.2"), ("d", "fd00:98::2")] {
        assert_eq!(put(&format!("/v1/vips/{name}"), any.clone(), 201).await["ip"], ip);
    }
    let full = put("/v1/vips/e", any, 507).await;
    assert_eq!(full["error"]["code"], "VipPoolsExhausted");
    let listed = world.get("/v1/vip-pools").await.json();
    assert_eq!(listed["items"][0]["vips"], 4);
    // VIPs keep their addresses without the pool.
    let set = put("/v1/vip-pools", json!({"pools": []}), 200).await;
    assert_eq!(set["items"], json!([]));
    assert_eq!(world.get("/v1/vips/a").await.json()["ip"], "192.168.98.1");
    let network = json!({"pools": [{"name": "edge", "ranges": ["10.111.0.0/24"]}]});
    let taken = put("/v1/vip-pools", network, 409).await;
    assert_eq!(taken["error"]["code"], "VipPoolTaken");
    world.end().await;
}

//! `romanad --kubernetes` beside a real kube-apiserver (1.20, or what KUBE_APISERVER names): objects that are created,
//! changed and deleted through the API show up in the log, also after the API server, or the leader, was away.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod run;
mod server;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use http_body_util::BodyExt;
use hyper::Method;
use romana_chaos::cluster::{Cluster, ClusterOptions, find_romanad, free_ports};
use romana_chaos::http::{Connection, once};
use romana_chaos::wait::until;
use serde_json::{Value, json};

use server::{Objects, PATIENCE, Server};

const ASK: Duration = Duration::from_secs(3);

/// An API server, and a cluster that follows it.
struct World {
    cluster: Cluster,
    server: Server,
}

impl World {
    /// Starts both; romanad has its permissions. `None` where there is no API server.
    async fn start(replicas: usize) -> Option<Self> {
        let server = Server::start().await?;
        server.objects().await.grant().await;
        Some(Self::with(server, replicas).await)
    }

    async fn with(server: Server, replicas: usize) -> Self {
        let kubeconfig = server.kubeconfig().display().to_string();
        let romanad = find_romanad(None).expect("cargo build --workspace --bins comes first");
        let options = ClusterOptions {
            replicas,
            arguments: vec!["--kubernetes".into(), "--kubeconfig".into(), kubeconfig],
            ..ClusterOptions::new(romanad)
        };
        let cluster = Cluster::start(options).await.expect("a cluster");
        let world = Self { cluster, server };
        let topology = json!({
            "networks": [{"name": "pods", "cidr": "10.111.0.0/16", "block_mask": 29}],
            "topologies": [{"networks": ["pods"], "map": [{"groups": []}]}],
        });
        world.put("/v1/topology", topology).await;
        world
    }

    /// A replica that is up.
    fn api(&self) -> SocketAddr {
        self.cluster.replicas().iter().find(|replica| replica.is_up()).unwrap().api
    }

    async fn get(&self, path: &str) -> Value {
        let answer = once(self.api(), Method::GET, path, None, ASK).await;
        answer.map(|answer| answer.body).unwrap_or_default()
    }

    async fn put(&self, path: &str, body: Value) {
        let answer = once(self.api(), Method::PUT, path, Some(&body), ASK).await.unwrap();
        assert!(answer.status < 300, "PUT {path}: {}", answer.body);
    }

    /// Waits until an answer is as it should be.
    async fn until(&self, what: &str, path: &str, so: impl Fn(&Value) -> bool) {
        let held = until(what, PATIENCE, async || so(&self.get(path).await)).await;
        if let Err(error) = held {
            let (answer, log) = (self.get(path).await, self.cluster.log_tails(40));
            panic!("{error}\n{path}: {answer:#}\nproblems: {:#}\n{log}", self.problems().await);
        }
    }

    /// Waits until an item is there.
    async fn shows(&self, path: &str, key: &str, value: &str) {
        self.until(&format!("{value} in {path}"), path, |answer| has(answer, key, value)).await;
    }

    /// Waits until an item is gone.
    async fn hides(&self, path: &str, key: &str, value: &str) {
        let gone = |answer: &Value| answer["items"].is_array() && !has(answer, key, value);
        self.until(&format!("no {value} in {path}"), path, gone).await;
    }

    async fn problems(&self) -> Value {
        let status = self.get("/v1/cluster").await;
        let members = status["members"].as_array().cloned().unwrap_or_default();
        members
            .into_iter()
            .flat_map(|member| member["problems"].as_array().cloned())
            .flatten()
            .collect()
    }

    /// Waits until a replica reports a problem, or none does.
    async fn reports(&self, code: &str, present: bool) {
        let what = format!("{code} reported: {present}");
        let held = until(&what, PATIENCE, async || {
            let problems = self.problems().await;
            problems.as_array().unwrap().iter().any(|problem| problem["code"] == code) == present
        });
        if let Err(error) = held.await {
            panic!("{error}\n{:#}\n{}", self.problems().await, self.cluster.log_tails(40));
        }
    }

    /// The metrics of a replica.
    async fn metrics(&self) -> String {
        let mut connection = Connection::open(self.api(), ASK).await.unwrap();
        let answer = connection.send(Method::GET, "/metrics", "text/plain", None).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }

    async fn revision(&self) -> u64 {
        self.get("/v1/digest").await["revision"].as_u64().unwrap()
    }

    /// What the listener has recorded since a revision.
    async fn recorded_since(&self, revision: u64) -> Vec<Value> {
        let path = format!("/v1/audit/log?from={}&actor=task:kubernetes&limit=1000", revision + 1);
        self.get(&path).await["items"].as_array().unwrap().clone()
    }
}

fn items(answer: &Value) -> &[Value] {
    answer["items"].as_array().map_or(&[], |items| items)
}

fn has(answer: &Value, key: &str, value: &str) -> bool {
    items(answer).iter().any(|item| item[key] == value)
}

fn item<'a>(answer: &'a Value, key: &str, value: &str) -> &'a Value {
    items(answer).iter().find(|item| item[key] == value).unwrap_or(&Value::Null)
}

/// One of each kind.
async fn populate(objects: &Objects) {
    objects.node("node-1", "192.168.0.11").await;
    objects.namespace("shop").await;
    objects.pod("shop", "web-1", "node-1", "10.111.0.1").await;
    objects.policy("shop", "allow-web").await;
    objects.service("shop", "web", r#"{"auto": false, "ip": "192.168.99.101"}"#).await;
    objects.backend("shop", "web", "node-1", "10.111.0.1").await;
}

/// Waits until the log has one of each kind.
async fn see_all(world: &World) {
    world.shows("/v1/hosts", "name", "node-1").await;
    world.shows("/v1/tenants", "id", "shop").await;
    world.shows("/v1/endpoints", "ip", "10.111.0.1").await;
    world.shows("/v1/policies", "name", "kube.shop.allow-web").await;
    world.shows("/v1/vips", "ip", "192.168.99.101").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_come_change_and_go() {
    let Some(server) = Server::start().await else { return };
    let objects = server.objects().await;
    let world = World::with(server, 1).await;
    world.reports("KubernetesForbidden", true).await;
    populate(&objects).await;
    // An operator's own.
    world.put("/v1/tenants/own", json!({"labels": {}})).await;
    assert!(!has(&world.get("/v1/tenants").await, "id", "shop"), "it may not read yet");
    objects.grant().await;
    see_all(&world).await;
    world.reports("KubernetesForbidden", false).await;
    let endpoints = world.get("/v1/endpoints").await;
    let endpoint = item(&endpoints, "ip", "10.111.0.1");
    assert_eq!((&endpoint["tenant"], &endpoint["segment"]), (&json!("shop"), &json!("default")));
    assert_eq!((&endpoint["host"], &endpoint["labels"]["app"]), (&json!("node-1"), &json!("web")));
    let candidate =
        |vips: &Value| item(vips, "ip", "192.168.99.101")["candidates"] == json!(["node-1"]);
    world.until("the node of the backend is a candidate", "/v1/vips", candidate).await;

    let labels = json!({"metadata": {"labels": {"team": "blue"}}});
    objects.patch("/api/v1/namespaces/shop", labels).await;
    let relabelled = |tenants: &Value| item(tenants, "id", "shop")["labels"]["team"] == "blue";
    world.until("the namespace's labels", "/v1/tenants", relabelled).await;

    nothing_is_recorded_without_a_change(&world, &objects).await;
    let metrics = world.metrics().await;
    for line in ["romanad_kubernetes_follows 1", "romanad_kubernetes_objects{resource=\"pods\"} 1"]
    {
        assert!(metrics.lines().any(|there| there.starts_with(line)), "{line}: {metrics}");
    }

    objects.delete("/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies/allow-web").await;
    world.hides("/v1/policies", "name", "kube.shop.allow-web").await;
    objects.delete("/api/v1/namespaces/shop/services/web").await;
    world.hides("/v1/vips", "ip", "192.168.99.101").await;
    objects.delete("/api/v1/namespaces/shop/pods/web-1").await;
    world.hides("/v1/endpoints", "ip", "10.111.0.1").await;
    objects.delete_namespace("shop").await;
    world.hides("/v1/tenants", "id", "shop").await;
    objects.delete("/api/v1/nodes/node-1").await;
    world.hides("/v1/hosts", "name", "node-1").await;
    assert!(has(&world.get("/v1/tenants").await, "id", "own"), "it is the operator's");
}

/// Changes that do not matter leave no trace in the log.
async fn nothing_is_recorded_without_a_change(world: &World, objects: &Objects) {
    let before = world.revision().await;
    for number in 0..20 {
        let change = json!({"metadata": {"annotations": {"example.com/n": number.to_string()}}});
        objects.patch("/api/v1/namespaces/shop/pods/web-1", change.clone()).await;
        objects.patch("/api/v1/nodes/node-1", change).await;
    }
    // What comes later has an effect, so the changes have been looked at.
    objects.namespace("marker").await;
    world.shows("/v1/tenants", "id", "marker").await;
    let recorded = world.recorded_since(before).await;
    let others: Vec<&Value> =
        recorded.iter().filter(|record| !record.to_string().contains("marker")).collect();
    assert!(others.is_empty() && !recorded.is_empty(), "{others:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_while_the_api_server_is_away_are_seen_after() {
    let Some(mut world) = World::start(1).await else { return };
    let objects = world.server.objects().await;
    populate(&objects).await;
    objects.namespace("kept").await;
    objects.policy("kept", "stays").await;
    see_all(&world).await;
    world.shows("/v1/policies", "name", "kube.kept.stays").await;
    world.put("/v1/tenants/own", json!({"labels": {}})).await;

    // It is killed, and changed where romanad does not see it.
    let before = world.revision().await;
    let hidden = free_ports(1).unwrap()[0];
    world.server.kill();
    world.reports("KubernetesUnreachable", true).await;
    world.server.serve(hidden).await;
    let behind = world.server.objects_at(hidden).await.unwrap();
    behind.delete("/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies/allow-web").await;
    let labels = json!({"metadata": {"labels": {"team": "red"}}});
    behind.patch("/api/v1/namespaces/shop", labels).await;
    behind.delete("/api/v1/namespaces/shop/pods/web-1").await;
    behind.pod("shop", "web-1", "node-1", "10.111.0.9").await;
    behind.delete("/api/v1/namespaces/shop/services/web").await;
    world.server.kill();
    assert_eq!(world.recorded_since(before).await, Vec::<Value>::new(), "nothing is removed");

    let port = world.server.port;
    world.server.serve(port).await;
    world.shows("/v1/endpoints", "ip", "10.111.0.9").await;
    world.hides("/v1/endpoints", "ip", "10.111.0.1").await;
    world.hides("/v1/policies", "name", "kube.shop.allow-web").await;
    world.hides("/v1/vips", "ip", "192.168.99.101").await;
    let relabelled = |tenants: &Value| item(tenants, "id", "shop")["labels"]["team"] == "red";
    world.until("the namespace's labels", "/v1/tenants", relabelled).await;
    world.reports("KubernetesUnreachable", false).await;
    for (path, key, value) in [
        ("/v1/policies", "name", "kube.kept.stays"),
        ("/v1/tenants", "id", "own"),
        ("/v1/hosts", "name", "node-1"),
    ] {
        assert!(has(&world.get(path).await, key, value), "{value} stays");
    }
    let recorded = world.recorded_since(before).await;
    let touched = |record: &&Value| record.to_string().contains("stays");
    assert!(!recorded.iter().any(|record| touched(&record)), "{recorded:#?}");

    // It is there and silent.
    world.server.pause();
    world.reports("KubernetesUnreachable", true).await;
    world.server.resume();
    world.reports("KubernetesUnreachable", false).await;
    world.server.objects().await.namespace("after").await;
    world.shows("/v1/tenants", "id", "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_leader_goes_on() {
    let Some(mut world) = World::start(3).await else { return };
    let objects = world.server.objects().await;
    populate(&objects).await;
    see_all(&world).await;
    let before = world.revision().await;
    let leader = world.cluster.wait_leader(PATIENCE).await.unwrap();
    world.cluster.kill(leader).unwrap();
    objects.delete("/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies/allow-web").await;
    objects.namespace("after").await;
    world.shows("/v1/tenants", "id", "after").await;
    world.hides("/v1/policies", "name", "kube.shop.allow-web").await;
    let recorded = world.recorded_since(before).await;
    let expected = |record: &Value| {
        let text = record.to_string();
        text.contains("after") || text.contains("allow-web")
    };
    let others: Vec<&Value> = recorded.iter().filter(|record| !expected(record)).collect();
    assert!(others.is_empty(), "the next leader repeats nothing: {others:#?}");
    world.cluster.start_replica(leader).unwrap();
    world.cluster.wait_ready(PATIENCE).await.unwrap();
    assert!(world.cluster.crashes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_segment_of_a_pod_is_known_before_it_has_an_address() {
    let Some(world) = World::start(3).await else { return };
    let objects = world.server.objects().await;
    populate(&objects).await;
    see_all(&world).await;
    let pods = "/api/v1/namespaces/shop/pods";
    let labels = json!({"romana.io/segment": "front"});
    let pod = |name: &str, labels: &Value| {
        json!({
            "metadata": {"name": name, "labels": labels},
            "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "i"}]},
        })
    };
    let made = objects.create(pods, pod("front-1", &labels)).await;
    let uid = made["metadata"]["uid"].as_str().unwrap();
    objects.create(pods, pod("plain-1", &json!({}))).await;
    for replica in world.cluster.replicas() {
        let ask = async |path: &str| {
            let path = format!("/v1/pods/shop/{path}");
            once(replica.api, Method::GET, &path, None, ASK).await.unwrap().body
        };
        let front = ask(&format!("front-1/segment?uid={uid}")).await;
        assert_eq!(front, json!({"segment": "front", "known": true}));
        let plain = ask("plain-1/segment").await;
        assert_eq!(plain, json!({"segment": "default", "known": true}));
        let other = ask("front-1/segment?uid=of-an-earlier-one").await;
        assert_eq!(other, json!({"segment": "default", "known": false}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_honoured_gets_an_event() {
    let Some(world) = World::start(1).await else { return };
    let objects = world.server.objects().await;
    populate(&objects).await;
    see_all(&world).await;
    objects.backend("shop", "second", "node-1", "10.111.0.1").await;
    objects.service("shop", "second", r#"{"auto": false, "ip": "192.168.99.101"}"#).await;
    objects.service("shop", "wrong", r#"{"auto": false, "ip": "here"}"#).await;
    let path = "/apis/events.k8s.io/v1/namespaces/shop/events";
    let about = |events: &Value, name: &str| {
        items(events).iter().filter(|event| event["regarding"]["name"] == name).count()
    };
    let written = until("Events on both services", PATIENCE, async || {
        let events = objects.get(path).await;
        about(&events, "second") == 1 && about(&events, "wrong") == 1
    });
    if let Err(error) = written.await {
        let events = objects.get(path).await;
        panic!(
            "{error}\n{events:#}\n{:#}\n{}",
            world.problems().await,
            world.cluster.log_tails(40)
        );
    }
    let events = objects.get(path).await;
    assert_eq!(about(&events, "web"), 0, "it is honoured");
    world.reports("KubernetesObjectsRefused", true).await;
    // Other changes do not repeat them.
    objects.namespace("marker").await;
    world.shows("/v1/tenants", "id", "marker").await;
    let again = objects.get(path).await;
    assert_eq!(items(&again).len(), items(&events).len(), "{again:#}");
    let series = items(&again).iter().filter(|event| !event["series"].is_null()).count();
    assert_eq!(series, 0, "{again:#}");
    // The first service ends: the second has the address.
    objects.delete("/api/v1/namespaces/shop/services/wrong").await;
    objects.delete("/api/v1/namespaces/shop/services/web").await;
    world.reports("KubernetesObjectsRefused", false).await;
    world.shows("/v1/vips", "ip", "192.168.99.101").await;
}

/// Waits until a Service is so.
async fn service_is(world: &World, path: &str, what: &str, so: impl Fn(&Value) -> bool) {
    let objects = world.server.objects().await;
    let seen = until(what, PATIENCE, async || so(&objects.get(path).await)).await;
    if let Err(error) = seen {
        let (service, problems) = (objects.get(path).await, world.problems().await);
        panic!("{error}\n{service:#}\n{problems:#}\n{}", world.cluster.log_tails(40));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_shows_its_vip_beside_the_addresses_of_others() {
    let Some(world) = World::start(1).await else { return };
    let objects = world.server.objects().await;
    populate(&objects).await;
    let path = "/api/v1/namespaces/shop/services/web";
    let shows = |service: &Value, ips: Value| service["spec"]["externalIPs"] == ips;
    let vip = json!(["192.168.99.101"]);
    service_is(&world, path, "its VIP", |service| shows(service, vip.clone())).await;

    // Somebody adds another, and the VIP is moved: only ours changes.
    let external = json!({"spec": {"externalIPs": ["192.0.2.9", "192.168.99.101"]}});
    objects.patch(path, external).await;
    let asks = |ip: &str| {
        let text = json!({"ip": ip}).to_string();
        json!({"metadata": {"annotations": {"romanaip": text}}})
    };
    objects.patch(path, asks("192.168.99.102")).await;
    let both = json!(["192.0.2.9", "192.168.99.102"]);
    service_is(&world, path, "the new address", |service| shows(service, both.clone())).await;
    world.reports("KubernetesServiceNotWritten", false).await;

    // The request ends: what is not ours stays, and no note.
    objects.patch(path, json!({"metadata": {"annotations": {"romanaip": null}}})).await;
    let other = json!(["192.0.2.9"]);
    service_is(&world, path, "it is taken back", |service| {
        let note = &service["metadata"]["annotations"]["romana.io/vip-status"];
        shows(service, other.clone()) && note.is_null()
    })
    .await;
    world.hides("/v1/vips", "ip", "192.168.99.102").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_of_our_class_gets_its_ingress() {
    let Some(world) = World::start(1).await else { return };
    let objects = world.server.objects().await;
    populate(&objects).await;
    let Some(_) = objects.balancer("shop", "edge", "192.168.99.110").await else {
        assert!(objects.version().await < (1, 22), "it drops loadBalancerClass");
        return;
    };
    let path = "/api/v1/namespaces/shop/services/edge";
    let ingress = |service: &Value| service["status"]["loadBalancer"]["ingress"][0]["ip"].clone();
    service_is(&world, path, "its address", |service| ingress(service) == "192.168.99.110").await;
    world.shows("/v1/vips", "name", "edge.shop").await;
    // Of another type: it is no load balancer of ours any more.
    let change = json!({"spec": {"type": "ClusterIP", "loadBalancerIP": null}});
    objects.patch(path, change).await;
    service_is(&world, path, "no address", |service| ingress(service).is_null()).await;
    world.hides("/v1/vips", "name", "edge.shop").await;
}

/// Load: pods as fast as the API server takes them, then all listed again by the next process. `KUBERNETES_PODS` is their
/// number, 10 000 at most.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "load: part of `make test-kubernetes`"]
async fn two_thousand_pods_at_once() {
    let pods = std::env::var("KUBERNETES_PODS").map_or(2_000, |count| count.parse().unwrap());
    let Some(mut world) = World::start(1).await else { return };
    let objects = world.server.objects().await;
    objects.node("node-1", "192.168.0.11").await;
    objects.namespace("shop").await;
    world.shows("/v1/tenants", "id", "shop").await;
    let begun = Instant::now();
    stream::iter(0..pods)
        .for_each_concurrent(4, |number| {
            let ip = format!("10.111.{}.{}", number / 250, number % 250 + 1);
            let objects = objects.clone();
            async move { objects.pod("shop", &format!("p{number}"), "node-1", &ip).await }
        })
        .await;
    let created = begun.elapsed();
    let all = |endpoints: &Value| items(endpoints).len() == pods;
    world.until("all endpoints", "/v1/endpoints?limit=10000", all).await;
    let lag = begun.elapsed() - created;
    println!("{pods} pods created in {created:?}, the last in the log {lag:?} later");
    assert!(lag < Duration::from_secs(5), "{lag:?}");

    // The next process lists them all, and changes nothing.
    world.cluster.stop(0).await.unwrap();
    let before = Instant::now();
    world.cluster.start_replica(0).unwrap();
    world.cluster.wait_ready(PATIENCE).await.unwrap();
    let revision = world.revision().await;
    objects.delete("/api/v1/namespaces/shop/pods/p0").await;
    world.hides("/v1/endpoints?limit=10000", "ip", "10.111.0.1").await;
    println!("restarted, listed and compared in {:?}", before.elapsed());
    assert_eq!(world.recorded_since(revision).await.len(), 1);
}

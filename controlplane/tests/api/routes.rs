//! Every route at least once, with each answer checked against the OpenAPI document.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::schema;
use super::world::{Answer, World, allocation, topology};

/// Sends requests, checks the status and the shape of each answer, and records which routes were used.
struct Tour<'a> {
    world: &'a World,
    document: Value,
    seen: BTreeSet<(String, String)>,
}

/// Whether a path matches a template.
fn fits(template: &str, path: &str) -> bool {
    let (mut a, mut b) = (template.split('/'), path.split('/'));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(a), Some(b)) if a == b || a.starts_with('{') => {}
            _ => return false,
        }
    }
}

impl Tour<'_> {
    async fn ask(&mut self, method: &str, target: &str, body: Option<Value>, status: u16) -> Value {
        let answer: Answer = match &body {
            Some(body) => self.world.json(method, target, body).await,
            None => self.world.ask(method, target, &[], "").await,
        };
        let shown = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status.as_u16(), status, "{method} {target}: {shown}");
        assert!(answer.headers.contains_key("x-romana-revision"), "{method} {target}");
        let path = target.split('?').next().unwrap();
        let paths = self.document["paths"].as_object().unwrap();
        // A literal segment takes precedence over a parameter, as in the router.
        let template = paths.keys().filter(|template| fits(template, path));
        let template = template.min_by_key(|template| template.matches('{').count()).unwrap();
        let operation = &paths[template][method.to_lowercase()];
        self.seen.insert((method.into(), template.clone()));
        if shown.starts_with('#') {
            return Value::Null;
        }
        let documented = &operation["responses"][status.to_string()];
        let documented = match documented.is_null() {
            true => {
                let to = operation["responses"]["default"]["$ref"].as_str().unwrap();
                self.document.pointer(&to[1..]).unwrap()
            }
            false => documented,
        };
        let value = answer.json();
        let schema = &documented["content"]["application/json"]["schema"];
        assert!(!schema.is_null(), "{method} {target} → {status} is not documented");
        if let Err(why) = schema::check(&self.document, schema, &value) {
            panic!("{method} {target}: {why}");
        }
        if let Some(body) = &body {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            if status < 300 {
                schema::check(&self.document, schema, body).unwrap();
            }
        }
        value
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_answers_as_documented() {
    let world = World::new().await;
    let document = world.get("/v1/openapi.json").await.json();
    let mut tour = Tour { world: &world, document, seen: BTreeSet::new() };
    meta(&mut tour).await;
    topology_and_hosts(&mut tour).await;
    addresses(&mut tour).await;
    tenants_and_endpoints(&mut tour).await;
    policies(&mut tour).await;
    vips_and_views(&mut tour).await;
    romana2(&mut tour).await;
    audit(&mut tour).await;
    members(&mut tour).await;
    let mut missing = Vec::new();
    for (path, methods) in tour.document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            // The feed does not end by itself, and a backup is not JSON: they have separate tests.
            let seen = tour.seen.contains(&(method.to_uppercase(), path.clone()));
            if !seen && !["/v1/events", "/v1/backup"].contains(&path.as_str()) {
                missing.push(format!("{method} {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "not visited: {missing:?}");
    world.end().await;
}

async fn meta(tour: &mut Tour<'_>) {
    for path in ["/healthz", "/readyz", "/status", "/metrics", "/v1/openapi.json", "/v1/cluster"] {
        tour.ask("GET", path, None, 200).await;
    }
    tour.ask("GET", "/v1/topology", None, 404).await;
    tour.ask("POST", "/v1/restore", None, 409).await;
    tour.ask("GET", "/v1/digest?consistency=local", None, 200).await;
    let settings = tour.ask("GET", "/v1/settings", None, 200).await;
    assert_eq!(settings["address_reuse_delay_ms"], 30_000);
    let change = json!({"address_reuse_delay_ms": 0});
    let settings = tour.ask("PATCH", "/v1/settings", Some(change), 200).await;
    assert_eq!(settings["address_reuse_delay_ms"], 0);
}

async fn topology_and_hosts(tour: &mut Tour<'_>) {
    let plan = tour.ask("POST", "/v1/topology/plan", Some(topology()), 200).await;
    assert_eq!(plan["changed"], true);
    tour.ask("PUT", "/v1/topology", Some(topology()), 200).await;
    let host = json!({"name": "h1", "ip": "192.168.0.1", "labels": {"rack": "1"}});
    tour.ask("POST", "/v1/hosts", Some(host.clone()), 201).await;
    tour.ask("POST", "/v1/hosts", Some(host), 200).await;
    for (name, ip) in [("h2", "192.168.0.2"), ("h3", "fd00::3")] {
        tour.ask("POST", "/v1/hosts", Some(json!({"name": name, "ip": ip})), 201).await;
    }
    // PUT accepts what GET returns, and changes nothing.
    let printed = tour.ask("GET", "/v1/topology", None, 200).await;
    assert_eq!(printed["topologies"][0]["map"][0]["cidr"], "10.111.0.0/16");
    assert_eq!(printed["topologies"][0]["map"][0]["hosts"].as_array().unwrap().len(), 3);
    tour.ask("PUT", "/v1/topology", Some(printed.clone()), 200).await;
    assert_eq!(tour.ask("GET", "/v1/topology", None, 200).await, printed);
    let networks = tour.ask("GET", "/v1/networks", None, 200).await;
    assert_eq!(networks["items"][0]["groups"][0]["hosts"], 3);
    tour.ask("GET", "/v1/networks/tiny", None, 200).await;
    let patch = json!({"info": {"kernel": "6.1"}});
    let host = tour.ask("PATCH", "/v1/hosts/h2", Some(patch), 200).await;
    assert_eq!(host["info"]["kernel"], "6.1");
    let host = tour.ask("PATCH", "/v1/hosts/h2", Some(json!({"state": "draining"})), 200).await;
    assert_eq!(host["state"], "draining");
    assert_eq!(
        tour.ask("GET", "/v1/hosts?state=draining", None, 200).await["items"][0]["name"],
        "h2"
    );
    // Pages neither repeat nor skip items.
    let (mut names, mut target) = (Vec::new(), "/v1/hosts?limit=2".to_owned());
    loop {
        let page = tour.ask("GET", &target, None, 200).await;
        let items = page["items"].as_array().unwrap();
        names.extend(items.iter().map(|host| host["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["continue"].as_str() else { break };
        target = format!("/v1/hosts?limit=2&continue={next}");
    }
    assert_eq!(names, ["h1", "h2", "h3"]);
    assert_eq!(tour.ask("DELETE", "/v1/hosts/h3", None, 200).await["changed"], true);
    tour.ask("GET", "/v1/hosts/h1", None, 200).await;
}

async fn addresses(tour: &mut Tour<'_>) {
    let first = tour.ask("POST", "/v1/addresses", Some(allocation("a1", "h1")), 201).await;
    let again = tour.ask("POST", "/v1/addresses", Some(allocation("a1", "h1")), 200).await;
    assert_eq!(first, again);
    tour.ask("POST", "/v1/addresses", Some(allocation("a2", "h2")), 201).await;
    let ip = first["ip"].as_str().unwrap();
    assert_eq!(tour.ask("GET", &format!("/v1/addresses/{ip}"), None, 200).await, first);
    assert_eq!(tour.ask("GET", "/v1/addresses/a1", None, 200).await, first);
    let count = |list: Value| list["items"].as_array().unwrap().len();
    assert_eq!(count(tour.ask("GET", "/v1/addresses", None, 200).await), 2);
    for (filter, found) in [
        ("host=h1", 1),
        ("tenant=t1", 2),
        ("tenant=other", 0),
        ("host=h1&segment=s1", 1),
        ("block=10.111.0.0/16", 2),
        ("block=10.200.0.0/30", 0),
        ("network=net1", 2),
        ("host=none", 0),
        ("limit=1", 1),
    ] {
        let list = tour.ask("GET", &format!("/v1/addresses?{filter}"), None, 200).await;
        assert_eq!(count(list), found, "{filter}");
    }
    let page = tour.ask("GET", "/v1/addresses?limit=1", None, 200).await;
    let next = page["continue"].as_str().unwrap();
    let page = tour.ask("GET", &format!("/v1/addresses?continue={next}"), None, 200).await;
    assert_eq!((page["items"][0]["name"].as_str(), page.get("continue")), (Some("a2"), None));
    let page = tour.ask("GET", "/v1/addresses?limit=1&tenant=t1", None, 200).await;
    let next = format!("/v1/addresses?tenant=t1&continue={}", page["continue"].as_str().unwrap());
    assert_eq!(tour.ask("GET", &next, None, 200).await["items"][0]["name"], "a2");
    assert_eq!(count(tour.ask("GET", "/v1/blocks", None, 200).await), 2);
    let page = tour.ask("GET", "/v1/blocks?limit=1", None, 200).await;
    let next = format!("/v1/blocks?continue={}", page["continue"].as_str().unwrap());
    let rest = tour.ask("GET", &next, None, 200).await;
    assert_ne!(rest["items"][0]["cidr"], page["items"][0]["cidr"]);
    assert_eq!((count(page), count(rest)), (1, 1));
    assert_eq!(count(tour.ask("GET", "/v1/blocks?host=h2", None, 200).await), 1);
    assert_eq!(tour.ask("DELETE", "/v1/addresses/a2", None, 200).await["changed"], true);
    assert_eq!(tour.ask("DELETE", "/v1/addresses/a2", None, 200).await["changed"], false);
    let report = json!({"revision": 0, "running": ["a1"]});
    tour.ask("POST", "/v1/hosts/h1/report", Some(report), 200).await;
    let blackout = json!({"cidr": "10.111.128.0/24"});
    tour.ask("POST", "/v1/blackouts", Some(blackout.clone()), 201).await;
    assert_eq!(tour.ask("GET", "/v1/blackouts", None, 200).await["items"][0], blackout);
    tour.ask("DELETE", "/v1/blackouts?cidr=10.111.128.0/24", None, 200).await;
    let batch = json!([
        {"AllocateAddress": allocation("b1", "h1")},
        {"ReleaseAddress": {"address": "b1"}},
        {"RemoveVip": {"name": "none"}},
    ]);
    let results = tour.ask("POST", "/v1/batch", Some(batch), 200).await;
    assert_eq!(results[0]["answer"]["Address"]["fresh"], true);
    assert_eq!(results[1]["answer"]["Done"]["changed"], true);
    assert_eq!(results[2]["error"]["code"], "VipNotFound");
    tour.ask("POST", "/v1/batch", Some(json!([])), 200).await;
}

/// Of members added concurrently for one address under several names, only one is added; likewise for members
/// that replace the same one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_members_at_the_same_time_one_is_added() {
    let world = World::furnished().await;
    world.raise(2).await;
    let path = "/v1/cluster/members";
    for round in 0..8 {
        let port = 9700 + round;
        let names = ["127.0.0.1", "localhost", "127.1"]
            .map(|name| json!({"peer": format!("{name}:{port}")}));
        let answers = join_all(names.iter().map(|body| world.post(path, body))).await;
        let mut added: Vec<Value> = Vec::new();
        for answer in answers {
            match answer.status.as_u16() {
                201 => added.push(answer.json()["id"].clone()),
                status => assert_eq!(
                    (status, answer.json()["error"]["code"].clone()),
                    (409, json!("MemberExists"))
                ),
            }
        }
        assert_eq!(added.len(), 1, "round {round}: {added:?}");
        assert_eq!(world.delete(&format!("{path}/{}", added[0])).await.status, 200);
    }
    let instead =
        [1, 2, 3].map(|n| json!({"peer": format!("h{n}:9601"), "replaces": 1, "force": true}));
    let answers = join_all(instead.iter().map(|body| world.post(path, body))).await;
    let added = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(added, 1, "of three in the place of one");
    world.end().await;
}

/// Adds and removes a member that never starts.
async fn members(tour: &mut Tour<'_>) {
    let raise = json!([{"RaiseVersion": {"version": 2}}]);
    let refused = tour.ask("POST", "/v1/batch", Some(raise), 422).await;
    assert_eq!(refused["error"]["code"], "NotInBatch");
    tour.world.raise(2).await;
    let path = "/v1/cluster/members";
    let body = json!({"peer": "h4:9601"});
    let added = tour.ask("POST", path, Some(body.clone()), 201).await;
    assert_eq!((&added["id"], &added["peer"]), (&json!(2), &body["peer"]));
    assert!(added["start"].as_str().unwrap().contains("--advertise-peer h4:9601"), "{added}");
    tour.ask("POST", path, Some(body), 200).await;
    let strange = json!({"peer": "h5:9601", "replaces": 9});
    tour.ask("POST", path, Some(strange), 404).await;
    let needed = json!({"peer": "h5:9601", "replaces": 1});
    let refused = tour.ask("POST", path, Some(needed), 409).await;
    assert_eq!(refused["error"]["code"], "MemberNeeded");
    let members = tour.ask("GET", "/v1/cluster", None, 200).await["members"].clone();
    let own = members[0]["peer"].as_str().unwrap().replace("127.0.0.1", "localhost");
    let refused = tour.ask("POST", path, Some(json!({"peer": own})), 409).await;
    assert_eq!(refused["error"]["code"], "MemberExists");
    let refused = tour.ask("POST", path, Some(json!({"peer": "0.0.0.0:9601"})), 400).await;
    assert_eq!(refused["error"]["code"], "InvalidPeer");
    assert_eq!(tour.ask("DELETE", &format!("{path}/2"), None, 200).await["changed"], true);
    assert_eq!(tour.ask("DELETE", &format!("{path}/2"), None, 200).await["changed"], false);
    tour.ask("DELETE", &format!("{path}/9"), None, 404).await;
    let refused = tour.ask("DELETE", &format!("{path}/1?force=true"), None, 409).await;
    assert_eq!(refused["error"]["code"], "MemberNeeded");
    let instead = |peer| Some(json!({"peer": peer, "replaces": 1, "force": true}));
    let id = tour.ask("POST", path, instead("h6:9601"), 201).await["id"].clone();
    tour.ask("POST", path, instead("h6:9601"), 200).await;
    let refused = tour.ask("POST", path, instead("h7:9601"), 409).await;
    assert_eq!(
        (&refused["error"]["code"], &refused["error"]["details"]["by"]),
        (&json!("MemberReplaced"), &id)
    );
    assert_eq!(tour.ask("DELETE", &format!("{path}/{id}"), None, 200).await["changed"], true);
    assert_eq!(tour.ask("POST", "/v1/cluster/transfer", None, 200).await["leader"], 1);
    let strange = json!({"to": 9});
    tour.ask("POST", "/v1/cluster/transfer", Some(strange), 404).await;
    assert_eq!(tour.ask("POST", "/v1/cluster/resume", None, 200).await["changed"], false);
    let newest = json!(romana_statemachine::VERSION_MAX);
    assert_eq!(tour.ask("POST", "/v1/cluster/version", None, 200).await["version"], newest);
    let path = "/v1/cluster/version";
    let again = tour.ask("POST", path, Some(json!({"force": true})), 200).await;
    assert_eq!(again["changed"], false);
    let confirm = "/v1/kubernetes/confirm";
    tour.ask("POST", confirm, Some(json!({"cluster": "uid-1"})), 200).await;
    let followed = tour.ask("GET", "/v1/kubernetes", None, 200).await;
    assert_eq!(followed, json!({"cluster": "uid-1", "confirmed": true}));
    let again = tour.ask("POST", confirm, None, 200).await;
    assert_eq!(again["changed"], false, "the same cluster, and confirmed already");
}

/// Queries the holders of the address of `a1`, and the log.
async fn audit(tour: &mut Tour<'_>) {
    let log = "/v1/audit/log?type=AddressAllocated&name=a1";
    let log = tour.ask("GET", log, None, 200).await;
    let record = &log["items"][0];
    let given = &record["event"]["AddressAllocated"];
    let ip = given["ip"].as_str().unwrap();
    let who = tour.ask("GET", &format!("/v1/audit/who?ip={ip}"), None, 200).await;
    let held = &who["items"][0];
    assert_eq!((&held["name"], &held["host"]), (&given["name"], &given["host"]));
    assert_eq!(held["from"]["revision"], record["revision"]);
    let revision = record["revision"].as_u64().unwrap();
    for (at, holders) in [(revision - 1, 0), (revision, 1)] {
        let who = format!("/v1/audit/who?ip={ip}&at={at}");
        let who = tour.ask("GET", &who, None, 200).await;
        assert_eq!(who["items"].as_array().unwrap().len(), holders, "at {at}");
    }
    for (query, code) in [
        ("who?ip=x", "MalformedQuery"),
        ("who?ip=10.0.0.1&at=yesterday", "MalformedQuery"),
        ("log?type=Nothing", "MalformedQuery"),
        ("log?from=2001-01-01T00:00:00Z&to=x", "MalformedQuery"),
    ] {
        let refused = tour.ask("GET", &format!("/v1/audit/{query}"), None, 400).await;
        assert_eq!(refused["error"]["code"], code, "{query}");
    }
    let ahead = tour.ask("GET", &format!("/v1/audit/who?ip={ip}&at=999999"), None, 409).await;
    assert_eq!(ahead["error"]["code"], "RevisionAhead");
    let (mut from, mut seen) = (String::from("0"), 0);
    loop {
        let page = format!("/v1/audit/log?limit=3&to={revision}&continue={from}");
        let page = tour.ask("GET", &page, None, 200).await;
        seen += page["items"].as_array().unwrap().len() as u64;
        let Some(next) = page["continue"].as_str() else { break };
        from = next.into();
    }
    assert_eq!(seen, revision);
    past(tour, revision).await;
}

/// Queries the state before and after the record at that revision, and the export.
async fn past(tour: &mut Tour<'_>, revision: u64) {
    let state = async |tour: &mut Tour<'_>, at: u64| {
        tour.ask("GET", &format!("/v1/audit/state?at={at}"), None, 200).await
    };
    let before = state(tour, revision - 1).await;
    let after = state(tour, revision).await;
    let names = |state: &Value| -> Vec<String> {
        let all = state["addresses"].as_array().unwrap().iter();
        all.map(|address| address["name"].as_str().unwrap().into()).collect()
    };
    assert!(!names(&before).contains(&"a1".into()) && names(&after).contains(&"a1".into()));
    let diff = format!("/v1/audit/diff?from={}&to={revision}", revision - 1);
    let diff = tour.ask("GET", &diff, None, 200).await;
    assert_eq!(diff["changes"][0]["kind"], "block");
    assert_eq!(diff["changes"][0]["after"]["live"], 1);
    let address = diff["changes"].as_array().unwrap().last().unwrap();
    assert_eq!((&address["kind"], &address["before"]), (&json!("address"), &Value::Null));
    let verified = tour.ask("GET", "/v1/audit/verify", None, 200).await;
    assert_eq!(verified["agreed"], true, "{verified}");
    let live = tour.ask("GET", "/v1/digest", None, 200).await;
    assert_eq!(verified["replicas"][0]["digest"], live["digest"]);

    let export = tour.world.ask("GET", "/v1/audit/export", &[], "").await;
    tour.seen.insert(("GET".into(), "/v1/audit/export".into()));
    let text = String::from_utf8(export.body.to_vec()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [head, records @ .., end] = &lines[..] else { panic!("{text}") };
    assert_eq!((head["romana_history"].as_u64(), head["first"].as_u64()), (Some(1), Some(1)));
    assert_eq!(head["last"], records.len());
    let mut replayed = romana_statemachine::State::new();
    for record in records {
        replayed.follow(&serde_json::from_value(record.clone()).unwrap()).unwrap();
    }
    assert_eq!(end["end"]["digest"], json!(replayed.digest()));
    assert_eq!(end["end"]["state_digest"], json!(replayed.state_digest()));
    let late = tour.world.ask("GET", &format!("/v1/audit/export?from={revision}"), &[], "").await;
    let text = String::from_utf8(late.body.to_vec()).unwrap();
    let head: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert!(head["state"].is_string() && head["first"] == revision, "{head}");
}

async fn tenants_and_endpoints(tour: &mut Tour<'_>) {
    tour.ask("PUT", "/v1/tenants/t1", Some(json!({"labels": {"env": "prod"}})), 201).await;
    tour.ask("PUT", "/v1/tenants/t2", None, 201).await;
    tour.ask("PUT", "/v1/tenants/t1/segments/web", Some(json!({})), 201).await;
    tour.ask("GET", "/v1/tenants/t1/segments/web", None, 200).await;
    tour.ask("GET", "/v1/tenants/t1/segments", None, 200).await;
    let tenant = tour.ask("GET", "/v1/tenants/t1", None, 200).await;
    assert_eq!(tenant["segments"][0]["id"], "web");
    tour.ask("GET", "/v1/tenants", None, 200).await;
    tour.ask("DELETE", "/v1/tenants/t1/segments/web", None, 200).await;
    tour.ask("DELETE", "/v1/tenants/t2", None, 200).await;
    let ip =
        tour.ask("GET", "/v1/addresses/a1", None, 200).await["ip"].as_str().unwrap().to_owned();
    let endpoint = json!({"tenant": "t1", "segment": "s1", "host": "h1", "labels": {"app": "web"}});
    let path = format!("/v1/endpoints/{ip}");
    tour.ask("PUT", &path, Some(endpoint), 201).await;
    assert_eq!(tour.ask("GET", &path, None, 200).await["labels"]["app"], "web");
    assert_eq!(tour.ask("GET", "/v1/endpoints?tenant=t1", None, 200).await["items"][0]["ip"], ip);
    // No API server is followed.
    let followed = tour.ask("GET", "/v1/kubernetes", None, 200).await;
    assert_eq!(followed, json!({"cluster": null, "confirmed": false}));
    let pod = tour.ask("GET", "/v1/pods/t1/web-1/segment?uid=u1", None, 200).await;
    assert_eq!(pod, json!({"segment": "default", "known": false}));
}

async fn policies(tour: &mut Tour<'_>) {
    let policy = json!({
        "name": "policy1",
        "description": "web",
        "direction": "ingress",
        "applied_to": [{"tenant": "t1", "segment": "s1"}],
        "peers": [{"peer": "any"}],
        "rules": [{"protocol": "tcp", "ports": [22, 80, 443]}, {"protocol": "icmp"}],
    });
    let document = json!({"securitypolicies": [policy]});
    let explained = tour.ask("POST", "/v1/policies/check", Some(document.clone()), 200).await;
    assert_eq!(explained["policies"][0]["endpoints"], 1);
    assert_eq!(
        explained["policies"][0]["explanation"][1],
        "Inbound: opens TCP ports 22, 80, 443 and ICMP from anybody."
    );
    hosts_are_looked_at(tour).await;
    tour.ask("POST", "/v1/policies", Some(document), 201).await;
    assert_eq!(tour.ask("POST", "/v1/policies", Some(policy.clone()), 200).await["changed"], false);
    assert_eq!(tour.ask("GET", "/v1/policies/policy1", None, 200).await, policy);
    tour.ask("GET", "/v1/policies", None, 200).await;
    verdicts(tour).await;
    let mut second = policy;
    second.as_object_mut().unwrap().remove("name");
    tour.ask("PUT", "/v1/policies/policy2", Some(second), 201).await;
    tour.ask("DELETE", "/v1/policies/policy2", None, 200).await;
}

/// A policy that closes SSH to hosts: the answer says which hosts it applies to, what it closes, and what was not
/// evaluated.
async fn hosts_are_looked_at(tour: &mut Tour<'_>) {
    let policy = json!({
        "name": "hosts",
        "applied_to": [{"dest": "host"}, {"cidr": "172.16.0.0/16"}],
        "ingress": [],
    });
    let explained = tour.ask("POST", "/v1/policies/check", Some(policy), 200).await;
    let one = &explained["policies"][0];
    assert_eq!((&one["endpoints"], &one["hosts"]), (&json!(0), &json!(2)), "{one}");
    assert_eq!(one["ranges"], json!(["172.16.0.0/16"]));
    let changes = explained["changes"].as_array().unwrap();
    let from_outside = |change: &&Value| {
        change["source_range"] == "0.0.0.0/0" && change.get("destination_range").is_none()
    };
    let outside: Vec<_> = changes.iter().filter(from_outside).collect();
    assert!(outside.len() >= 2, "{explained}");
    let closes = json!(["tcp/1-9599", "tcp/9602-65535", "udp", "sctp", "icmp", "other protocols"]);
    assert!(outside.iter().all(|change| change["closes"] == closes), "{outside:?}");
    assert_eq!(explained["not_looked_at"], json!(["addresses of blocks that are not allocated"]));
}

/// By name and by address; refuses invalid addresses and ports, and mixed address families.
async fn verdicts(tour: &mut Tour<'_>) {
    for (traffic, allowed) in
        [("tcp/80", true), ("tcp/81", false), ("icmp", true), ("other", false)]
    {
        let path = format!("/v1/verdict?source=h2&destination=a1&traffic={traffic}");
        let verdict = tour.ask("GET", &path, None, 200).await;
        assert_eq!(verdict["allowed"], allowed, "{verdict}");
        assert_eq!(verdict["source"]["kind"], "host");
        assert_eq!(verdict["destination"]["tenant"], "t1");
        assert_eq!(verdict["ingress"]["isolating"], json!(["policy1"]));
    }
    for (source, destination, traffic) in [
        ("nobody", "a1", "tcp/80"),
        ("h2", "a1", "tcp/0"),
        ("h2", "a1", "tcp"),
        ("fd00::1", "a1", "tcp/80"),
    ] {
        let query = format!("source={source}&destination={destination}&traffic={traffic}");
        let refused = tour.ask("GET", &format!("/v1/verdict?{query}"), None, 400).await;
        assert_eq!(refused["error"]["code"], "MalformedQuery", "{query}: {refused}");
    }
}

async fn vips_and_views(tour: &mut Tour<'_>) {
    let vip = json!({"ip": "192.168.99.101", "candidates": ["h1"]});
    for malformed in [
        json!({}),
        json!({"auto": true, "ip": "192.168.99.101"}),
        json!({"ip": "192.168.99.101", "pool": "edge"}),
        json!({"ip": "192.168.99.101", "family": "ipv4"}),
    ] {
        let refused = tour.ask("PUT", "/v1/vips/web.default", Some(malformed), 400).await;
        assert_eq!(refused["error"]["code"], "MalformedBody");
    }
    tour.ask("PUT", "/v1/vips/web.default", Some(vip.clone()), 201).await;
    tour.ask("PUT", "/v1/vips/web.default", Some(vip), 200).await;
    for ms in [500, 1000] {
        let settings = tour.ask("PATCH", "/v1/settings", Some(json!({"vip_lease_ms": ms})), 200);
        assert_eq!(settings.await["vip_lease_ms"], ms);
    }
    // Pools come with version 4.
    let pools = json!({"pools": [{"name": "edge", "ranges": ["192.168.98.0/28"]}]});
    let auto = json!({"auto": true, "pool": "edge"});
    for (target, body) in [("/v1/vip-pools", pools), ("/v1/vips/pooled", auto)] {
        let refused = tour.ask("PUT", target, Some(body), 409).await;
        assert_eq!(refused["error"]["code"], "VersionTooLow");
    }
    let pools = tour.ask("GET", "/v1/vip-pools", None, 200).await;
    assert_eq!(pools["items"], json!([]));
    // In a batch, what is refused does not block the other commands.
    let pooled = json!({"RequestVipFromPool": {"name": "pooled"}});
    let batch = json!([pooled, {"CreateTenant": {"id": "beside", "labels": {}}}, pooled]);
    let results = tour.ask("POST", "/v1/batch", Some(batch), 200).await;
    let codes = [0, 1, 2].map(|at| results[at]["error"]["code"].clone());
    assert_eq!(codes, [json!("VersionTooLow"), Value::Null, json!("VersionTooLow")]);
    assert_eq!(results[1]["answer"]["Done"]["changed"], true, "{results}");
    tour.ask("DELETE", "/v1/tenants/beside", None, 200).await;
    tour.ask("GET", "/v1/vips/web.default", None, 200).await;
    tour.ask("GET", "/v1/vips", None, 200).await;
    for view in ["host:h1", "router", "group:10.111.0.0/16"] {
        tour.ask("GET", &format!("/v1/routes?for={view}"), None, 200).await;
    }
    let beat = json!({"version": "1", "revision": 1, "applied": 1, "problems": []});
    tour.ask("POST", "/v1/hosts/h1/heartbeat", Some(beat), 200).await;
    tour.ask("GET", "/v1/heartbeats", None, 200).await;
    let agent = json!({"instance": "a1", "replaces": null});
    let refused = tour.ask("POST", "/v1/hosts/h1/agent", Some(agent), 409).await;
    assert_eq!(refused["error"]["code"], "VersionTooLow");
    let renewal =
        json!({"instance": "a1", "run": 7, "sequence": 1, "subnets": ["192.168.99.0/24"]});
    let refused = tour.ask("POST", "/v1/hosts/h1/vips", Some(renewal), 409).await;
    assert_eq!(refused["error"]["code"], "VersionTooLow");
    tour.ask("GET", "/v1/leases", None, 200).await;
    let found = tour.ask("GET", "/v1/ipam/check", None, 200).await;
    assert_eq!(found["items"][0]["code"], "AddressesUnverified");
    let snapshot = tour.ask("GET", "/v1/snapshot", None, 200).await;
    assert_eq!(snapshot["addresses"][0]["name"], "a1");
    assert_eq!(snapshot["vips"][0]["name"], "web.default");
    let snapshot = tour.ask("GET", "/v1/snapshot?topics=hosts,vips", None, 200).await;
    let members: Vec<&String> = snapshot.as_object().unwrap().keys().collect();
    assert_eq!(members, ["at", "conflicts", "digest", "hosts", "revision", "vips"]);
    let digest = tour.ask("GET", "/v1/digest", None, 200).await;
    assert_eq!(digest["digest"], snapshot["digest"]);
    tour.ask("DELETE", "/v1/vips/web.default", None, 200).await;
    let endpoint = tour.ask("GET", "/v1/endpoints", None, 200).await["items"][0]["ip"].clone();
    let endpoint = format!("/v1/endpoints/{}", endpoint.as_str().unwrap());
    tour.ask("DELETE", &endpoint, None, 200).await;
}

async fn romana2(tour: &mut Tour<'_>) {
    let ask = json!({"name": "port-1", "host": "h1", "tenant": "project", "segment": "default"});
    let ip = tour.ask("POST", "/address", Some(ask.clone()), 200).await;
    assert_eq!(tour.ask("POST", "/address", Some(ask), 200).await, ip);
    let target = format!("/address?addressName={}", ip.as_str().unwrap());
    for _ in 0..2 {
        assert_eq!(tour.ask("DELETE", &target, None, 200).await, Value::Null);
    }
    let target = format!("/address?addressIP={}", ip.as_str().unwrap());
    assert_eq!(tour.ask("DELETE", &target, None, 200).await, Value::Null);
    tour.ask("DELETE", "/address", None, 400).await;
    let networks = tour.ask("GET", "/networks", None, 200).await;
    assert_eq!(networks[0]["id"], "net1");
    assert!(tour.ask("GET", "/networks/net1/blocks", None, 200).await["blocks"].is_array());
    let error = tour.ask("GET", "/networks/none/blocks", None, 404).await;
    assert_eq!(
        (&error["resource_type"], &error["resource_id"]),
        (&json!("network"), &json!("none"))
    );
    tour.ask("GET", "/blocks", None, 200).await;
    let topology = tour.ask("GET", "/topology", None, 200).await;
    assert_eq!(tour.ask("POST", "/topology", Some(topology), 200).await, Value::Null);
    let host = json!({"name": "h4", "ip": "192.168.0.4", "tags": {"rack": "9"}});
    for _ in 0..2 {
        tour.ask("POST", "/hosts", Some(host.clone()), 200).await;
    }
    let hosts = tour.ask("GET", "/hosts", None, 200).await;
    assert_eq!(hosts["hosts"][2]["tags"]["rack"], "9");
    let policy = json!({
        "id": "p2",
        "direction": "ingress",
        "applied_to": [{"tenant_id": "t1", "segment_id": "s1"}],
        "ingress": [{"peers": [{"peer": "any"}], "rules": [{"protocol": "TCP", "ports": [80]}]}],
    });
    tour.ask("POST", "/policies", Some(policy), 200).await;
    let shown = tour.ask("GET", "/policies/p2", None, 200).await;
    assert_eq!((&shown["id"], &shown["applied_to"][0]["tenant_id"]), (&json!("p2"), &json!("t1")));
    assert_eq!(shown["ingress"][0]["rules"][0]["ports"], json!([80]));
    tour.ask("GET", "/policies", None, 200).await;
    tour.ask("DELETE", "/policies", Some(json!({"id": "p2"})), 200).await;
    let numbered = json!({"id": 7, "applied_to": [{"tenant_id": "t1"}], "ingress": []});
    tour.ask("POST", "/policies", Some(numbered.clone()), 200).await;
    tour.ask("DELETE", "/policies", Some(json!({"id": 7})), 200).await;
    tour.ask("POST", "/v1/policies", Some(numbered), 201).await;
    tour.ask("DELETE", "/v1/policies/7", None, 200).await;
    tour.ask("DELETE", "/policies/p2", None, 404).await;
    tour.ask("DELETE", "/policies/policy1", None, 200).await;
    tour.ask("DELETE", "/policies", None, 400).await;
}

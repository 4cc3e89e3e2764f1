//! Every class of error: status, code, and no effect.

use serde_json::json;

use super::world::{World, allocation};

const JSON: (&str, &str) = ("content-type", "application/json");

/// Method, target, headers, body; status and code.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str, u16, &'a str);

const ASK: &str = r#"{"name": "a", "host": "h1", "tenant": "t1", "segment": "s1"}"#;

const ALICE: (&str, &str) = ("x-romana-actor", "alice");
const SECOND: (&str, &str) = ("x-romana-timeout-ms", "1000");
const TWO: &str = "MalformedHeader";
const RUNNING_NOTHING: &str = r#"{"revision": 1, "running": [""]}"#;

const CASES: &[Case<'static>] = &[
    ("POST", "/v1/addresses", &[JSON], "{", 400, "MalformedBody"),
    ("POST", "/v1/addresses", &[JSON], "", 400, "MalformedBody"),
    ("POST", "/v1/addresses", &[JSON], "{\"name\":1}", 400, "MalformedBody"),
    ("POST", "/v1/addresses", &[("content-type", "text/plain")], ASK, 415, "UnsupportedMediaType"),
    ("POST", "/v1/addresses", &[JSON, ("accept", "text/html")], ASK, 406, "NotAcceptable"),
    ("POST", "/v1/addresses", &[JSON, ("x-romana-actor", "a b")], ASK, 400, "MalformedHeader"),
    ("POST", "/v1/addresses", &[JSON, ("x-romana-timeout-ms", "x")], ASK, 400, "MalformedHeader"),
    ("POST", "/v1/batch", &[JSON], "[{\"Nothing\":{}}]", 400, "MalformedBody"),
    ("POST", "/v1/batch", &[JSON], "[{\"SetRetention\":[null,null]}]", 400, "MalformedBody"),
    ("POST", "/v1/hosts", &[JSON], "[\"h9\",\"192.168.0.9\"]", 400, "MalformedBody"),
    ("PATCH", "/v1/settings", &[JSON], "[1,2,3,4,5,6,7]", 400, "MalformedBody"),
    ("POST", "/v1/hosts/h1/report", &[JSON], "[1,null,[],null]", 400, "MalformedBody"),
    ("POST", "/v1/hosts/h1/report", &[JSON], RUNNING_NOTHING, 400, "InvalidName"),
    ("POST", "/v1/addresses", &[JSON, ALICE, ("x-romana-actor", "bob")], ASK, 400, TWO),
    ("POST", "/v1/addresses", &[JSON, SECOND, ("x-romana-timeout-ms", "9")], ASK, 400, TWO),
    ("POST", "/v1/addresses", &[JSON, ("content-type", "text/plain")], ASK, 400, TWO),
    ("GET", "/v1/hosts", &[("host", "another")], "", 400, TWO),
    (
        "POST",
        "/v1/addresses",
        &[JSON, ("content-encoding", "gzip")],
        ASK,
        415,
        "UnsupportedMediaType",
    ),
    ("GET", "/v1/events?from=1", &[("last-event-id", "1"), ("last-event-id", "2")], "", 400, TWO),
    ("POST", "/v1/addresses", &[JSON, ("origin", "http://evil.example")], ASK, 403, "CrossSite"),
    ("POST", "/v1/addresses", &[JSON, ("sec-fetch-site", "cross-site")], ASK, 403, "CrossSite"),
    ("POST", "/v1/cluster/resume", &[("origin", "null")], "", 403, "CrossSite"),
    ("DELETE", "/v1/hosts/h1?force=true", &[("origin", "http://evil")], "", 403, "CrossSite"),
    (
        "POST",
        "/v1/cluster/resume",
        &[("content-type", "text/plain")],
        "a=b",
        415,
        "UnsupportedMediaType",
    ),
    ("GET", "/v1/addresses?host=%ff", &[], "", 400, "MalformedQuery"),
    ("GET", "/v1/addresses?host=h%C3", &[], "", 400, "MalformedQuery"),
    ("GET", "/v1/addresses?host=50%", &[], "", 400, "MalformedQuery"),
    ("GET", "/v1/none", &[], "", 404, "PathNotFound"),
    ("PUT", "/v1/addresses", &[JSON], "{}", 405, "MethodNotAllowed"),
    ("GET", "/v1/addresses?limit=0", &[], "", 400, "MalformedQuery"),
    ("GET", "/v1/addresses?limit=x", &[], "", 400, "MalformedQuery"),
    ("GET", "/v1/addresses?continue=x", &[], "", 400, "MalformedQuery"),
    ("GET", "/v1/addresses?colour=red", &[], "", 400, "MalformedQuery"),
    ("GET", "/v1/addresses?host=a&host=b", &[], "", 400, "MalformedQuery"),
    ("GET", "/v1/hosts?consistency=mostly", &[], "", 400, "MalformedQuery"),
    ("GET", "/v1/hosts/%ff", &[], "", 400, "MalformedPath"),
    ("GET", "/v1/routes", &[], "", 400, "MalformedQuery"),
    ("GET", "/v1/routes?for=moon", &[], "", 400, "MalformedQuery"),
    ("GET", "/v1/routes?for=group:10.9.0.0/16", &[], "", 404, "GroupNotFound"),
    ("GET", "/v1/events?topics=moon", &[], "", 400, "MalformedQuery"),
    ("GET", "/v1/events?from=999999", &[], "", 409, "RevisionAhead"),
    ("GET", "/v1/addresses/none", &[], "", 404, "AddressNotFound"),
    ("GET", "/v1/endpoints/10.0.0.1", &[], "", 404, "EndpointNotFound"),
    ("GET", "/v1/endpoints/none", &[], "", 400, "MalformedPath"),
    ("GET", "/v1/networks/none", &[], "", 404, "NetworkNotFound"),
    ("DELETE", "/v1/hosts/none", &[], "", 404, "HostNotFound"),
    ("DELETE", "/v1/blackouts", &[], "", 400, "MalformedQuery"),
    ("POST", "/v1/cluster/resume", &[JSON], "{\"now\":true}", 413, "BodyTooLarge"),
    (
        "PATCH",
        "/v1/hosts/h1",
        &[JSON],
        "{\"state\":\"up\",\"ip\":\"1.2.3.4\"}",
        400,
        "MalformedBody",
    ),
    ("PUT", "/v1/policies/p", &[JSON], "{\"name\":\"q\",\"applied_to\":[]}", 400, "MalformedBody"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_have_their_status_and_code() {
    let world = World::furnished().await;
    let before = world.replica.state().revision();
    let deep = "[".repeat(200_000);
    let large = "x".repeat((4 << 20) + 1);
    let special: [Case<'_>; 3] = [
        ("POST", "/v1/addresses", &[JSON], &deep, 400, "MalformedBody"),
        ("POST", "/v1/addresses", &[JSON], &large, 413, "BodyTooLarge"),
        (
            "POST",
            "/v1/addresses",
            &[("content-type", "text/plain")],
            &large,
            415,
            "UnsupportedMediaType",
        ),
    ];
    for (method, target, headers, body, status, code) in special.iter().chain(CASES) {
        let answer = world.ask(method, target, headers, body.to_string()).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (*status, *code),
            "{method} {target}"
        );
        assert!(answer.headers.contains_key("x-romana-revision"), "{method} {target}");
        let error = &answer.json()["error"];
        assert!(!error["message"].as_str().unwrap().is_empty());
        assert!(!error["hint"].as_str().unwrap().is_empty());
        assert!(error["details"].is_object());
    }
    assert_eq!(world.replica.state().revision(), before);
    let answer = world.ask("PUT", "/v1/addresses", &[JSON], "{}").await;
    assert_eq!(answer.headers["allow"], "POST,GET,HEAD");
    let nested =
        json!({"networks": [{"name": "n", "cidr": "10.0.0.0/8", "colour": 1}], "topologies": []});
    let answer = world.put("/v1/topology", &nested).await;
    assert_eq!(answer.json()["error"]["details"]["field"], "networks[0].colour");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_have_the_status_of_their_kind() {
    let world = World::furnished().await;
    assert_eq!(world.post("/v1/addresses", &allocation("a", "h1")).await.status, 201);
    let conflict = world.post("/v1/addresses", &allocation("a", "h2")).await;
    assert_eq!((conflict.status.as_u16(), conflict.code().as_str()), (409, "AddressNameInUse"));
    assert_eq!(conflict.json()["error"]["details"]["host"], "h1");
    let used = world.delete("/v1/hosts/h1").await;
    assert_eq!((used.status.as_u16(), used.code().as_str()), (409, "HostInUse"));
    let outside = world.post("/v1/blackouts", &json!({"cidr": "172.16.0.0/16"})).await;
    assert_eq!((outside.status.as_u16(), outside.code().as_str()), (422, "OutsideNetworks"));
    let malformed = world.post("/v1/blackouts", &json!({"cidr": "10.111.0.0"})).await;
    assert_eq!((malformed.status.as_u16(), malformed.code().as_str()), (400, "InvalidCidr"));
    let small = |n: usize| json!({"name": format!("s{n}"), "host": "h1", "tenant": "small", "segment": "s", "network": "tiny"});
    for n in 0..4 {
        assert_eq!(world.post("/v1/addresses", &small(n)).await.status, 201);
    }
    let exhausted = world.post("/v1/addresses", &small(4)).await;
    assert_eq!((exhausted.status.as_u16(), exhausted.code().as_str()), (507, "NetworkExhausted"));
    let forced = world.delete("/v1/hosts/h1?force=true").await;
    assert_eq!(forced.json()["changed"], true);
    let actor = [("content-type", "application/json"), ("x-romana-actor", "alice")];
    let body = allocation("b", "h2").to_string();
    assert_eq!(world.ask("POST", "/v1/addresses", &actor, body).await.status, 201);
    let last = world.replica.state().revision();
    let records = world.replica.history().read(last, 1, 1 << 20).unwrap();
    assert_eq!(records[0].actor.as_str(), "alice");
    let metrics = world.get("/metrics").await;
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    assert!(text.contains("romanad_refusals_total{code=\"NetworkExhausted\"} 1"), "{text}");
    assert!(text.contains("romanad_raft_is_leader 1"), "{text}");
    // Four of four in `tiny`: all of them cool down since the host was evicted.
    for gauge in ["addresses", "cooling", "capacity", "fullest_group"] {
        let line = format!("romanad_network_{gauge}{{network=\"tiny\"}}");
        assert!(text.contains(&line), "{line}: {text}");
    }
    assert!(text.contains("romanad_network_capacity{network=\"tiny\"} 4"), "{text}");
    assert!(text.contains("romanad_wal_sync_seconds_bucket"), "{text}");
    assert!(text.contains("romanad_history_damaged_reads 0"), "{text}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_replica_says_that_nothing_happened() {
    let world = World::furnished().await;
    world.replica.clone().shutdown().await;
    let headers = [JSON, ("x-romana-timeout-ms", "200")];
    let body = allocation("a", "h1").to_string();
    let answer = world.ask("POST", "/v1/addresses", &headers, body).await;
    assert_eq!(answer.status, 503);
    assert!(["Unavailable", "OutcomeUnknown"].contains(&answer.code().as_str()));
    assert_eq!(answer.headers["retry-after"], "1");
    let read = world.ask("GET", "/v1/hosts", &[("x-romana-timeout-ms", "200")], "").await;
    assert_eq!((read.status.as_u16(), read.code().as_str()), (503, "Unavailable"));
    assert_eq!(world.get("/v1/hosts?consistency=local").await.status, 200);
    world.end().await;
}

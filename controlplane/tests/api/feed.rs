//! The feed over HTTP: catching up, following, resuming, bookmarks, filters, and its end.

use romana_statemachine::Revision;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::time::timeout;

use super::world::{World, allocation};

/// Reads the lines of a feed as they arrive.
struct Lines {
    body: Incoming,
    text: String,
}

impl Lines {
    async fn open(world: &World, target: &str, headers: &[(&str, &str)]) -> Self {
        let mut request = Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = world.send(request.body(Full::new(Bytes::new())).unwrap()).await;
        assert_eq!(response.status(), 200);
        Self { body: response.into_body(), text: String::new() }
    }

    /// The next non-empty line; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some((line, rest)) = self.text.split_once('\n') {
                let (line, rest) = (line.to_owned(), rest.to_owned());
                self.text = rest;
                if line.is_empty() {
                    continue;
                }
                return Some(line);
            }
            let frame = timeout(Duration::from_secs(20), self.body.frame()).await.unwrap()?;
            let data = frame.unwrap().into_data().unwrap();
            self.text.push_str(std::str::from_utf8(&data).unwrap());
        }
    }

    async fn record(&mut self) -> Value {
        serde_json::from_str(&self.next().await.unwrap()).unwrap()
    }
}

const NDJSON: (&str, &str) = ("accept", "application/x-ndjson");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_catches_up_and_goes_on() {
    let world = World::furnished().await;
    let mut lines = Lines::open(&world, "/v1/events?from=0", &[NDJSON]).await;
    for revision in 1..=3 {
        assert_eq!(lines.record().await["revision"], revision);
    }
    assert_eq!(lines.record().await["bookmark"]["revision"], 3);
    world.post("/v1/addresses", &allocation("a", "h1")).await;
    assert!(lines.record().await["event"]["BlockAssigned"].is_object());
    assert_eq!(lines.record().await["event"]["AddressAllocated"]["name"], "a");
    // Idle again: a bookmark arrives within the interval.
    let bookmark = loop {
        let line = lines.record().await;
        if let Some(bookmark) = line.get("bookmark") {
            break bookmark["revision"].clone();
        }
    };
    assert_eq!(bookmark, 5);
    drop(lines);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_sent_events_resume_where_they_were() {
    let world = World::furnished().await;
    let mut lines = Lines::open(&world, "/v1/events?from=0", &[("last-event-id", "2")]).await;
    assert_eq!(lines.next().await.unwrap(), "id: 3");
    assert_eq!(lines.next().await.unwrap(), "event: HostAdded");
    assert!(lines.next().await.unwrap().starts_with("data: {\"revision\":3,"));
    assert_eq!(lines.next().await.unwrap(), "id: 3");
    assert_eq!(lines.next().await.unwrap(), "event: bookmark");
    drop(lines);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_leave_out_what_does_not_concern() {
    let world = World::furnished().await;
    let target = "/v1/events?from=3&topics=addresses,hosts&host=h2";
    let mut lines = Lines::open(&world, target, &[NDJSON]).await;
    assert_eq!(lines.record().await["bookmark"]["revision"], 3);
    for (name, host) in [("a", "h1"), ("b", "h2"), ("c", "h1")] {
        world.post("/v1/addresses", &allocation(name, host)).await;
    }
    world.delete("/v1/hosts/h1?force=true").await;
    assert_eq!(lines.record().await["event"]["AddressAllocated"]["name"], "b");
    // A release concerns every host, wherever the address was.
    let mut released = Vec::new();
    let removed = loop {
        let line = lines.record().await;
        if let Some(event) = line["event"].get("AddressReleased") {
            released.push(event["name"].clone());
        } else if line.get("bookmark").is_none() {
            break line;
        }
    };
    assert_eq!(released, ["a", "c"]);
    assert_eq!(removed["event"]["HostRemoved"]["name"], "h1");
    drop(lines);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_server_ends_feeds_with_a_bookmark() {
    let world = World::furnished().await;
    let mut lines = Lines::open(&world, "/v1/events?from=3", &[NDJSON]).await;
    assert_eq!(lines.record().await["bookmark"]["revision"], 3);
    let server = world.server.clone();
    let drain = tokio::spawn(async move { server.drain().await });
    assert_eq!(lines.record().await["bookmark"]["revision"], 3);
    assert_eq!(lines.next().await, None);
    drain.await.unwrap();
    assert_eq!(world.server.open(), 0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_kept_is_gone_and_said_so() {
    let world = World::tuned(|tuning| tuning.feed_bytes = 1).await;
    for name in ["a", "b", "c"] {
        let tenant = serde_json::json!({"labels": {}});
        assert_eq!(world.put(&format!("/v1/tenants/{name}"), &tenant).await.status, 201);
        world.replica.history().close_segment().unwrap();
    }
    assert_eq!(world.replica.history().purge_before(Revision(2)).unwrap(), 3);
    for headers in [&[NDJSON][..], &[][..], &[("last-event-id", "1")][..]] {
        let gone = world.ask("GET", "/v1/events?from=1", headers, "").await;
        assert_eq!((gone.status.as_u16(), gone.code().as_str()), (410, "RevisionCompacted"));
        assert_eq!(gone.json()["error"]["details"]["oldest"], 3);
    }
    let mut lines = Lines::open(&world, "/v1/events?from=2", &[NDJSON]).await;
    assert_eq!(lines.record().await["revision"], 3);
    drop(lines);
    world.end().await;
}

/// Older agents would stop permanently at an event that they do not know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_later_versions_go_to_those_who_say_what_they_know() {
    let world = World::furnished().await;
    for version in 2..=4 {
        world.raise(version).await;
    }
    let ranges = serde_json::json!({"service_ranges": ["172.20.0.0/16"]});
    assert_eq!(world.json("PATCH", "/v1/settings", &ranges).await.status, 200);
    world.post("/v1/addresses", &allocation("a", "h1")).await;
    let target = "/v1/events?from=6&topics=topology,addresses";
    let of_host = &format!("{target}&host=h1");
    let knows = |version| [NDJSON, ("x-romana-version", version)];
    let first = async |target: &str, headers: &[(&str, &str)]| {
        Lines::open(&world, target, headers).await.record().await
    };
    let spared = first(of_host, &[NDJSON]).await;
    assert_eq!(spared["event"]["AddressAllocated"]["name"], "a");
    for (target, headers) in
        [(target, &[NDJSON][..]), (of_host, &knows("4")), (of_host, &knows("5"))]
    {
        let told = first(target, headers).await;
        assert!(told["event"]["ServicesReserved"].is_object(), "{target} {headers:?}: {told}");
        let [since, topic, optional] = ["since", "topic", "optional"].map(|key| &told[key]);
        assert_eq!((since, topic, optional), (&4.into(), &"topology".into(), &true.into()));
        let known: romana_statemachine::Record = serde_json::from_value(told).unwrap();
        assert_eq!(known.revision, 7);
    }
    assert_eq!(world.ask("GET", of_host, &knows("new"), "").await.code(), "MalformedHeader");
    world.end().await;
}

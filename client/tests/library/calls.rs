//! The library against a server that misbehaves: retries and error messages.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{Act, Fake, client};
use futures_util::future::join_all;
use romana_client::{Client, ClientConfig, Error, Server};
use romana_statemachine::command::AllocateAddress;
use serde_json::Value;

const ALLOCATED: &str = r#"{"revision":7,"answer":{"Address":{"allocation":{"name":"a",
    "ip":"10.0.0.1","block":"10.0.0.0/29","network":"n","host":"h","tenant":"t","segment":"s",
    "revision":7},"fresh":true}}}"#;
const DONE: &str = r#"{"revision":8,"answer":{"Done":{"changed":true}}}"#;
const REFUSED: &str = r#"{"error":{"code":"HostNotFound","message":"no host h","hint":"add it",
    "details":{"host":"h"}}}"#;

fn ask(name: &str) -> AllocateAddress {
    AllocateAddress {
        name: name.into(),
        host: "h".into(),
        tenant: "t".into(),
        segment: "s".into(),
        network: None,
        ip: None,
    }
}

/// A server address without a listener.
fn nobody() -> Server {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    Server::parse("127.0.0.1", port).unwrap()
}

#[tokio::test]
async fn a_busy_server_is_asked_again() {
    let fake = Fake::start(None, |number, _| match number {
        0 => Act::Reply(503, "Retry-After: 1\r\n", REFUSED.into()),
        1 => Act::Reply(429, "Retry-After: 1\r\n", "not ours".into()),
        _ => Act::ok(format!("[{DONE}]")),
    })
    .await;
    // Not idempotent, but the failed attempts had no effect.
    let done = fake.client().remove_host("h".into(), false).await.unwrap();
    assert!(done.changed && done.revision == 8);
    assert_eq!(fake.seen().len(), 3);
}

/// A refusal after a lost attempt is ambiguous: the first attempt may have been committed.
#[tokio::test]
async fn a_refusal_after_a_lost_attempt_is_unknown() {
    for lost in [|| Act::Cut, || Act::status(504, r#"{"error":{"code":"OutcomeUnknown"}}"#)] {
        let refused = |_: &_| Act::ok(format!("[{REFUSED}]"));
        let fake = Fake::start(None, move |number, seen| match number {
            0 => lost(),
            _ => refused(seen),
        })
        .await;
        let error = fake.client().allocate(ask("a")).await.unwrap_err();
        let Error::Unknown { source: Some(source), .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.to_string(), "no host h", "the refusal is its detail");
        assert_eq!(fake.seen().len(), 2);
        // A request without a batch, as the CLI sends them.
        let fake = Fake::start(None, move |number, _| match number {
            0 => lost(),
            _ => Act::status(404, REFUSED),
        })
        .await;
        let body = serde_json::json!({});
        let client = fake.client();
        let sent = client.send::<Value>(hyper::Method::PUT, "/v1/x", Some(&body), true);
        let error = sent.await.unwrap_err();
        assert!(matches!(error, Error::Unknown { source: Some(_), .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_refusal_after_attempts_that_did_not_happen_is_one() {
    let fake = Fake::start(None, |number, _| match number {
        0 => Act::Reply(503, "", r#"{"error":{"code":"Busy","message":"queue full"}}"#.into()),
        _ => Act::ok(format!("[{REFUSED}]")),
    })
    .await;
    let error = fake.client().allocate(ask("a")).await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error:?}");
}

/// After a batch with a non-idempotent command was lost, a refusal of the other commands is ambiguous.
#[tokio::test]
async fn what_shared_a_lost_batch_is_unknown_when_it_is_refused() {
    let fake = Fake::start(None, |_, seen| match seen.body.contains("RemoveHost") {
        true => Act::Cut,
        false => Act::ok(format!("[{REFUSED}]")),
    })
    .await;
    let client = fake.client();
    let (_, allocated) =
        tokio::join!(client.remove_host("h".into(), false), client.allocate(ask("a")));
    let together = fake
        .seen()
        .iter()
        .any(|seen| seen.body.contains("RemoveHost") && seen.body.contains("AllocateAddress"));
    assert_eq!(matches!(allocated, Err(Error::Unknown { .. })), together, "{allocated:?}");
}

#[tokio::test]
async fn another_server_is_asked_at_once() {
    let full = || {
        Act::Reply(
            503,
            "Retry-After: 5\r\n",
            r#"{"error":{"code":"Unavailable","message":"disk full"}}"#.into(),
        )
    };
    let first = Fake::start(None, move |_, _| full()).await;
    let second = Fake::start(None, |_, _| Act::ok(format!("[{DONE}]"))).await;
    // Which one is asked first is random.
    for _ in 0..8 {
        let servers = vec![first.server(), second.server()];
        let client = Client::new(ClientConfig {
            timeout: Duration::from_secs(4),
            ..ClientConfig::new(servers)
        });
        assert!(client.unwrap().remove_host("h".into(), false).await.unwrap().changed);
    }
    assert!(!first.seen().is_empty(), "both were asked");
}

#[tokio::test]
async fn who_asks_and_how_long_is_said() {
    let fake = Fake::start(None, |_, _| Act::ok(format!("[{DONE}]"))).await;
    fake.client().remove_host("h".into(), true).await.unwrap();
    let seen = &fake.seen()[0];
    assert_eq!(seen.line, "POST /v1/batch HTTP/1.1");
    assert!(seen.head.contains("x-romana-actor: tester"));
    assert!(seen.head.contains("x-romana-timeout-ms: 4"), "{}", seen.head);
    assert_eq!(seen.body, r#"[{"RemoveHost":{"name":"h","force":true}}]"#);
}

#[tokio::test]
async fn what_must_not_happen_twice_is_not_sent_twice() {
    for act in [|| Act::Cut, || Act::status(500, "oops"), || Act::ok("[{"), || Act::ok("[]")] {
        let fake = Fake::start(None, move |_, _| act()).await;
        let error = fake.client().remove_host("h".into(), false).await.unwrap_err();
        assert!(matches!(error, Error::Unknown { .. }), "{error:?}");
        assert_eq!(fake.seen().len(), 1);
    }
}

#[tokio::test]
async fn an_allocation_is_repeated_until_there_is_an_answer() {
    let half = format!("HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n[{ALLOCATED}");
    let fake = Fake::start(None, move |number, _| match number {
        0 => Act::Cut,
        1 => Act::Raw(half.clone()),
        2 => Act::Stall,
        3 => Act::status(503, r#"{"error":{"code":"OutcomeUnknown","message":"?"}}"#),
        _ => Act::ok(format!("[{ALLOCATED}]")),
    })
    .await;
    let allocation = fake.client().allocate(ask("a")).await.unwrap();
    assert_eq!(allocation.ip.to_string(), "10.0.0.1");
    assert_eq!(fake.seen().len(), 5);
}

#[tokio::test]
async fn each_command_of_a_batch_has_its_own_outcome() {
    let fake = Fake::start(None, |_, seen| {
        let commands: Vec<Value> = serde_json::from_str(&seen.body).unwrap();
        let answers: Vec<String> = commands
            .iter()
            .map(|command| match command["AllocateAddress"]["name"].as_str() {
                Some("bad") => REFUSED.into(),
                _ => ALLOCATED.into(),
            })
            .collect();
        Act::ok(format!("[{}]", answers.join(",")))
    })
    .await;
    let client = fake.client();
    let (good, bad) = tokio::join!(client.allocate(ask("good")), client.allocate(ask("bad")));
    assert!(good.is_ok());
    let Err(Error::Refused(error)) = bad else { panic!("{bad:?}") };
    assert_eq!((error.code.as_str(), error.status), ("HostNotFound", 404));
    assert_eq!((error.hint.as_str(), error.details["host"].as_str()), ("add it", Some("h")));
}

#[tokio::test]
async fn one_that_must_not_be_repeated_does_not_keep_others_from_it() {
    let fake = Fake::start(None, |number, seen| match number {
        // Fails every batch that contains `RemoveHost`.
        _ if seen.body.contains("RemoveHost") => Act::Cut,
        _ => {
            let count = seen.body.matches("AllocateAddress").count();
            Act::ok(format!("[{}]", vec![ALLOCATED; count].join(",")))
        }
    })
    .await;
    let client = fake.client();
    let (removed, allocated) =
        tokio::join!(client.remove_host("h".into(), false), client.allocate(ask("a")));
    assert!(matches!(removed, Err(Error::Unknown { .. })), "{removed:?}");
    assert!(allocated.is_ok(), "{allocated:?}");
    let removals = fake.seen().iter().filter(|seen| seen.body.contains("RemoveHost")).count();
    assert_eq!(removals, 1);
}

#[tokio::test]
async fn many_callers_share_few_requests() {
    let fake = Fake::start(None, |_, seen| {
        let count = seen.body.matches("AllocateAddress").count();
        Act::ok(format!("[{}]", vec![ALLOCATED; count].join(",")))
    })
    .await;
    let client = Arc::new(fake.client());
    let calls = (0..2_000).map(|number| {
        let client = Arc::clone(&client);
        async move { client.allocate(ask(&format!("a{number}"))).await }
    });
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    assert!(fake.seen().len() < 50, "{} requests", fake.seen().len());
}

#[tokio::test]
async fn garbage_is_an_error_and_no_panic() {
    let answers = ["", "{", "null", "[1]", "\u{0}", r#"{"items":5}"#, r#"{"leader":"x"}"#];
    let fake = Fake::start(None, move |number, _| Act::ok(answers[number % answers.len()])).await;
    let client = fake.client();
    for _ in answers {
        let error = client.hosts().await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
    }
    let fake = Fake::start(None, |_, _| Act::Raw("SSH-2.0-OpenSSH_9.2\r\n\r\n".into())).await;
    let error = short(vec![fake.server()]).hosts().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
}

/// A client with a short timeout.
fn short(servers: Vec<Server>) -> Client {
    let timeout = Duration::from_millis(400);
    Client::new(ClientConfig {
        timeout,
        attempt_timeout: timeout / 2,
        ..ClientConfig::new(servers)
    })
    .unwrap()
}

#[tokio::test]
async fn without_servers_every_call_ends_by_its_deadline() {
    let client = short(vec![nobody(), nobody()]);
    let began = Instant::now();
    let error = client.allocate(ask("a")).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    let error = client.hosts().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(3));
    // Servers that accept the request but do not respond: it may have been executed.
    let fake = Fake::start(None, |_, _| Act::Stall).await;
    let error = short(vec![fake.server()]).allocate(ask("a")).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error:?}");
}

/// The reason that a replica gives takes precedence over connection errors of the others.
#[tokio::test]
async fn why_there_is_no_answer_is_told_by_who_said_it() {
    let why = "no majority follows it";
    let body = format!(r#"{{"error":{{"code":"Unavailable","message":"{why}"}}}}"#);
    let fake = Fake::start(None, move |_, _| Act::status(503, &body)).await;
    for servers in [vec![fake.server(), nobody()], vec![nobody(), fake.server(), nobody()]] {
        let error = short(servers).hosts().await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert!(std::error::Error::source(&error).is_none(), "{error:?}");
    }
}

/// The reason from an early attempt is kept when later attempts time out.
#[tokio::test]
async fn silence_does_not_hide_a_reason() {
    let body = r#"{"error":{"code":"Unavailable","message":"no majority follows it"}}"#;
    let fake = Fake::start(None, |number, _| match number {
        0 => Act::status(503, body),
        _ => Act::Stall,
    })
    .await;
    let error = short(vec![fake.server()]).hosts().await.unwrap_err();
    assert!(error.to_string().contains("no majority follows it"), "{error}");
    assert!(fake.seen().len() > 1);
}

/// `patience` extends the wait for a response, not the search for a replica that can give one.
#[tokio::test]
async fn patience_does_not_outlast_the_search_for_a_replica() {
    let timeout = Duration::from_millis(400);
    let patience = Some(Duration::from_secs(600));
    let patient = |servers| {
        Client::new(ClientConfig { timeout, patience, ..ClientConfig::new(servers) }).unwrap()
    };
    let busy = Fake::start(None, |_, _| Act::status(503, "")).await;
    let error = patient(vec![nobody(), busy.server()]).hosts().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    // The header tells the replica how long to wait for a majority, not how long its response may take.
    let head = &busy.seen()[0].head;
    assert!(head.contains("x-romana-timeout-ms: 360\r\n"), "{head}");
}

/// A preview changes nothing, whatever its outcome.
#[tokio::test]
async fn the_outcome_of_a_preview_is_never_unknown() {
    let document = serde_json::json!({});
    let fake = Fake::start(None, |_, _| Act::ok("[]")).await;
    let error = fake.client().plan_topology(&document).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
    let fake = Fake::start(None, |_, _| Act::Stall).await;
    let error = short(vec![fake.server()]).check_policies(&document).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn another_replica_takes_over() {
    let stalled = Fake::start(None, |_, _| Act::Stall).await;
    let works = Fake::start(None, |_, _| Act::ok(format!("[{ALLOCATED}]"))).await;
    for servers in [vec![nobody(), works.server()], vec![stalled.server(), works.server()]] {
        // The client starts with a random server.
        for _ in 0..4 {
            client(servers.clone()).allocate(ask("a")).await.unwrap();
        }
    }
}

#[tokio::test]
async fn writes_find_the_leader_and_reads_stay() {
    let leader = Fake::start(None, |_, _| Act::ok(format!("[{DONE}]"))).await;
    let cluster = format!(
        r#"{{"leader":2,"members":[{{"id":2,"api":"127.0.0.1:{}","healthy":true}}]}}"#,
        leader.port
    );
    let follower = Fake::start(Some(cluster), |_, seen| match seen.line.starts_with("GET") {
        true => Act::ok(r#"{"items":[],"revision":3}"#),
        false => Act::ok(format!("[{DONE}]")),
    })
    .await;
    let client = follower.client();
    // The first call queries the cluster in the background.
    while client.servers().len() < 2 {
        assert_eq!(client.hosts().await.unwrap().revision, 3);
    }
    client.remove_vip("v".into()).await.unwrap();
    assert_eq!(leader.seen().len(), 1);
}

#[tokio::test]
async fn lists_are_read_to_their_end() {
    let fake = Fake::start(None, |_, seen| {
        Act::ok(match seen.line.contains("continue=b%2F1") {
            false => r#"{"items":[1],"revision":1,"continue":"b/1"}"#,
            true => r#"{"items":[2],"revision":2}"#,
        })
    })
    .await;
    let page = fake.client().list::<u8>(romana_client::Query::new("/v1/x")).await.unwrap();
    assert_eq!((page.items, page.next), (vec![1, 2], None));
    let endless = Fake::start(None, |_, _| Act::ok(r#"{"items":[],"continue":"x"}"#)).await;
    let error = endless.client().list::<u8>(romana_client::Query::new("/v1/x")).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
}

#[tokio::test]
async fn bad_configuration_is_refused() {
    assert!(matches!(Client::new(ClientConfig::new(vec![])), Err(Error::Config { .. })));
    let actor = "a\nb".into();
    let config = ClientConfig { actor, ..ClientConfig::new(vec![nobody()]) };
    assert!(matches!(Client::new(config), Err(Error::Config { .. })));
}

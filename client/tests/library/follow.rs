//! The follower against a feed that ends, repeats, skips and sends wrong data.

use crate::support::{Act, Fake};
use romana_client::{Client, Error, FollowOptions, Item};
use romana_statemachine::event::{HostRef, VersionRaised};
use romana_statemachine::{Actor, Digest, Event, Index, Millis, Record, Revision, Topic};

/// A history of `count` records.
fn history(count: u64) -> Vec<Record> {
    let mut digest = Digest::default();
    let record = |revision| {
        let event = match revision % 2 {
            0 => Event::HostUp(HostRef { name: "h".into() }),
            _ => Event::VersionRaised(VersionRaised { version: 1 }),
        };
        let (actor, at) = (Actor::from("a"), Millis(revision));
        digest = Record::chain(&digest, Revision(revision), Index(revision), at, &actor, &event);
        Record { revision: Revision(revision), index: Index(revision), at, actor, event, digest }
    };
    (1..=count).map(record).collect()
}

fn line(record: &Record) -> String {
    format!("{}\n", serde_json::to_string(record).unwrap())
}

fn bookmark(revision: u64) -> String {
    format!("{{\"bookmark\":{{\"revision\":{revision}}}}}\n")
}

fn from_start() -> FollowOptions {
    FollowOptions { after: Some(Revision(0)), ..FollowOptions::default() }
}

/// Follows for `count` items or until an error; describes each in a word.
async fn items(client: &Client, options: FollowOptions, count: usize) -> Vec<String> {
    let mut follower = client.follow(options);
    let mut words = Vec::new();
    for _ in 0..count {
        match follower.next().await {
            Ok(Item::Record(record)) => words.push(format!("r{}", record.revision)),
            Ok(Item::Unknown(unknown)) => {
                words.push(format!("?{} {}", unknown.revision, unknown.name()));
            }
            Ok(Item::Bookmark(revision)) => words.push(format!("b{revision}")),
            Ok(Item::Reset(snapshot)) => words.push(format!("reset {}", snapshot.revision)),
            Err(Error::Protocol { .. }) => words.push("wrong".into()),
            Err(error) => words.push(error.to_string()),
        }
    }
    words
}

#[tokio::test]
async fn it_resumes_where_the_feed_ended() {
    let records = history(4);
    let fake = Fake::start(None, move |number, seen| {
        assert!(seen.head.contains("accept: application/x-ndjson"));
        match number {
            0 => {
                // Cut in the middle of a line.
                let second = line(&records[1]);
                Act::Pieces(vec![format!("{}{}", line(&records[0]), &second[..20])], true)
            }
            1 => Act::status(503, "{}"),
            2 => Act::Pieces(vec!["garbage\n".into()], false),
            _ => {
                assert!(seen.line.contains("/v1/events?from=1 "), "{}", seen.line);
                let rest: String = records[1..].iter().map(line).collect();
                let (head, tail) = rest.split_at(100);
                Act::Pieces(vec![head.into(), tail.into(), bookmark(4)], false)
            }
        }
    })
    .await;
    let client = fake.client();
    assert_eq!(items(&client, from_start(), 5).await, ["r1", "r2", "r3", "r4", "b4"]);
}

/// A single lost connection is not reported; a response that is no feed is, until a feed is available.
#[tokio::test]
async fn what_comes_in_place_of_a_feed_is_told() {
    let records = history(1);
    let fake = Fake::start(None, move |number, _| match number {
        0 => Act::Pieces(Vec::new(), true),
        1..3 => Act::Pieces(vec!["<html>\n".into()], false),
        _ => Act::Pieces(vec![line(&records[0])], false),
    })
    .await;
    let mut follower = fake.client().follow(from_start());
    let mut trouble = follower.trouble();
    let first = tokio::select! {
        item = follower.next() => panic!("{item:?}"),
        changed = trouble.changed() => changed.map(|()| trouble.borrow_and_update().clone()),
    };
    let first = first.expect("the follower is there").expect("trouble");
    assert!(first.ends_with("a line of the feed is no record: <html>"), "{first}");
    assert!(matches!(follower.next().await, Ok(Item::Record(_))));
    assert!(trouble.has_changed().expect("the follower is there"), "it is over");
    assert_eq!(*trouble.borrow_and_update(), None);
}

#[tokio::test]
async fn gaps_duplicates_and_forgeries_are_noticed() {
    let records = history(4);
    let mut forged = records[1].clone();
    forged.actor = Actor::from("somebody else");
    let feeds = [
        line(&records[0]) + &line(&records[2]),
        line(&records[0]) + &line(&records[0]),
        line(&records[0]) + &line(&forged),
        line(&records[0]) + &bookmark(2),
    ];
    for feed in feeds {
        let fake = Fake::start(None, move |_, _| Act::Pieces(vec![feed.clone()], false)).await;
        assert_eq!(items(&fake.client(), from_start(), 2).await, ["r1", "wrong"]);
    }
}

/// A newer cluster may add members to a known event. Digests cover them: the record is taken without them, and the
/// chain continues from its digest.
#[tokio::test]
async fn unknown_members_are_left_out_and_counted() {
    let records = history(3);
    let newer = line(&records[1]).replace(r#""name":"h""#, r#""name":"h","new":[1]"#);
    assert!(newer.contains("new"));
    let feed = line(&records[0]) + &newer + &line(&records[2]);
    let fake = Fake::start(None, move |_, _| Act::Pieces(vec![feed.clone()], false)).await;
    let mut follower = fake.client().follow(from_start());
    for record in &records {
        match follower.next().await {
            Ok(Item::Record(got)) => assert_eq!(*got, *record),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((follower.take_partly_known(), follower.take_partly_known()), (1, 0));
    assert_eq!(follower.digest(), Some(records[2].digest));
}

#[tokio::test]
async fn a_filtered_feed_may_skip() {
    let records = history(4);
    let feed = line(&records[1]) + &bookmark(3) + &line(&records[3]);
    let fake = Fake::start(None, move |_, seen| {
        assert!(seen.line.contains("from=0&topics=hosts,vips&host=h1"), "{}", seen.line);
        Act::Pieces(vec![feed.clone()], false)
    })
    .await;
    let options = FollowOptions {
        topics: vec![Topic::Hosts, Topic::Vips],
        host: Some("h1".into()),
        ..from_start()
    };
    assert_eq!(items(&fake.client(), options, 3).await, ["r2", "b3", "r4"]);
}

/// A snapshot of a large cluster, or over a slow link, may take longer than an attempt: reading continues while data
/// arrives.
#[tokio::test]
async fn a_snapshot_may_take_longer_than_an_attempt() {
    let whole = r#"{"revision":3,"state":{"hosts":[]}}"#;
    let pieces: Vec<String> = whole.chars().map(String::from).collect();
    let fake = Fake::start(None, move |_, _| {
        Act::Slowly(pieces.clone(), std::time::Duration::from_millis(20))
    })
    .await;
    // The body takes 700 ms, an attempt 300.
    let words = items(&fake.client(), FollowOptions::default(), 1).await;
    assert_eq!(words, ["reset 3"]);
    assert_eq!(fake.seen().len(), 1);
}

#[tokio::test]
async fn what_is_compacted_starts_over_from_a_snapshot() {
    let records = history(6);
    let digest = records[4].digest;
    let fake = Fake::start(None, move |_, seen| {
        if seen.line.contains("/v1/snapshot") {
            let body = format!(r#"{{"revision":5,"digest":"{digest}","hosts":[{{"name":"h"}}]}}"#);
            return Act::ok(body);
        }
        match seen.line.contains("from=5") {
            true => Act::Pieces(vec![bookmark(5), line(&records[5])], false),
            false => {
                let error = r#"{"error":{"code":"RevisionCompacted","message":"gone"}}"#;
                Act::status(410, error)
            }
        }
    })
    .await;
    let client = fake.client();
    assert_eq!(items(&client, from_start(), 3).await, ["reset 5", "b5", "r6"]);
    // Without a revision it starts with a snapshot at once.
    assert_eq!(items(&client, FollowOptions::default(), 2).await, ["reset 5", "b5"]);
    let mut follower = client.follow(FollowOptions::default());
    assert_eq!(follower.staleness(), None);
    let Ok(Item::Reset(snapshot)) = follower.next().await else { panic!("no snapshot") };
    assert_eq!(snapshot.state["hosts"][0]["name"], "h");
    assert!(follower.staleness().is_some());
}

#[tokio::test]
async fn a_refusal_ends_the_stream() {
    use futures_util::StreamExt;
    let refusal = r#"{"error":{"code":"MalformedQuery","message":"bad"}}"#;
    let fake = Fake::start(None, move |_, _| Act::status(400, refusal)).await;
    let stream = fake.client().follow(from_start()).into_stream();
    let items: Vec<_> = stream.collect().await;
    assert!(matches!(items[..], [Err(Error::Refused(_))]), "{items:?}");
}

/// The feed of a cluster, which then ends.
fn feed_of(cluster: &str, lines: &str) -> Act {
    Act::Raw(format!("HTTP/1.1 200 OK\r\nX-Romana-Cluster: {cluster}\r\n\r\n{lines}"))
}

#[tokio::test]
async fn a_restored_cluster_is_not_mistaken_for_the_old_one() {
    let records = history(4);
    let fake = Fake::start(None, move |number, seen| match number {
        0 => feed_of("old", &line(&records[0])),
        1 => feed_of("old", &line(&records[1])),
        // Restored in between; a filtered follower cannot detect that from the records.
        2 => feed_of("new", &line(&records[2])),
        _ if seen.line.contains("/v1/snapshot") => Act::ok(r#"{"revision":3}"#),
        _ => feed_of("new", &line(&records[3])),
    })
    .await;
    let options = FollowOptions { topics: vec![Topic::Hosts, Topic::Topology], ..from_start() };
    let words = items(&fake.client(), options, 5).await;
    assert_eq!(words, ["r1", "r2", "wrong", "reset 3", "r4"]);
}

#[tokio::test]
async fn a_cluster_that_has_not_come_so_far_is_another_one() {
    let records = history(3);
    let fake = Fake::start(None, move |_, seen| {
        if seen.line.contains("/v1/snapshot") {
            return Act::ok(r#"{"revision":2}"#);
        }
        match seen.line.contains("from=9") {
            true => Act::status(409, r#"{"error":{"code":"RevisionAhead","message":"ahead"}}"#),
            false => Act::Pieces(vec![line(&records[2])], false),
        }
    })
    .await;
    let options = FollowOptions { after: Some(Revision(9)), ..FollowOptions::default() };
    assert_eq!(items(&fake.client(), options, 3).await, ["ahead", "reset 2", "r3"]);
}

/// A record with an unknown event, outside the digest chain.
fn newer(revision: u64, more: &str) -> String {
    let digest = Digest::of(b"newer");
    format!(
        r#"{{"revision":{revision},"index":1,"at":1,"actor":"a","event":{{"Teleported":{{}}}},"digest":"{digest}"{more}}}"#
    ) + "\n"
}

#[tokio::test]
async fn an_event_of_a_later_version_strands_nobody() {
    let records = history(4);
    let feed = line(&records[0]) + &newer(2, "") + &line(&records[3]);
    let fake = Fake::start(None, move |_, seen| {
        assert!(seen.head.contains("x-romana-version: 4"), "{}", seen.head);
        Act::Pieces(vec![feed.clone()], false)
    })
    .await;
    // A gap after it is still detected.
    assert_eq!(items(&fake.client(), from_start(), 3).await, ["r1", "?2 Teleported", "wrong"]);
}

#[tokio::test]
async fn what_must_be_understood_stops_the_follower_until_it_is() {
    let records = history(4);
    let feed = |more: &str| line(&records[1]) + &newer(3, more) + &line(&records[3]);
    let words = |feed: String| async move {
        let fake = Fake::start(None, move |number, seen| {
            let from = if number == 0 { "from=0" } else { "from=2" };
            assert!(seen.line.contains(from), "{}", seen.line);
            let rest = feed.split_inclusive('\n').skip(usize::from(number > 0));
            Act::Pieces(vec![rest.collect()], false)
        })
        .await;
        let topics = vec![Topic::Hosts, Topic::Vips];
        let required = vec![Topic::Hosts];
        let options = FollowOptions { topics, required, ..from_start() };
        items(&fake.client(), options, 3).await
    };
    let passes = ["r2", "?3 Teleported", "r4"];
    assert_eq!(words(feed(r#","topic":"vips""#)).await, passes);
    assert_eq!(words(feed(r#","topic":"hosts","optional":true"#)).await, passes);
    let stops = "revision 3 is of an event that this program does not know: Teleported";
    assert_eq!(words(feed(r#","topic":"hosts""#)).await, ["r2", stops, stops]);
    assert_eq!(words(feed("")).await, ["r2", stops, stops]);
}

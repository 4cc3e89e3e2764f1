use romana_statemachine::{Digest, Event, Revision, Topic};
use serde::Deserialize;
use serde_json::json;

use super::*;
use crate::ClientConfig;
use crate::follow::Snapshot;

/// The names of all hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Hosts {
    #[serde(flatten)]
    cursor: Cursor,
    names: Vec<String>,
}

impl View for Hosts {
    fn topics(&self) -> Vec<Topic> {
        vec![Topic::Hosts]
    }

    fn restart(&self, snapshot: &Snapshot) -> Result<Self, SnapshotError> {
        Ok(Self { cursor: Cursor::at(snapshot.revision), names: snapshot.list("hosts")? })
    }

    fn apply(&mut self, record: &Record) {
        match &record.event {
            Event::HostAdded(event) => self.names.push(event.name.to_string()),
            Event::HostRemoved(event) => self.names.retain(|name| *name != event.name.as_str()),
            _ => {}
        }
    }

    fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    fn change_cursor(&mut self, change: &mut dyn FnMut(&mut Cursor)) {
        change(&mut self.cursor);
    }
}

/// Records what it observes.
#[derive(Default)]
struct Witness {
    seen: Vec<String>,
    saved: u32,
}

impl<V: View> Observer<V> for Witness {
    fn record(&mut self, record: &Record) {
        self.seen.push(record.revision.to_string());
    }

    fn restart(&mut self, _: &Client, before: Option<&V>, after: &V) {
        self.seen.push(format!("{:?} -> {}", before.map(View::revision), after.revision()));
    }

    fn saved(&mut self, _: &V) {
        self.saved += 1;
    }
}

fn client() -> Client {
    Client::new(ClientConfig::new(vec!["http://127.0.0.1:9".parse().unwrap()])).unwrap()
}

fn snapshot(revision: Revision, hosts: serde_json::Value) -> Item {
    let snapshot = json!({ "revision": revision, "hosts": hosts });
    Item::Reset(Box::new(serde_json::from_value(snapshot).unwrap()))
}

fn added(revision: Revision, name: &str) -> Item {
    let event = json!({"HostAdded": {"name": name, "ip": "192.168.0.1", "addresses": [],
        "labels": {}, "info": {}, "source": "operator", "places": []}});
    let record = json!({ "revision": revision, "index": revision, "at": 1, "actor": "a",
        "event": event, "digest": Digest::default() });
    Item::Record(serde_json::from_value(record).unwrap())
}

/// Applies items as if they arrived together, and publishes the view.
fn take<O: Observer<Hosts>>(mirror: &mut Mirror<Hosts, O>, items: Vec<Item>) -> Result<(), Error> {
    let mut seen = mirror.seen.borrow().clone();
    let taken = items.into_iter().try_for_each(|item| mirror.take(item, &client(), &mut seen));
    mirror.publish(seen, Some("c1"));
    taken
}

fn names(mirror: &Mirror<Hosts, Witness>) -> Option<Vec<String>> {
    mirror.seen.borrow().view.as_ref().map(|view| view.names.clone())
}

#[tokio::test]
async fn a_view_follows_and_goes_on_from_its_copy() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("view");
    let mut mirror = Mirror::open(Hosts::default(), &file, Witness::default()).unwrap();
    assert!(names(&mirror).is_none() && mirror.options().after.is_none());
    let mut published = mirror.seen();
    take(
        &mut mirror,
        vec![snapshot(Revision(3), json!(["a"])), added(Revision(4), "b"), added(Revision(5), "c")],
    )
    .unwrap();
    assert_eq!(names(&mirror).unwrap(), ["a", "b", "c"]);
    assert!(published.has_changed().unwrap());
    published.borrow_and_update();
    assert_eq!(mirror.observer.seen, ["None -> 3", "4", "5"]);
    assert_eq!(mirror.observer.saved, 1, "the first view is saved at once");
    let held = mirror.seen.borrow().view.clone().unwrap();
    take(&mut mirror, vec![Item::Bookmark(Revision(9))]).unwrap();
    assert_eq!(held.revision(), 5, "who looks at a view keeps what it looks at");
    mirror.save_if_allowed();
    drop(mirror);

    let mut mirror = Mirror::open(Hosts::default(), &file, Witness::default()).unwrap();
    let options = mirror.options();
    assert_eq!((options.after, options.cluster.as_deref()), (Some(Revision(9)), Some("c1")));
    assert!(!mirror.seen.borrow().caught_up, "the copy may be old");
    take(&mut mirror, vec![snapshot(Revision(20), json!(["z"]))]).unwrap();
    assert_eq!(mirror.observer.seen, ["Some(9) -> 20"]);
    assert!(mirror.seen.borrow().caught_up);

    std::fs::write(&file, "nonsense").unwrap();
    let mirror = Mirror::open(Hosts::default(), &file, Witness::default()).unwrap();
    assert!(names(&mirror).is_none() && !file.exists(), "a damaged copy is set aside");
}

#[tokio::test]
async fn a_newer_cluster_is_followed_as_far_as_it_is_understood() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("view");
    let mut mirror = Mirror::open(Hosts::default(), &file, Witness::default()).unwrap();
    take(&mut mirror, vec![snapshot(Revision(6), json!([]))]).unwrap();
    let unknown = json!({"revision": 7, "index": 1, "at": 1, "actor": "a", "optional": true,
        "event": {"Teleported": {}}, "digest": Digest::default()});
    take(&mut mirror, vec![Item::Unknown(serde_json::from_value(unknown).unwrap())]).unwrap();
    let seen = mirror.seen.borrow().clone();
    assert_eq!((seen.view.unwrap().revision(), seen.unknown), (Revision(7), 1));
    assert_eq!(seen.stranded, None);

    let heard = seen.heard;
    mirror.complain(&Error::Newer { why: "revision 8 is new".into() });
    let seen = mirror.seen.borrow().clone();
    assert_eq!(seen.stranded.as_deref(), Some("revision 8 is new"));
    assert_eq!(seen.view.unwrap().revision(), 7, "what is not understood is not guessed");
    assert_eq!(seen.heard, heard, "it grows stale");
    mirror.tell(Some("a page".into()));
    assert_eq!(mirror.seen.borrow().trouble.as_deref(), Some("a page"));
    take(&mut mirror, vec![Item::Bookmark(Revision(9))]).unwrap();
    let seen = mirror.seen.borrow().clone();
    assert_eq!((seen.stranded, seen.trouble), (None, None));
}

#[tokio::test]
async fn a_snapshot_that_is_not_understood_leaves_a_gap_until_one_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("view");
    let mut mirror = Mirror::open(Hosts::default(), &file, Witness::default()).unwrap();
    take(&mut mirror, vec![snapshot(Revision(3), json!(["a"]))]).unwrap();
    let error =
        take(&mut mirror, vec![snapshot(Revision(9), json!({"other": "form"}))]).unwrap_err();
    assert!(matches!(&error, Error::Newer { why } if why.contains("member hosts")), "{error:?}");
    assert_eq!(names(&mirror).unwrap(), ["a"], "the old view stands");
    assert_eq!(mirror.options().after, None, "records from 9 on do not continue it");
    take(&mut mirror, vec![snapshot(Revision(10), json!(["b"]))]).unwrap();
    assert_eq!(names(&mirror).unwrap(), ["b"]);
    assert_eq!(mirror.options().after, Some(Revision(10)));
}

#[test]
fn two_views_are_a_view() {
    let two = (Hosts::default(), Hosts::default());
    assert_eq!(two.topics(), [Topic::Hosts]);
    let Item::Reset(snapshot) = snapshot(Revision(3), json!(["a"])) else { unreachable!() };
    let mut two = two.restart(&snapshot).unwrap();
    let Item::Record(record) = added(Revision(4), "b") else { unreachable!() };
    two.apply(&record);
    two.advance(Revision(4));
    two.set_cluster("c1");
    assert_eq!(two.0, two.1);
    assert_eq!(
        (two.revision(), two.cluster(), &*two.1.names),
        (Revision(4), Some("c1"), &["a".into(), "b".into()][..])
    );
}

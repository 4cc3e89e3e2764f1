//! Kubernetes Events on objects that are not honoured: the reason is where the object's owner looks.
//!
//! [`Schedule`] decides (pure), [`write()`] writes. An Event's name is derived from object, reason and message, so a
//! new leader continues the Events of its predecessor.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};

use crate::Problem;

/// An unchanged problem is written again after this time, since Events expire (after an hour by default).
const REPEAT: Duration = Duration::from_secs(600);
/// Events per minute, all together.
const PER_MINUTE: usize = 60;
const MINUTE: Duration = Duration::from_secs(60);
/// Longest message of an Event (`note` in the API), bytes.
const NOTE_BYTES_MAX: usize = 1024;
/// Longest part of an object's name in the name of an Event, bytes: 253 with dot and digest.
const NAME_BYTES_MAX: usize = 230;
const CONTROLLER: &str = "romana.io/romanad";
/// Namespace of Events on objects without one.
const CLUSTER_NAMESPACE: &str = "default";

/// Which Events to write when.
#[derive(Debug, Default)]
pub struct Schedule {
    written: BTreeMap<Key, Written>,
    /// When the last ones were written, for the limit per minute.
    recent: Vec<Instant>,
}

/// A problem of an object: uid, kind and name (an object may have no uid), reason, message. An object may have several
/// problems for one reason.
type Key = (String, &'static str, String, String, String, String);

#[derive(Debug)]
struct Written {
    at: Instant,
    times: i32,
}

/// An Event to write.
#[derive(Clone, Debug, PartialEq)]
pub struct Due {
    pub problem: Problem,
    /// How often this replica has written it, this time included.
    pub times: i32,
}

fn key(problem: &Problem) -> Key {
    let object = &problem.object;
    let (namespace, name) = (object.namespace.clone(), object.name.clone());
    let (reason, message) = (problem.reason.clone(), problem.message.clone());
    (object.uid.clone(), object.kind, namespace, name, reason, message)
}

impl Schedule {
    /// The Events to write now: problems never written first. They count as written.
    pub fn due(&mut self, problems: &[Problem], now: Instant) -> Vec<Due> {
        self.recent.retain(|at| now.duration_since(*at) < MINUTE);
        let present: BTreeSet<Key> = problems.iter().map(key).collect();
        // A problem that comes and goes is not written more often.
        self.written.retain(|key, written| {
            present.contains(key) || now.duration_since(written.at) < REPEAT
        });
        let mut waiting: Vec<&Problem> =
            problems.iter().filter(|problem| self.is_due(problem, now)).collect();
        waiting.sort_by_key(|problem| self.written.get(&key(problem)).map(|written| written.at));
        waiting.truncate(PER_MINUTE.saturating_sub(self.recent.len()));
        let waiting: Vec<Problem> = waiting.into_iter().cloned().collect();
        waiting.into_iter().map(|problem| self.begin(problem, now)).collect()
    }

    /// Whether a problem is new, has another message, or was last written long ago.
    fn is_due(&self, problem: &Problem, now: Instant) -> bool {
        let written = self.written.get(&key(problem));
        written.is_none_or(|written| now.duration_since(written.at) >= REPEAT)
    }

    fn begin(&mut self, problem: Problem, now: Instant) -> Due {
        self.recent.push(now);
        let written = self.written.entry(key(&problem));
        let written = written.or_insert_with(|| Written { at: now, times: 0 });
        (written.at, written.times) = (now, written.times.saturating_add(1));
        Due { times: written.times, problem }
    }

    /// Forgets that an Event was written, because it could not be: it is due again.
    pub fn failed(&mut self, due: &Due) {
        self.written.remove(&key(&due.problem));
    }
}

/// Writes an Event, or repeats it if it exists. `instance`: which replica writes.
///
/// # Errors
/// The API server refuses it or does not answer.
pub async fn write(client: &Client, due: &Due, instance: &str) -> Result<(), kube::Error> {
    let event = event(due, instance, Timestamp::now());
    let namespace = event.metadata.namespace.as_deref().unwrap_or(CLUSTER_NAMESPACE);
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    match events.create(&PostParams::default(), &event).await {
        Err(kube::Error::Api(status)) if status.code == 409 && status.reason == "AlreadyExists" => {
            let name = event.metadata.name.as_deref().unwrap_or_default();
            let count = due.times.max(2);
            let series = EventSeries { count, last_observed_time: MicroTime(Timestamp::now()) };
            let patch = Patch::Merge(serde_json::json!({ "series": series }));
            events.patch(name, &PatchParams::default(), &patch).await.map(|_| ())
        }
        created => created.map(|_| ()),
    }
}

/// Whether an Event cannot be written because its namespace goes away.
#[must_use]
pub fn is_pointless(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let says = |text| status.message.contains(text);
    status.code == 404 && says("namespaces") || status.code == 403 && says("being terminated")
}

fn event(due: &Due, instance: &str, now: Timestamp) -> Event {
    let problem = &due.problem;
    let object = &problem.object;
    let present = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let regarding = ObjectReference {
        api_version: Some(object.api_version.to_owned()),
        kind: Some(object.kind.to_owned()),
        namespace: present(&object.namespace),
        name: Some(object.name.clone()),
        uid: present(&object.uid),
        ..ObjectReference::default()
    };
    let namespace = present(&object.namespace).unwrap_or_else(|| CLUSTER_NAMESPACE.to_owned());
    Event {
        metadata: ObjectMeta {
            name: Some(name(problem)),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        action: Some("Import".to_owned()),
        event_time: Some(MicroTime(now)),
        note: Some(cut(&problem.message, NOTE_BYTES_MAX).to_owned()),
        reason: Some(problem.reason.clone()),
        regarding: Some(regarding),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        type_: Some("Warning".to_owned()),
        ..Event::default()
    }
}

/// The Event's name: the object's name and a digest of what it says.
fn name(problem: &Problem) -> String {
    let mut hasher = blake3::Hasher::new();
    let object = &problem.object;
    for part in [object.kind, &object.uid, &object.name, &problem.reason, &problem.message] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let digest = hasher.finalize().to_hex();
    let object = cut(&object.name, NAME_BYTES_MAX);
    let object = object.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    format!("{object}.{}", &digest[..16])
}

/// The beginning of a text, at most this many bytes.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use crate::ObjectRef;

    use super::*;

    fn problem(name: &str, message: &str) -> Problem {
        Problem {
            object: ObjectRef {
                api_version: "v1",
                kind: "Service",
                namespace: "default".into(),
                name: name.into(),
                uid: format!("uid-{name}"),
            },
            reason: "VipTaken".into(),
            message: message.into(),
        }
    }

    fn names(due: &[Due]) -> Vec<&str> {
        due.iter().map(|due| due.problem.object.name.as_str()).collect()
    }

    #[test]
    fn an_unchanged_problem_is_written_each_ten_minutes() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let problems = [problem("a", "taken")];
        assert_eq!(schedule.due(&problems, at(0))[0].times, 1);
        assert_eq!(schedule.due(&problems, at(599)), []);
        assert_eq!(schedule.due(&[], at(599)), [], "it comes and goes");
        assert_eq!(schedule.due(&problems, at(599)), []);
        assert_eq!(schedule.due(&problems, at(600))[0].times, 2);
        let other = [problem("a", "taken by b")];
        assert_eq!(schedule.due(&other, at(601))[0].times, 1, "it says something else");
        assert_eq!(schedule.due(&other, at(602)), []);
    }

    #[test]
    fn two_problems_for_one_reason_are_written_once_each() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        let problems = [problem("a", "one is taken"), problem("a", "two is taken")];
        assert_eq!(schedule.due(&problems, now).len(), 2);
        assert_eq!(schedule.due(&problems, now), []);
    }

    #[test]
    fn all_together_are_limited_and_none_starves() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        let problems: Vec<Problem> =
            (0..100).map(|number| problem(&format!("s{number:03}"), "no")).collect();
        let first = schedule.due(&problems, start);
        assert_eq!(first.len(), PER_MINUTE);
        assert_eq!(schedule.due(&problems, start + Duration::from_secs(59)), []);
        let second = schedule.due(&problems, start + MINUTE);
        assert_eq!(second.len(), 40);
        assert!(names(&second).iter().all(|name| !names(&first).contains(name)));
    }

    #[test]
    fn what_could_not_be_written_is_due_again() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        let problems = [problem("a", "taken")];
        let due = schedule.due(&problems, now);
        schedule.failed(&due[0]);
        assert_eq!(schedule.due(&problems, now), due);
    }

    #[test]
    fn an_event_has_valid_names_and_a_bounded_note() {
        let long = format!("{}.b", "a".repeat(NAME_BYTES_MAX - 1));
        let due = Due { problem: problem(&long, &"ü".repeat(2000)), times: 1 };
        let event = event(&due, "romanad-1", Timestamp::UNIX_EPOCH);
        let name = event.metadata.name.unwrap();
        assert!(name.len() <= 253 && !name.contains(".."), "{name}");
        assert_eq!(event.note.unwrap().len(), NOTE_BYTES_MAX);
        let node = ObjectRef { namespace: String::new(), ..due.problem.object.clone() };
        let node = Due { problem: Problem { object: node, ..due.problem }, times: 1 };
        let event = super::event(&node, "romanad-1", Timestamp::UNIX_EPOCH);
        assert_eq!(event.metadata.namespace.unwrap(), "default");
        assert_eq!(event.regarding.unwrap().namespace, None);
    }
}

//! The segments of pods, as soon as the API server has shown a pod: an agent asks for it before the pod has an address,
//! and so before it is translated.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use romana_statemachine::agent::PodRef;
use romana_statemachine::name::SegmentId;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::ObjectName;
use crate::translate::pods::segment;

/// Longest wait for a pod that the watch has not shown yet: a kubelet and this listener learn of a pod at about the
/// same time, and the container of the pod waits.
const WAIT: Duration = Duration::from_secs(1);
/// The annotation of a mirror pod with the uid that the kubelet, and so the plugin, knows the static pod by.
const STATIC_UID: &str = "kubernetes.io/config.mirror";

/// The segments of all pods that the API server has shown.
#[derive(Debug, Default)]
pub struct Segments(watch::Sender<BTreeMap<ObjectName, Known>>);

/// What is known of a pod.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    uid: String,
    /// Empty: it is not a static pod.
    static_uid: String,
    segment: SegmentId,
}

impl Known {
    /// Whether this is the pod, and not an earlier or later one of its name.
    fn is(&self, pod: &PodRef) -> bool {
        pod.uid.is_empty() || self.uid == pod.uid || self.static_uid == pod.uid
    }
}

impl Segments {
    /// The segment of a pod; waits for one that is not known yet. `None`: it was not shown in time.
    pub async fn of(&self, pod: &PodRef) -> Option<SegmentId> {
        self.within(WAIT, pod).await
    }

    async fn within(&self, wait: Duration, pod: &PodRef) -> Option<SegmentId> {
        let name = ObjectName { namespace: pod.namespace.clone(), name: pod.name.clone() };
        let mut pods = self.0.subscribe();
        let is_known =
            |pods: &BTreeMap<ObjectName, Known>| pods.get(&name).is_some_and(|known| known.is(pod));
        let pods = timeout(wait, pods.wait_for(is_known)).await.ok()?.ok()?;
        pods.get(&name).map(|known| known.segment.clone())
    }

    /// Records a pod that was created or changed.
    pub(super) fn apply(&self, pod: &Pod) {
        let annotations = pod.metadata.annotations.as_ref();
        let static_uid = annotations.and_then(|annotations| annotations.get(STATIC_UID)).cloned();
        let known = Known {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            static_uid: static_uid.unwrap_or_default(),
            segment: segment(pod),
        };
        let name = ObjectName::of(&pod.metadata);
        // Those who wait are not woken for each pod of a list that has changed nothing.
        self.0.send_if_modified(|pods| {
            let is_news = pods.get(&name) != Some(&known);
            pods.insert(name, known);
            is_news
        });
    }

    /// Records that a pod was deleted.
    pub(super) fn delete(&self, name: &ObjectName) {
        self.0.send_modify(|pods| _ = pods.remove(name));
    }

    /// Forgets the pods that a complete list does not have.
    pub(super) fn retain(&self, listed: impl Fn(&ObjectName) -> bool) {
        self.0.send_modify(|pods| pods.retain(|name, _| listed(name)));
    }

    /// Forgets all pods: this replica does not follow the API server any more.
    pub fn clear(&self) {
        self.0.send_modify(BTreeMap::clear);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    fn pod(name: &str, uid: &str, more: Value) -> Pod {
        let mut metadata = json!({"namespace": "shop", "name": name, "uid": uid});
        let more = more.as_object().cloned().unwrap_or_default();
        metadata.as_object_mut().unwrap().extend(more);
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    fn asked(name: &str, uid: &str) -> PodRef {
        PodRef { namespace: "shop".into(), name: name.into(), uid: uid.into() }
    }

    fn front() -> Value {
        json!({"labels": {"romana.io/segment": "front"}})
    }

    #[tokio::test]
    async fn the_label_names_the_segment_of_the_pod_of_that_uid() {
        let segments = Segments::default();
        segments.apply(&pod("web", "u1", front()));
        segments.apply(&pod("plain", "u2", json!({})));
        let mirror = json!({"annotations": {"kubernetes.io/config.mirror": "hash"},
            "labels": {"romana.io/segment": "system"}});
        segments.apply(&pod("static", "u3", mirror));
        for (name, uid, segment) in [
            ("web", "", Some("front")),
            ("web", "u1", Some("front")),
            ("web", "u0", None),
            ("plain", "u2", Some("default")),
            ("static", "hash", Some("system")),
            ("other", "", None),
        ] {
            let found = segments.within(SHORT, &asked(name, uid)).await;
            assert_eq!(found, segment.map(SegmentId::from), "{name} {uid}");
        }
    }

    #[tokio::test]
    async fn a_pod_that_is_shown_late_is_waited_for_but_not_for_ever() {
        let segments = Arc::new(Segments::default());
        let waiting = Arc::clone(&segments);
        let waiting = tokio::spawn(async move {
            waiting.within(Duration::from_secs(60), &asked("web", "u2")).await
        });
        tokio::time::sleep(SHORT).await;
        segments.apply(&pod("web", "u1", json!({})));
        tokio::time::sleep(SHORT).await;
        assert!(!waiting.is_finished(), "that is another pod of its name");
        segments.delete(&ObjectName { namespace: "shop".into(), name: "web".into() });
        segments.apply(&pod("web", "u2", front()));
        assert_eq!(waiting.await.unwrap(), Some("front".into()));
        segments.retain(|name| name.name != "web");
        assert_eq!(segments.within(SHORT, &asked("web", "u2")).await, None);
    }
}

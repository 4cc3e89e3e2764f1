//! Agents and replicas restart one after the other, as in an upgrade, while packets, addresses and pods go on.

use serde_json::{Value, json};

use crate::allocations::Allocations;
use crate::lab::Lab;
use crate::pods::Pod;
use crate::streams::Streams;
use crate::{SLOW, all_reach_each_other, is_ready, objects, ready};

/// Pods that come and go during the restarts: so many at the least, and so many more.
const CHURN: [usize; 2] = [3, 9];

/// Waits until all pods of a workload of `kube-system` are those of its present template, and ready, as `kubectl rollout
/// status` does. `often` is done again and again until then.
pub(crate) async fn rolled_out(lab: &Lab, workload: &str, mut often: impl AsyncFnMut()) {
    let (kind, name) = workload.split_once('/').expect("kind/name");
    let path = format!("/apis/apps/v1/namespaces/kube-system/{kind}s/{name}");
    lab.until_within(SLOW, &format!("{workload} is rolled out"), async || {
        often().await;
        is_rolled_out(&lab.api.get(&path).await)
    })
    .await;
}

/// Whether a DaemonSet or StatefulSet has no old pods left, and all that it wants are ready.
fn is_rolled_out(workload: &Value) -> bool {
    let (spec, status) = (&workload["spec"], &workload["status"]);
    let seen = status["observedGeneration"].as_u64() >= workload["metadata"]["generation"].as_u64();
    let done = if workload["kind"] == "DaemonSet" {
        let wanted = &status["desiredNumberScheduled"];
        let all = ["updatedNumberScheduled", "numberReady", "numberAvailable"];
        all.iter().all(|count| status[*count] == *wanted)
    } else {
        status["currentRevision"] == status["updateRevision"]
            && status["updatedReplicas"] == spec["replicas"]
            && status["readyReplicas"] == spec["replicas"]
    };
    status.is_object() && seen && done
}

/// Pods that come and go.
struct Churn {
    wanted: usize,
    rounds: usize,
}

impl Churn {
    async fn start(lab: &Lab) -> Self {
        let [few, _] = CHURN;
        let set = objects::workload("Deployment", "shop", "churn", few, objects::answering());
        lab.api.apply(&[set]);
        ready(lab, "shop", "app=churn", few).await;
        Self { wanted: few, rounds: 0 }
    }

    /// Starts or ends some pods, once those before have started or ended.
    async fn turn(&mut self, lab: &Lab) {
        let pods = lab.api.pods("shop", "app=churn").await;
        if pods.len() != self.wanted || !pods.iter().all(is_ready) {
            return;
        }
        let [few, many] = CHURN;
        self.wanted = if self.wanted == few { many } else { few };
        self.rounds += 1;
        let replicas = format!("--replicas={}", self.wanted);
        lab.api.run(&["scale", "--namespace=shop", "deployment/churn", &replicas]);
    }
}

/// Sandboxes that a kubelet could not make: CNI ADDs that failed.
async fn failed_sandboxes(lab: &Lab) -> Vec<Value> {
    let path = "/api/v1/namespaces/shop/events?fieldSelector=reason=FailedCreatePodSandBox";
    let events = lab.api.list(path).await.expect("the API server answers");
    events.into_iter().map(|event| event["message"].clone()).collect()
}

/// The first of the pods on each node.
pub(crate) fn one_on_each<'a>(lab: &Lab, pods: &'a [Pod]) -> Vec<&'a Pod> {
    let on = |name: &str| pods.iter().find(|pod| pod.node == name).expect("a pod on each node");
    lab.nodes.iter().map(|node| on(&node.machine.name)).collect()
}

/// Only these pods reach each other: so there is a policy that must hold.
pub(crate) async fn only_each_other(lab: &Lab, pods: &[Pod]) {
    let each_other = json!([{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]);
    lab.api.apply(&[objects::ingress("shop", "web", "web", each_other)]);
    all_reach_each_other(lab, pods).await;
}

/// No packet is lost, no address refused, no CNI ADD fails.
pub(crate) async fn restarts_lose_nothing(lab: &Lab, pods: &[Pod]) {
    only_each_other(lab, pods).await;
    let mut churn = Churn::start(lab).await;
    assert_eq!(failed_sandboxes(lab).await, [] as [Value; 0], "before anything restarts");
    let streams = Streams::start(&one_on_each(lab, pods));
    let allocations = Allocations::start(lab);
    for workload in ["daemonset/romana-agent", "statefulset/romanad"] {
        let before = churn.rounds;
        lab.api.run(&["rollout", "restart", "--namespace=kube-system", workload]);
        rolled_out(lab, workload, async || churn.turn(lab).await).await;
        let rounds = churn.rounds - before;
        assert!(rounds > 0, "no pod was started or ended while {workload} restarted");
    }
    ready(lab, "shop", "app=churn", churn.wanted).await;
    allocations.finish();
    streams.finish();
    assert_eq!(failed_sandboxes(lab).await, [] as [Value; 0], "while everything restarted");
    all_reach_each_other(lab, pods).await;
}

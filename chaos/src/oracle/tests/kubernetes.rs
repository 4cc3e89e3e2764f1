//! The law of what the log has from Kubernetes.

use serde_json::{Value, json};

use romana_statemachine::command::ObjectKey;

use super::*;
use crate::kubernetes::{Asked, Wanted, operators_commands};

const CLUSTER: &str = "uid-of-kube-system";
const POD_IP: &str = "10.200.0.1";

fn command(value: Value) -> Command {
    serde_json::from_value(value).expect("a command")
}

fn import(kind: &str, uid: &str, object: &Value) -> Command {
    let source = json!({"kind": kind, "uid": uid});
    command(json!({"ImportObject": {"source": source, "object": object, "term": 1}}))
}

fn endpoint() -> Value {
    json!({"ip": POD_IP, "tenant": "k0", "segment": "default", "host": "k-node-0"})
}

/// A run that has imported a Node, a namespace and a pod, beside what an operator has made.
fn followed() -> Truth {
    let mut truth = good();
    let raise = |version: u16| command(json!({"RaiseVersion": {"version": version}}));
    let follow = command(json!({"FollowKubernetes": {"cluster": CLUSTER, "term": 1}}));
    let node = json!({"Host": {"name": "k-node-0", "ip": "172.31.0.1", "labels": {"rack": "0"}}});
    let imports = [
        import("Node", "n", &node),
        import("Namespace", "k", &json!({"Tenant": {"id": "k0"}})),
        import("Pod", "p", &json!({"Endpoint": endpoint()})),
    ];
    let all = (2..=4).map(raise).chain(operators_commands()).chain([follow]).chain(imports);
    for command in all {
        truth.ask(command);
    }
    truth
}

/// What the API server has.
fn asked() -> Asked {
    let source = |kind: &str, uid: &str| romana_statemachine::command::Source {
        kind: kind.into(),
        uid: uid.into(),
    };
    let ip = |text: &str| text.parse().expect("an address");
    let labels = [(String::from("rack"), String::from("0"))].into();
    let host = Wanted::Host { ip: ip("172.31.0.1"), labels, drained: false };
    let tenant = Wanted::Tenant { labels: Default::default() };
    let endpoint = serde_json::from_value(endpoint()).expect("an endpoint");
    let objects = [
        (ObjectKey::Host("k-node-0".into()), (source("Node", "n"), host)),
        (ObjectKey::Tenant("k0".into()), (source("Namespace", "k"), tenant)),
        (ObjectKey::Endpoint(ip(POD_IP)), (source("Pod", "p"), Wanted::Endpoint(endpoint))),
    ];
    Asked { cluster: CLUSTER.into(), objects: objects.into() }
}

fn evidence(truth: &Truth, asked: Asked) -> Evidence {
    Evidence { kubernetes: Some(asked), ..truth.evidence() }
}

#[test]
fn what_the_api_server_has_is_there() {
    assert_eq!(judge(&evidence(&followed(), asked())), []);
}

#[test]
fn more_or_less_than_the_api_server_has() {
    let truth = followed();
    let key = ObjectKey::Endpoint(POD_IP.parse().expect("an address"));
    let with = |change: &dyn Fn(&mut Asked)| {
        let mut asked = asked();
        change(&mut asked);
        evidence(&truth, asked)
    };
    // An endpoint that no pod asks for.
    breaks("kubernetes", &with(&|asked| _ = asked.objects.remove(&key)));
    // A namespace that is not there.
    breaks(
        "kubernetes",
        &with(&|asked| {
            let tenant = asked.objects[&ObjectKey::Tenant("k0".into())].clone();
            asked.objects.insert(ObjectKey::Tenant("k1".into()), tenant);
        }),
    );
    // A pod that was made again, and one whose labels have changed.
    let change = |change: &dyn Fn(&mut (romana_statemachine::command::Source, Wanted))| {
        with(&|asked| change(asked.objects.get_mut(&key).expect("the endpoint")))
    };
    breaks("kubernetes", &change(&|(source, _)| source.uid = "another".into()));
    breaks(
        "kubernetes",
        &change(&|(_, wanted)| {
            let Wanted::Endpoint(endpoint) = wanted else { unreachable!() };
            endpoint.labels.insert("app".into(), "web".into());
        }),
    );
    // Another cluster.
    breaks("kubernetes", &with(&|asked| asked.cluster = "another".into()));
}

#[test]
fn an_operators_object_that_was_changed() {
    let mut truth = followed();
    truth.ask(command(json!({"RemovePolicy": {"name": "kube.k0.own"}})));
    breaks("kubernetes", &evidence(&truth, asked()));
}

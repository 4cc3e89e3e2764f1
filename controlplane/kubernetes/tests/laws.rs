//! Laws of the translation, on arbitrary clusters whose objects change in any order, while operators and agents change
//! the log: after each pass nothing is left to do, what operators made is untouched, and nothing remains of what is
//! gone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "the cases use all of it")]
mod cluster;

use std::collections::{BTreeMap, BTreeSet};

use cluster::Cluster;
use proptest::prelude::*;
use proptest::sample::select;
use romana_kubernetes::{Wanted, diff, translate};
use romana_statemachine::command::{HostSource, Imported, ObjectKey};
use romana_statemachine::name::VipName;
use romana_statemachine::{Command, Host, Labels, State, Term, Vip};
use serde_json::{Value, json};

const TOPOLOGY: &str = r#"{"SetTopology": {"networks": [{"name": "pods", "cidr": "10.1.0.0/24", "block_mask": 29}],
    "topologies": [{"networks": ["pods"], "map": [{"assignment": {"rack": "1"}}, {}]}]}}"#;

/// A change of a cluster.
#[derive(Clone, Debug)]
enum Step {
    Put(Value),
    /// Deletes the object of this kind with the n-th name, if there is one.
    Delete(&'static str, usize),
    Do(Value),
    Pass,
}

fn labels() -> impl Strategy<Value = Value> {
    select(vec![
        json!({}),
        json!({"rack": "1"}),
        json!({"rack": "2"}),
        json!({"romana.io/segment": "s"}),
    ])
}

fn meta(namespaced: bool) -> impl Strategy<Value = Value> {
    let created =
        select(vec![Value::Null, json!("2026-01-01T00:00:00Z"), json!("2026-01-02T00:00:00Z")]);
    (0..3, 0..2, 0..2, labels(), created, prop::bool::weighted(0.1)).prop_map(
        move |(name, namespace, uid, labels, created, ending)| {
            let namespace = namespaced.then(|| format!("ns{namespace}"));
            let ending = ending.then_some("2026-01-03T00:00:00Z");
            json!({"name": format!("x{name}"), "namespace": namespace, "uid": format!("u{}-{name}-{uid}", namespace.as_deref().unwrap_or_default()),
                "labels": labels, "creationTimestamp": created, "deletionTimestamp": ending})
        },
    )
}

fn node() -> impl Strategy<Value = Value> {
    let ips = prop::collection::vec(0..5u8, 0..3);
    (meta(false), ips, any::<bool>()).prop_map(|(meta, ips, unschedulable)| {
        let address = |n: &u8| json!({"type": "InternalIP", "address": format!("192.168.0.{n}")});
        let addresses: Vec<_> = ips.iter().map(address).collect();
        json!({"kind": "Node", "metadata": meta, "spec": {"unschedulable": unschedulable},
            "status": {"addresses": addresses}})
    })
}

fn namespace() -> impl Strategy<Value = Value> {
    (0..2, 0..2, labels()).prop_map(|(n, uid, labels)| {
        let meta =
            json!({"name": format!("ns{n}"), "uid": format!("ns{n}-{uid}"), "labels": labels});
        json!({"kind": "Namespace", "metadata": meta})
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let phase = select(vec!["Running", "Running", "Running", "Pending", "Succeeded", "Failed"]);
    (meta(true), 0..3, 0..12u8, phase, prop::bool::weighted(0.1)).prop_map(
        |(meta, node, ip, phase, host_network)| {
            json!({"kind": "Pod", "metadata": meta,
                "spec": {"nodeName": format!("x{node}"), "hostNetwork": host_network, "containers": []},
                "status": {"phase": phase, "podIP": format!("10.1.0.{ip}")}})
        },
    )
}

fn policy() -> impl Strategy<Value = Value> {
    let spec = select(vec![
        json!({"podSelector": {}}),
        json!({"podSelector": {"matchLabels": {"rack": "1"}}, "policyTypes": ["Egress"]}),
        json!({"podSelector": {}, "unknown": 1}),
        json!({"podSelector": {}, "ingress": [{"ports": [{"endPort": 1}]}]}),
    ]);
    (meta(true), spec)
        .prop_map(|(meta, spec)| json!({"kind": "NetworkPolicy", "metadata": meta, "spec": spec}))
}

fn service() -> impl Strategy<Value = Value> {
    let value = select(vec![
        r#"{"ip": "192.168.99.1"}"#,
        r#"{"ip": "192.168.99.2"}"#,
        r#"{"ip": "192.168.99.3"}"#,
        r#"{"ip": "192.168.99.4,192.168.99.3"}"#,
        r#"{"ip": "192.168.0.1"}"#,
        r#"{"auto": true}"#,
        "{",
    ]);
    let spec = select(vec![
        json!({}),
        json!({"externalIPs": ["192.0.2.9"]}),
        json!({"externalIPs": ["192.168.99.1", "192.0.2.9"]}),
        json!({"type": "LoadBalancer", "loadBalancerClass": "romana.io/vip"}),
        json!({"type": "LoadBalancer", "loadBalancerClass": "romana.io/vip",
            "ipFamilies": ["IPv4", "IPv6"]}),
        json!({"type": "LoadBalancer", "loadBalancerClass": "romana.io/vip",
            "externalTrafficPolicy": "Local", "loadBalancerIP": "192.168.99.2"}),
    ]);
    let key = select(vec![None, Some("k")]);
    let asks = prop::bool::weighted(0.8);
    (meta(true), value, asks, spec, key, 80..82).prop_map(
        |(mut meta, value, asks, mut spec, key, port)| {
            meta["annotations"] = if asks { json!({"romanaip": value}) } else { json!({}) };
            if let Some(key) = key {
                meta["annotations"]["romana.io/allow-shared-ip"] = json!(key);
            }
            spec["ports"] = json!([{"port": port}]);
            json!({"kind": "Service", "metadata": meta, "spec": spec})
        },
    )
}

fn slice() -> impl Strategy<Value = Value> {
    let endpoint = (0..3, any::<Option<bool>>(), any::<Option<bool>>()).prop_map(|(node, ready, serving)| {
        json!({"addresses": ["10.1.0.1"], "nodeName": format!("x{node}"), "conditions": {"ready": ready, "serving": serving}})
    });
    (meta(true), prop::collection::vec(endpoint, 0..3)).prop_map(|(mut meta, endpoints)| {
        meta["labels"] = json!({"kubernetes.io/service-name": meta["name"]});
        json!({"kind": "EndpointSlice", "addressType": "IPv4", "metadata": meta, "endpoints": endpoints})
    })
}

/// What operators and agents do in the log, to objects of the same names.
fn others() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0..3, 0..5, labels()).prop_map(|(n, ip, labels)| json!({"AddHost":
            {"name": format!("x{n}"), "ip": format!("192.168.0.{ip}"), "labels": labels}})),
        (0..3, any::<bool>()).prop_map(
            |(n, force)| json!({"RemoveHost": {"name": format!("x{n}"), "force": force}})
        ),
        (0..3, select(vec!["up", "down", "draining"])).prop_map(
            |(n, state)| json!({"SetHostState": {"name": format!("x{n}"), "state": state}})
        ),
        (0..2, labels()).prop_map(
            |(n, labels)| json!({"CreateTenant": {"id": format!("ns{n}"), "labels": labels}})
        ),
        (0..2).prop_map(|n| json!({"DeleteTenant": {"id": format!("ns{n}")}})),
        (0..2, 0..3).prop_map(|(ns, n)| json!({"SetPolicy": {"name": format!("kube.ns{ns}.x{n}"),
            "applied_to": [{"Tenant": "t"}], "isolates_ingress": true, "isolates_egress": false}})),
        (0..2, 0..3)
            .prop_map(|(ns, n)| json!({"RemovePolicy": {"name": format!("kube.ns{ns}.x{n}")}})),
        (0..2, 0..3, 1..4).prop_map(|(ns, n, ip)| json!({"RequestVip":
            {"name": format!("x{n}.ns{ns}"), "ip": format!("192.168.99.{ip}")}})),
        (0..2, 0..3).prop_map(|(ns, n)| json!({"RemoveVip": {"name": format!("x{n}.ns{ns}")}})),
        select(vec![
            json!([]),
            json!(["192.168.99.2/31"]),
            json!(["192.168.98.0/30", "fd00:98::/64"])
        ])
        .prop_map(|ranges| json!({"SetVipPools": {"pools": [{"name": "p", "ranges": ranges}]}})),
        (0..12).prop_map(|ip| json!({"RemoveEndpoint": {"ip": format!("10.1.0.{ip}")}})),
        (0..2, 0..3, 0..3, 0..3).prop_map(|(ns, n, c, host)| json!({"AllocateAddress":
            {"name": format!("cni:ns{ns}.x{n}:c{c}:eth0"), "host": format!("x{host}"),
             "tenant": format!("ns{ns}"), "segment": "default"}})),
        (0..2, 0..3, 0..3).prop_map(|(ns, n, c)| json!({"ReleaseAddress":
            {"address": format!("cni:ns{ns}.x{n}:c{c}:eth0")}})),
        Just(json!({"EndCooldowns": {"term": 1}})),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kinds = vec!["Node", "Namespace", "Pod", "NetworkPolicy", "Service", "EndpointSlice"];
    let step = prop_oneof![
        2 => node().prop_map(Step::Put),
        1 => namespace().prop_map(Step::Put),
        4 => pod().prop_map(Step::Put),
        1 => policy().prop_map(Step::Put),
        2 => service().prop_map(Step::Put),
        3 => slice().prop_map(Step::Put),
        3 => (select(kinds), 0..6usize).prop_map(|(kind, n)| Step::Delete(kind, n)),
        4 => others().prop_map(Step::Do),
        4 => Just(Step::Pass),
    ];
    prop::collection::vec(step, 1..50)
}

/// What operators made: it has no source.
#[derive(Debug, Default, PartialEq)]
struct Made {
    /// Without their info and state.
    hosts: Vec<Host>,
    tenants: BTreeSet<String>,
    policies: Vec<String>,
    vips: Vec<Vip>,
}

impl Made {
    fn of(state: &State) -> Self {
        let own = |key: ObjectKey| state.source(&key).is_none();
        let hosts = state.hosts().filter(|host| host.source != HostSource::Kubernetes);
        let hosts = hosts.map(|host| Host {
            info: Labels::new(),
            state: romana_statemachine::command::HostState::Up,
            ..host.clone()
        });
        let tenants = state.tenants().map(|(id, _)| id);
        let tenants = tenants.filter(|id| own(ObjectKey::Tenant((*id).clone())));
        let policies = state.policies().filter(|p| own(ObjectKey::Policy(p.name.clone())));
        let vips = state.vips().filter(|vip| own(ObjectKey::Vip(vip.name.clone())));
        Self {
            hosts: hosts.collect(),
            tenants: tenants.map(ToString::to_string).collect(),
            policies: policies.map(|policy| serde_json::to_string(policy).unwrap()).collect(),
            vips: vips.cloned().collect(),
        }
    }
}

/// Nothing remains of an object that is gone, except what waits for the end of others.
fn nothing_remains(cluster: &Cluster) {
    let uids = |names: Vec<Option<String>>| names.into_iter().flatten().collect::<BTreeSet<_>>();
    let objects = &cluster.objects;
    let pods = uids(objects.pods.values().map(|pod| pod.metadata.uid.clone()).collect());
    for (key, source) in cluster.state.sources() {
        let exists = match key {
            ObjectKey::Endpoint(_) => pods.contains(source.uid.as_str()),
            ObjectKey::Policy(policy) => {
                let mut names = objects.policies.keys();
                names
                    .any(|name| policy.as_str() == format!("kube.{}.{}", name.namespace, name.name))
            }
            ObjectKey::Vip(vip) => {
                let mut names = objects.services.keys();
                names.any(|name| first_of(vip) == format!("{}.{}", name.name, name.namespace))
            }
            ObjectKey::Host(host) => {
                let of = |pod: &&std::sync::Arc<k8s_openapi::api::core::v1::Pod>| {
                    let spec = pod.spec.as_ref();
                    spec.and_then(|spec| spec.node_name.as_deref()) == Some(host.as_str())
                };
                objects.nodes.keys().any(|name| name.name == host.as_str())
                    || objects.pods.values().any(|pod| of(&pod))
            }
            ObjectKey::Kubernetes => true,
            ObjectKey::Tenant(tenant) => {
                let owned = cluster.state.ipam().blocks().any(|b| b.owner().tenant == *tenant)
                    || cluster.state.endpoints().any(|e| e.tenant == *tenant)
                    || cluster.state.policies().any(|p| {
                        serde_json::to_string(p).unwrap().contains(&format!("\"{tenant}\""))
                    });
                owned || objects.namespaces.keys().any(|name| name.name == tenant.as_str())
            }
        };
        assert!(exists, "{key} of {source} remains");
    }
}

fn pass(cluster: &mut Cluster, log: &mut String) {
    let before = Made::of(&cluster.state);
    cluster.pass(log);
    assert_eq!(Made::of(&cluster.state), before, "{log}");
    nothing_remains(cluster);
    services_show_vips(cluster, log);
}

/// The name of the first VIP of a Service: further ones have a number behind it.
fn first_of(name: &VipName) -> String {
    let labels: Vec<&str> = name.as_str().split('.').take(2).collect();
    labels.join(".")
}

/// Services show the VIPs that the log has, and nothing else of ours; what others have written there stays.
fn services_show_vips(cluster: &mut Cluster, log: &mut String) {
    let texts = |list: &Value| -> Vec<String> {
        let each = list.as_array().into_iter().flatten();
        each.map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let shown = |service: &Value| -> (Vec<String>, Value) {
        let note = &service["metadata"]["annotations"]["romana.io/vip-status"];
        let note = note.as_str().map(|text| serde_json::from_str(text).unwrap());
        (texts(&service["spec"]["externalIPs"]), note.unwrap_or_default())
    };
    let all = |cluster: &Cluster| -> BTreeMap<String, Value> {
        let all = cluster.objects.services.iter();
        all.map(|(name, service)| (name.to_string(), serde_json::to_value(&**service).unwrap()))
            .collect()
    };
    let before = all(&*cluster);
    cluster.write(log);
    let is_ending = |service: &Value| !service["metadata"]["deletionTimestamp"].is_null();
    for (name, service) in all(&*cluster).into_iter().filter(|(_, service)| !is_ending(service)) {
        let (old, old_note) = shown(&before[&name]);
        let (new, note) = shown(&service);
        let ours = texts(&old_note["externalIPs"]);
        let foreign = old.iter().filter(|ip| !ours.contains(ip));
        foreign.for_each(|ip| assert!(new.contains(ip), "{name} has lost {ip}: {log}"));
        let ingress = &service["status"]["loadBalancer"]["ingress"];
        let Some(vip) = note["vip"].as_str() else {
            assert!(ingress.is_null(), "{name} shows no VIP: {log}");
            assert!(new.iter().all(|ip| old.contains(ip) && !ours.contains(ip)), "{name}: {log}");
            continue;
        };
        let vips = cluster.state.vips().filter(|one| first_of(&one.name) == vip);
        let ips: Vec<String> = vips.map(|one| one.ip.to_string()).collect();
        let shows = |ip: &String| new.contains(ip) || ingress[0]["ip"] == ip.as_str();
        assert!(ips.iter().any(shows), "{name} shows {vip}: {log}");
    }
    for (key, source) in cluster.state.sources() {
        let ObjectKey::Vip(vip) = key else { continue };
        let of = |service: &Value| service["metadata"]["uid"] == source.uid.as_str();
        // None: it was made again with a request that is not understood. One that is ending is not written any more.
        let owner = all(&*cluster).into_values().find(|service| of(service));
        let Some(owner) = owner.filter(|service| !is_ending(service)) else { continue };
        let (_, note) = shown(&owner);
        assert_eq!(note["vip"], first_of(vip), "{log}");
    }
}

fn run(steps: &[Step]) {
    let (mut cluster, mut log) = (Cluster::new(), String::new());
    cluster.apply(&[serde_json::from_str(TOPOLOGY).unwrap()], &mut log);
    for step in steps {
        match step {
            Step::Put(object) => cluster.put(object.clone()),
            Step::Delete(kind, n) => {
                let mut names: BTreeMap<&str, Vec<String>> = BTreeMap::new();
                let objects = &cluster.objects;
                names.insert("Node", objects.nodes.keys().map(ToString::to_string).collect());
                names.insert(
                    "Namespace",
                    objects.namespaces.keys().map(ToString::to_string).collect(),
                );
                names.insert("Pod", objects.pods.keys().map(ToString::to_string).collect());
                names.insert(
                    "NetworkPolicy",
                    objects.policies.keys().map(ToString::to_string).collect(),
                );
                names.insert("Service", objects.services.keys().map(ToString::to_string).collect());
                names.insert(
                    "EndpointSlice",
                    objects.slices.keys().map(ToString::to_string).collect(),
                );
                if let Some(name) = names[*kind].get(*n) {
                    cluster.delete(kind, name);
                }
            }
            Step::Do(command) => {
                let command: Command = serde_json::from_value(command.clone()).unwrap();
                cluster.at += 10_000;
                cluster.apply(&[command], &mut log);
            }
            Step::Pass => pass(&mut cluster, &mut log),
        }
    }
    pass(&mut cluster, &mut log);
}

/// JSON with the names of fields that are read, and anything in them.
fn anything() -> impl Strategy<Value = Value> {
    const KEYS: [&str; 34] = [
        "metadata",
        "spec",
        "status",
        "name",
        "namespace",
        "uid",
        "labels",
        "annotations",
        "addresses",
        "type",
        "address",
        "unschedulable",
        "podCIDR",
        "podCIDRs",
        "containers",
        "initContainers",
        "restartPolicy",
        "ports",
        "containerPort",
        "protocol",
        "nodeName",
        "phase",
        "podIP",
        "podIPs",
        "ip",
        "romanaip",
        "endpoints",
        "conditions",
        "ready",
        "kubernetes.io/service-name",
        "podSelector",
        "ingress",
        "subsets",
        "deletionTimestamp",
    ];
    let long = "x".repeat(300);
    let texts = vec![
        String::new(),
        "a".into(),
        "n1".into(),
        "10.1.0.1".into(),
        "192.168.0.1".into(),
        "::1".into(),
        "InternalIP".into(),
        "Always".into(),
        "UDP".into(),
        "10.1.0.0/24".into(),
        "\u{1b}[31m".into(),
        "ü/ß".into(),
        r#"{"ip": "192.168.99.1"}"#.into(),
        "Succeeded".into(),
        "2026-01-01T00:00:00Z".into(),
        long,
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        select(vec![-1i64, 0, 1, 80, 65_536, i64::from(i32::MAX)]).prop_map(Value::from),
        select(texts).prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, |inner| {
        let key = select(KEYS.to_vec()).prop_map(str::to_owned);
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            3 => prop::collection::btree_map(key, inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// An object with parts replaced by anything.
fn damaged() -> impl Strategy<Value = (String, Value)> {
    let object = prop_oneof![node(), namespace(), pod(), policy(), service(), slice()];
    (object, prop::collection::vec((any::<prop::sample::Index>(), anything()), 0..3)).prop_map(
        |(mut object, parts)| {
            let kind = object["kind"].as_str().unwrap().to_owned();
            for (at, part) in parts {
                let mut paths = Vec::new();
                walk(&object, String::new(), &mut paths);
                if let Some(place) = object.pointer_mut(&paths[at.index(paths.len())]) {
                    *place = part;
                }
            }
            (kind, object)
        },
    )
}

/// The pointers to all parts of a value.
fn walk(value: &Value, at: String, paths: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = key.replace('~', "~0").replace('/', "~1");
                walk(value, format!("{at}/{key}"), paths);
            }
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(n, value)| walk(value, format!("{at}/{n}"), paths));
        }
        _ => {}
    }
    paths.push(at);
}

proptest! {
    #[test]
    fn the_log_follows_kubernetes(steps in steps()) {
        run(&steps);
    }

    #[test]
    fn no_object_does_harm(objects in prop::collection::vec(damaged(), 1..12)) {
        let (mut cluster, mut log) = (Cluster::new(), String::new());
        cluster.apply(&[serde_json::from_str(TOPOLOGY).unwrap()], &mut log);
        for (kind, object) in objects {
            cluster.try_put(&kind, object);
        }
        cluster.pass(&mut log);
    }

    #[test]
    fn no_json_does_harm(kind in select(vec!["Node", "Namespace", "Pod", "NetworkPolicy", "Service", "EndpointSlice", "Endpoints"]), object in anything()) {
        let mut cluster = Cluster::new();
        cluster.try_put(kind, object);
        cluster.pass(&mut String::new());
    }
}

/// The nodes that are not to have load balancers, as their label says, have annotated Services only.
#[test]
fn excluded_nodes_have_no_load_balancers() {
    let mut cluster = Cluster::new();
    for (name, ip, labels) in [
        (
            "n1",
            "192.168.0.1",
            json!({"node.kubernetes.io/exclude-from-external-load-balancers": ""}),
        ),
        ("n2", "192.168.0.2", json!({})),
    ] {
        let status = json!({"addresses": [{"type": "InternalIP", "address": ip}]});
        let meta = json!({"name": name, "labels": labels});
        cluster.put(json!({"kind": "Node", "metadata": meta, "status": status}));
    }
    let balancer = |ip: &str, policy: &str| {
        json!({"type": "LoadBalancer", "loadBalancerClass": "romana.io/vip", "loadBalancerIP": ip,
            "externalTrafficPolicy": policy})
    };
    for (name, spec, annotations) in [
        ("any", balancer("192.168.99.1", "Cluster"), json!({})),
        ("local", balancer("192.168.99.2", "Local"), json!({})),
        ("external", json!({}), json!({"romanaip": r#"{"ip": "192.168.99.3"}"#})),
    ] {
        let meta = json!({"namespace": "shop", "name": name, "annotations": annotations});
        cluster.put(json!({"kind": "Service", "metadata": meta, "spec": spec}));
        let labels = json!({"kubernetes.io/service-name": name});
        let meta = json!({"namespace": "shop", "name": name, "labels": labels});
        let endpoints = json!([{"addresses": ["10.1.0.1"], "nodeName": "n1"}]);
        cluster.put(json!({"kind": "EndpointSlice", "addressType": "IPv4", "metadata": meta,
            "endpoints": endpoints}));
    }
    let translation = translate(&cluster.objects);
    let candidates = |name: &str| {
        let found = translation.desired.get(&ObjectKey::Vip(name.into()));
        found.map(|desired| match &desired.wanted {
            Wanted::Object(Imported::Vip(spec)) => spec.candidates.clone(),
            other => panic!("{other:?}"),
        })
    };
    // No node has an endpoint that counts: any other one forwards.
    assert_eq!(candidates("any.shop"), Some(vec!["n2".into()]));
    assert_eq!(candidates("local.shop"), None);
    assert_eq!(candidates("external.shop"), Some(vec!["n1".into()]));
    let reasons: Vec<&str> = translation.problems.iter().map(|one| one.reason.as_str()).collect();
    assert_eq!(reasons, ["NoReadyEndpoint"]);
}

/// Before objects have sources, nothing is imported: nothing of it could be withdrawn.
#[test]
fn nothing_before_version_four() {
    let mut cluster = Cluster::new();
    cluster.put(json!({"kind": "Namespace", "metadata": {"name": "shop"}}));
    let plan = diff(&State::new(), &translate(&cluster.objects), Term(1));
    assert_eq!(plan, romana_kubernetes::Plan::default());
}

/// The plan for very many objects is made in one pass, and each is imported once.
#[test]
fn ten_thousand_pods() {
    let (mut cluster, mut log) = (Cluster::new(), String::new());
    let topology = TOPOLOGY.replace("10.1.0.0/24", "10.0.0.0/8");
    cluster.apply(&[serde_json::from_str(&topology).unwrap()], &mut log);
    cluster.put(json!({"kind": "Namespace", "metadata": {"name": "shop"}}));
    cluster.put(json!({"kind": "Node", "metadata": {"name": "n1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]}}));
    for n in 0..10_000u32 {
        let ip = std::net::Ipv4Addr::from(0x0a01_0000 + n);
        cluster.put(json!({"kind": "Pod", "metadata": {"namespace": "shop", "name": format!("p{n}")},
            "spec": {"nodeName": "n1", "containers": []}, "status": {"phase": "Running", "podIP": ip}}));
    }
    let translation = translate(&cluster.objects);
    let plan = diff(&cluster.state, &translation, Term(1));
    assert_eq!((plan.commands.len(), plan.problems.len()), (10_002, 0));
    cluster.apply(&plan.commands, &mut log);
    assert_eq!(diff(&cluster.state, &translation, Term(1)), romana_kubernetes::Plan::default());
}

/// What exceeds a limit of the log is a problem of its object; nothing of it is imported, and nothing is truncated.
#[test]
fn what_is_too_large_is_refused() {
    let (mut cluster, mut log) = (Cluster::new(), String::new());
    cluster.apply(&[serde_json::from_str(TOPOLOGY).unwrap()], &mut log);
    let status = json!({"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]});
    cluster.put(json!({"kind": "Node", "metadata": {"name": "n1"}, "status": status}));
    let pod = |name: &str, labels: Value, ports: Vec<Value>, ip: &str| {
        let meta = json!({"namespace": "shop", "name": name, "uid": name, "labels": labels});
        let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "ports": ports}]});
        json!({"kind": "Pod", "metadata": meta, "spec": spec, "status": {"phase": "Running", "podIP": ip}})
    };
    let ports =
        |n: u32| (1..=n).map(|n| json!({"name": format!("p{n}"), "containerPort": n})).collect();
    let labels =
        |n: u32| (1..=n).map(|n| (format!("l{n}"), json!("v"))).collect::<serde_json::Map<_, _>>();
    cluster.put(pod("most", labels(128).into(), ports(256), "10.1.0.1"));
    cluster.put(pod("ports", json!({}), ports(257), "10.1.0.2"));
    cluster.put(pod("labels", labels(129).into(), Vec::new(), "10.1.0.3"));
    cluster.put(pod("long", json!({"k": "v".repeat(1025)}), Vec::new(), "10.1.0.4"));
    let addresses: Vec<_> = (1..=17)
        .map(|n| json!({"type": "InternalIP", "address": format!("192.168.1.{n}")}))
        .collect();
    let status = json!({"addresses": addresses});
    cluster.put(json!({"kind": "Node", "metadata": {"name": "n2"}, "status": status}));
    let (long, uid) = ("x".repeat(254), "u");
    cluster.put(json!({"kind": "Namespace", "metadata": {"name": long, "uid": uid}}));
    cluster.put(
        json!({"kind": "NetworkPolicy", "metadata": {"namespace": long, "name": "p", "uid": uid},
        "spec": {"podSelector": {}}}),
    );
    let plan = cluster.pass(&mut log).plan;
    let problems: Vec<_> =
        plan.problems.iter().map(|p| (p.object.kind, p.reason.as_str())).collect();
    let expected = [
        ("Namespace", "InvalidName"),
        ("NetworkPolicy", "InvalidName"),
        ("Node", "TooLarge"),
        ("Pod", "InvalidLabels"),
        ("Pod", "InvalidLabels"),
        ("Pod", "InvalidEndpoint"),
    ];
    let sorted = |list: &[(&'static str, &str)]| {
        let mut list: Vec<_> =
            list.iter().map(|(kind, reason)| format!("{kind} {reason}")).collect();
        list.sort();
        list
    };
    assert_eq!(sorted(&problems), sorted(&expected), "{:?}", plan.problems);
    assert_eq!((cluster.state.endpoints().count(), cluster.state.hosts().count()), (1, 1));
}

//! The objects of each overlay hold together.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::deploy;
use crate::kustomize::{Template, items, named, of_kind, overlays, rendered, text};

/// Where the image has the programs.
pub(crate) const PROGRAMS: &str = "/opt/romana/";
/// Kinds that belong to no namespace.
const OF_CLUSTER: [&str; 2] = ["ClusterRole", "ClusterRoleBinding"];
/// The Service that kubelets name to pods.
const DNS_SERVICE: &str = "kube-dns";
/// Paths that all our daemons answer.
const PROBED: [&str; 2] = ["/healthz", "/readyz"];

#[test]
fn there_is_an_overlay_for_each_kind_of_cluster() {
    assert_eq!(
        overlays(),
        ["custom-topology", "kops-aws", "kubeadm", "kubeadm-dns", "kubeadm-single"]
    );
}

#[test]
fn objects_are_labelled_and_in_their_namespace() {
    for overlay in overlays() {
        let objects = rendered(&overlay);
        for object in &objects {
            let (kind, metadata) = (text(object, "kind"), &object["metadata"]);
            assert_eq!(metadata["labels"]["app.kubernetes.io/part-of"], "romana", "{metadata}");
            let wanted = (!OF_CLUSTER.contains(&kind)).then_some("kube-system");
            assert_eq!(metadata["namespace"].as_str(), wanted, "{overlay}: {metadata}");
        }
        let workloads = Template::all(&objects);
        assert!(workloads.len() >= 2, "{overlay}: {} workloads", workloads.len());
        for Template { owner, .. } in workloads {
            let labels = match text(owner, "kind") {
                "CronJob" => &owner["spec"]["jobTemplate"]["spec"]["template"]["metadata"],
                _ => &owner["spec"]["template"]["metadata"],
            };
            let labels = &labels["labels"];
            for name in ["name", "component", "part-of"] {
                assert!(labels[format!("app.kubernetes.io/{name}")].is_string(), "{labels}");
            }
        }
    }
}

/// The image is named in one place, with the version of the programs.
#[test]
fn all_containers_have_the_image_of_this_version() {
    let wanted = format!("localhost/romana:{}", env!("CARGO_PKG_VERSION"));
    for overlay in overlays() {
        for template in Template::all(&rendered(&overlay)) {
            for container in template.containers() {
                assert_eq!(text(container, "image"), wanted, "{overlay}");
            }
        }
    }
    let mut left = vec![deploy().join("kubernetes")];
    let mut pinned = Vec::new();
    while let Some(dir) = left.pop() {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                left.push(path);
            } else if fs::read_to_string(&path).unwrap().contains("newTag:") {
                pinned.push(path);
            }
        }
    }
    assert_eq!(pinned, [deploy().join("kubernetes/base/kustomization.yaml")]);
}

/// Names of ConfigMaps that a pod uses.
fn used_configs(template: &Template<'_>) -> Vec<String> {
    let volumes = items(&template.pod["volumes"]);
    let volumes = volumes.filter_map(|volume| volume["configMap"]["name"].as_str());
    let sources = template.containers().flat_map(|container| items(&container["envFrom"]));
    let sources = sources.map(|source| text(&source["configMapRef"], "name"));
    volumes.chain(sources).map(Into::into).collect()
}

#[test]
fn what_a_pod_uses_is_there() {
    for overlay in overlays() {
        let objects = rendered(&overlay);
        let mut used = BTreeSet::new();
        for template in Template::all(&objects) {
            for name in used_configs(&template) {
                named(&objects, "ConfigMap", &name);
                used.insert(name);
            }
            if let Some(account) = template.pod["serviceAccountName"].as_str() {
                named(&objects, "ServiceAccount", account);
            }
            let claims = items(&template.owner["spec"]["volumeClaimTemplates"])
                .map(|claim| text(&claim["metadata"], "name"));
            let volumes = items(&template.pod["volumes"]).map(|volume| text(volume, "name"));
            let volumes: BTreeSet<&str> = volumes.chain(claims).collect();
            let mounts = template.containers().flat_map(|one| items(&one["volumeMounts"]));
            let mounted: BTreeSet<&str> = mounts.map(|mount| text(mount, "name")).collect();
            assert_eq!(mounted, volumes, "{overlay}: volumes and mounts");
        }
        for config in of_kind(&objects, "ConfigMap") {
            let name = text(&config["metadata"], "name");
            assert!(used.contains(name), "{overlay}: nothing uses ConfigMap {name}");
        }
    }
}

/// Probes ask for paths that are answered, at ports that the container declares; so do Services.
#[test]
fn probes_and_services_name_ports_that_exist() {
    for overlay in overlays() {
        let objects = rendered(&overlay);
        for template in Template::all(&objects) {
            if text(template.owner, "kind") == "CronJob" {
                continue;
            }
            for container in items(&template.pod["containers"]) {
                for (probe, path) in
                    [("startup", 0), ("liveness", 0), ("readiness", 1)].map(|(a, b)| (a, PROBED[b]))
                {
                    let http = &container[format!("{probe}Probe")]["httpGet"];
                    assert_eq!(text(http, "path"), path, "{probe}");
                    assert!(port(container, text(http, "port")).is_some(), "{probe}: {http}");
                }
            }
        }
        let romanad = &named(&objects, "StatefulSet", "romanad")["spec"]["template"]["spec"];
        let container = &romanad["containers"][0];
        let of_dns = |service: &Value| text(&service["metadata"], "name") == DNS_SERVICE;
        for service in of_kind(&objects, "Service").into_iter().filter(|one| !of_dns(one)) {
            for entry in items(&service["spec"]["ports"]) {
                assert_eq!(entry["port"].as_u64(), port(container, text(entry, "targetPort")));
            }
        }
        assert_eq!(port(container, "api"), Some(u64::from(romana_client::API_PORT)));
        let agent = &named(&objects, "DaemonSet", "romana-agent")["spec"]["template"]["spec"];
        let metrics = port(&agent["containers"][0], "metrics");
        assert_eq!(metrics, Some(u64::from(romana_agent::config::METRICS_PORT)));
    }
}

fn port(container: &Value, name: &str) -> Option<u64> {
    let port = items(&container["ports"]).find(|port| port["name"] == name);
    port.and_then(|port| port["containerPort"].as_u64())
}

/// Both run where there is no network yet: without names, on nodes that are not ready.
#[test]
fn they_run_before_there_is_a_network() {
    for overlay in overlays() {
        let objects = rendered(&overlay);
        for (kind, name) in [("StatefulSet", "romanad"), ("DaemonSet", "romana-agent")] {
            let pod = &named(&objects, kind, name)["spec"]["template"]["spec"];
            assert_eq!((&pod["hostNetwork"], &pod["dnsPolicy"]), (&true.into(), &"Default".into()));
            let tolerated = |key: &str| {
                items(&pod["tolerations"]).any(|one| {
                    let same_key = one["key"].is_null() || one["key"] == key;
                    same_key && one["operator"] == "Exists" && one["effect"] != "NoExecute"
                })
            };
            for key in [
                "node.kubernetes.io/not-ready",
                "node.kubernetes.io/network-unavailable",
                "node-role.kubernetes.io/control-plane",
                "node-role.kubernetes.io/master",
            ] {
                assert!(tolerated(key), "{overlay}: {name} does not tolerate {key}");
            }
        }
    }
}

/// The replicas' files, the Services and the agents agree about addresses.
#[test]
fn addresses_are_the_same_everywhere() {
    for overlay in overlays() {
        let objects = rendered(&overlay);
        let address = |name: &str| text(&named(&objects, "Service", name)["spec"], "clusterIP");
        let files = &named(&objects, "ConfigMap", "romanad-replicas")["data"];
        let set = &named(&objects, "StatefulSet", "romanad")["spec"];
        let founders = set["replicas"].as_u64().unwrap();
        let list: Vec<String> = (0..founders)
            .map(|at| format!("{} = \"{}:9601\"", at + 1, address(&format!("romanad-{at}"))))
            .collect();
        let files_count = files.as_object().unwrap().len() as u64;
        assert_eq!(files_count, 5, "{overlay}");
        for at in 0..files_count {
            let name = format!("romanad-{at}");
            let (own, file) = (address(&name), text(files, &format!("{name}.toml")));
            let lines: Vec<&str> = file.lines().filter(|line| !line.starts_with('#')).collect();
            let rejoin = format!("rejoin = [\"http://{}:9600\"]", address("romana"));
            if at < founders {
                let id = format!("id = {}", at + 1);
                let begin = [id, rejoin, String::new(), "[initial_cluster]".into()];
                assert_eq!(lines, [&begin[..], &list[..]].concat(), "{overlay}: {name}");
            } else {
                let join = format!("join = [\"http://{}:9600\"]", address("romana"));
                let own = format!("advertise_peer = \"{own}:9601\"");
                assert_eq!(lines, [join, own, rejoin], "{overlay}: {name}");
            }
            let selector = &named(&objects, "Service", &name)["spec"]["selector"];
            assert_eq!(selector["statefulset.kubernetes.io/pod-name"], *name);
        }
        let api = format!("http://{}", address("romana"));
        let agents: Vec<&str> = of_kind(&objects, "ConfigMap")
            .into_iter()
            .filter_map(|config| config["data"]["ROMANA_AGENT_SERVER"].as_str())
            .collect();
        assert_eq!(agents, [format!("{api}:9600")], "{overlay}");
        for job in of_kind(&objects, "CronJob") {
            let spec = &job["spec"]["jobTemplate"]["spec"]["template"]["spec"];
            assert_eq!(spec["containers"][0]["args"][0], format!("--rootURL={api}"), "{overlay}");
        }
    }
}

/// A founder that is alone and comes to a node without its data would found an empty cluster: it is bound to the node that
/// its operator has labelled. With others to ask it refuses, so these run where they can.
#[test]
fn a_lone_founder_stays_with_its_data() {
    let mut alone = Vec::new();
    for overlay in overlays() {
        let objects = rendered(&overlay);
        let set = &named(&objects, "StatefulSet", "romanad")["spec"];
        let pod = &set["template"]["spec"];
        let nodes = &pod["affinity"]["nodeAffinity"];
        let required = &nodes["requiredDuringSchedulingIgnoredDuringExecution"];
        let on_its_node = items(&pod["volumes"])
            .any(|volume| volume["name"] == "data" && volume["hostPath"].is_object());
        if set["replicas"] == 1 && on_its_node {
            // Terms are alternatives: one more would let it go elsewhere.
            let label = json!([{"key": "romana.io/replica", "operator": "Exists"}]);
            let terms = json!([{"matchExpressions": label}]);
            assert_eq!(required["nodeSelectorTerms"], terms, "{overlay}");
            alone.push(overlay);
        } else {
            assert!(required.is_null(), "{overlay}: {required}");
        }
    }
    assert_eq!(alone, ["kubeadm-single"]);
    let guide = fs::read_to_string(deploy().join("README.md")).unwrap();
    assert!(guide.contains("kubectl label node NODE romana.io/replica="));
}

/// The Service is that of kube-dns, at its address, by UDP and TCP; it selects our pods, which no policy closes.
#[test]
fn dns_takes_the_place_of_kube_dns() {
    let objects = rendered("kubeadm-dns");
    let service = named(&objects, "Service", DNS_SERVICE);
    assert_eq!(text(&service["spec"], "clusterIP"), "10.96.0.10");
    let deployment = named(&objects, "Deployment", "romana-dns");
    assert_eq!(deployment["spec"]["replicas"], 2);
    let template = &deployment["spec"]["template"];
    for (key, value) in service["spec"]["selector"].as_object().unwrap() {
        assert_eq!(&template["metadata"]["labels"][key], value);
    }
    let (pod, ports) = (&template["spec"], &service["spec"]["ports"]);
    // Itself as its upstream would be a loop.
    assert_eq!(pod["dnsPolicy"], "Default");
    let container = &pod["containers"][0];
    let served: Vec<(u64, &str)> =
        items(ports).map(|one| (one["port"].as_u64().unwrap(), text(one, "protocol"))).collect();
    assert_eq!(served, [(53, "UDP"), (53, "TCP"), (9153, "TCP")]);
    let policy = named(&objects, "NetworkPolicy", "romana-dns");
    let open: Vec<u64> = items(&policy["spec"]["ingress"][0]["ports"])
        .map(|one| one["port"].as_u64().unwrap())
        .collect();
    for entry in items(ports) {
        let target = port(container, text(entry, "targetPort")).unwrap();
        assert!(open.contains(&target), "{target} is closed");
    }
    for other in overlays().iter().filter(|other| *other != "kubeadm-dns") {
        assert!(of_kind(&rendered(other), "Deployment").is_empty(), "{other} replaces the DNS");
    }
}

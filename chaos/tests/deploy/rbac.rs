//! Privileges: exactly those that are listed here.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::kustomize::{Template, items, named, of_kind, overlays, rendered, text};

/// What `romanad --kubernetes` may do: group, resource, verbs.
pub(crate) const ALLOWED: [(&str, &str, &[&str]); 9] = [
    ("", "endpoints", &["list", "watch"]),
    ("", "namespaces", &["list", "watch"]),
    ("", "nodes", &["list", "watch"]),
    ("", "pods", &["list", "watch"]),
    ("", "services", &["list", "patch", "watch"]),
    ("", "services/status", &["patch"]),
    ("discovery.k8s.io", "endpointslices", &["list", "watch"]),
    ("events.k8s.io", "events", &["create", "patch"]),
    ("networking.k8s.io", "networkpolicies", &["list", "watch"]),
];

/// What `romana-dns --kubernetes` may do.
pub(crate) const DNS_ALLOWED: [(&str, &str, &[&str]); 4] = [
    ("", "endpoints", &["list", "watch"]),
    ("", "namespaces", &["list", "watch"]),
    ("", "services", &["list", "watch"]),
    ("discovery.k8s.io", "endpointslices", &["list", "watch"]),
];

/// Overlays with romana-dns.
const WITH_DNS: [&str; 1] = ["kubeadm-dns"];

/// The capabilities of the agent: the same in its unit.
pub(crate) const AGENT_CAPABILITIES: [&str; 5] =
    ["NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_MODULE", "SYS_PTRACE"];

/// Triples that a role grants.
fn granted(role: &Value) -> BTreeSet<(String, String, String)> {
    let words = |rule: &Value, field: &str| -> Vec<String> {
        items(&rule[field]).map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    let mut found = BTreeSet::new();
    for rule in items(&role["rules"]) {
        assert!(rule["nonResourceURLs"].is_null() && rule["resourceNames"].is_null(), "{rule}");
        for group in words(rule, "apiGroups") {
            for resource in words(rule, "resources") {
                for verb in words(rule, "verbs") {
                    let new = found.insert((group.clone(), resource.clone(), verb.clone()));
                    assert!(new, "{group} {resource} {verb} is granted twice");
                }
            }
        }
    }
    found
}

fn triples(allowed: &[(&str, &str, &[&str])]) -> BTreeSet<(String, String, String)> {
    let each = allowed.iter().flat_map(|(group, resource, verbs)| {
        verbs.iter().map(move |verb| ((*group).into(), (*resource).into(), (*verb).to_owned()))
    });
    each.collect()
}

#[test]
fn the_control_plane_may_read_and_write_events_and_services_and_dns_may_read() {
    for overlay in overlays() {
        let objects = rendered(&overlay);
        let mut programs = vec![("romanad", triples(&ALLOWED))];
        if WITH_DNS.contains(&&*overlay) {
            programs.push(("romana-dns", triples(&DNS_ALLOWED)));
        }
        let roles = [of_kind(&objects, "ClusterRole"), of_kind(&objects, "Role")].concat();
        assert_eq!(roles.len(), programs.len(), "{overlay}");
        let bindings = of_kind(&objects, "ClusterRoleBinding");
        assert_eq!(bindings.len(), programs.len(), "{overlay}");
        for (name, wanted) in programs {
            assert_eq!(granted(named(&objects, "ClusterRole", name)), wanted, "{overlay}");
            let binding = named(&objects, "ClusterRoleBinding", name);
            let subject =
                json!({"kind": "ServiceAccount", "name": name, "namespace": "kube-system"});
            assert_eq!(binding["subjects"], json!([subject]));
            assert_eq!(binding["roleRef"]["name"], name);
        }
    }
}

/// Only those who ask it have a token of the API server.
#[test]
fn others_have_no_token() {
    for overlay in overlays() {
        let objects = rendered(&overlay);
        for account in of_kind(&objects, "ServiceAccount") {
            assert_eq!(account["automountServiceAccountToken"], false);
        }
        for template in Template::all(&objects) {
            let name = text(&template.owner["metadata"], "name");
            let wanted = ["romanad", "romana-dns"].contains(&name);
            assert_eq!(template.pod["automountServiceAccountToken"], wanted);
        }
    }
}

#[test]
fn capabilities_are_listed() {
    for overlay in overlays() {
        let objects = rendered(&overlay);
        for template in Template::all(&objects) {
            for container in template.containers() {
                let security = &container["securityContext"];
                assert_eq!(security["readOnlyRootFilesystem"], true, "{container}");
                assert_eq!(security["capabilities"]["drop"], json!(["ALL"]), "{container}");
                let added =
                    items(&security["capabilities"]["add"]).map(|one| one.as_str().unwrap());
                let added: BTreeSet<&str> = added.collect();
                let wanted: &[&str] = match text(container, "name") {
                    "agent" => &AGENT_CAPABILITIES,
                    "install-cni" => &["DAC_OVERRIDE"],
                    _ => &[],
                };
                assert_eq!(added, wanted.iter().copied().collect(), "{overlay}");
                assert!(security["privileged"].is_null(), "{overlay}: {container}");
                assert_eq!(security["allowPrivilegeEscalation"], false, "{container}");
            }
        }
    }
}

/// Only the agent sees parts of its node that are not its own, and changes nothing in most of them.
#[test]
fn the_agent_sees_what_it_needs_of_its_node() {
    let objects = rendered("kubeadm");
    let pod = &named(&objects, "DaemonSet", "romana-agent")["spec"]["template"]["spec"];
    let shown = |container: &Value| -> Vec<(String, bool)> {
        let mounts = items(&container["volumeMounts"]).map(|mount| {
            let volume = items(&pod["volumes"]).find(|volume| volume["name"] == mount["name"]);
            let path = text(&volume.unwrap()["hostPath"], "path").to_owned();
            (path, mount["readOnly"] == true)
        });
        mounts.collect()
    };
    let path = |path: &str, read_only| (path.to_owned(), read_only);
    let agent = [
        path("/run/romana", false),
        path("/var/lib/romana", false),
        path("/run/netns", false),
        path("/run/xtables.lock", false),
        path("/proc/sys/net", false),
        path("/usr", true),
        path("/etc/alternatives", true),
    ];
    assert_eq!(shown(&pod["containers"][0]), agent);
    let install = [path("/opt/cni/bin", false), path("/etc/cni/net.d", false)];
    assert_eq!(shown(&pod["initContainers"][0]), install);
}

//! A real kube-apiserver takes the overlays, and gives romanad the permissions that it has in the manifests. The server is
//! the one that `deploy/test-kubernetes.sh` builds; without it, nothing is tested here, except in CI, where that fails.

use std::time::Duration;

use romana_chaos::wait::until;
use romana_testing::ApiServer;

use crate::rbac::ALLOWED;
use crate::{deploy, must};

const PATIENCE: Duration = Duration::from_secs(60);
/// Service ranges, and the overlays for them.
const RANGES: [(&str, &[&str]); 2] = [
    ("10.96.0.0/12", &["kubeadm", "kubeadm-dns", "kubeadm-single", "custom-topology"]),
    ("100.64.0.0/13", &["kops-aws"]),
];
/// Who the control plane is.
const ACCOUNT: &str = "system:serviceaccount:kube-system:romanad";

/// Whether the control plane's account may do this. `resource` may be a part of one, such as `services/status`.
fn may(server: &ApiServer, verb: &str, resource: &str, group: &str) -> bool {
    let (resource, part) = resource.split_once('/').unwrap_or((resource, ""));
    let resource = if group.is_empty() { resource.into() } else { format!("{resource}.{group}") };
    let part = format!("--subresource={part}");
    let asked = ["auth", "can-i", verb, &resource, "--all-namespaces", "--as", ACCOUNT, &part];
    // It fails where it says no.
    server.kubectl(&asked, "").is_ok_and(|said| said.trim() == "yes")
}

#[tokio::test]
async fn the_api_server_takes_every_overlay() {
    for (range, overlays) in RANGES {
        let Some(server) = ApiServer::start(range, &[]) else { return };
        until("a ready API server", PATIENCE, async || server.is_ready()).await.unwrap();
        let apply = deploy().join("kubernetes/dry-run.sh");
        for overlay in overlays {
            let said = must(server.command(&apply).arg(overlay));
            let taken = |line: &str| line.ends_with("(server dry run)");
            assert!(said.lines().count() > 15 && said.lines().all(taken), "{overlay}: {said}");
        }
        must(server.command(&apply).args([overlays[0], "--apply"]));
        // Again: nothing is left to change. kubectl takes the defaults in claim templates for a difference, which the
        // server does not.
        let again = must(server.command(&apply).args([overlays[0], "--apply"]));
        let set = "statefulset.apps/romanad configured";
        assert!(again.lines().all(|line| line.ends_with("unchanged") || line == set), "{again}");
        let form = "--output=jsonpath={.metadata.generation}";
        let generation = ["get", "statefulset", "romanad", "--namespace=kube-system", form];
        assert_eq!(server.kubectl(&generation, "").unwrap(), "1");
        assert_permissions(&server);
    }
}

/// Reading, Events, and Services where they show VIPs; nothing else that would harm.
fn assert_permissions(server: &ApiServer) {
    for (group, resource, verbs) in ALLOWED {
        for verb in verbs {
            assert!(may(server, verb, resource, group), "{verb} {resource}");
        }
    }
    for (verb, resource, group) in [
        ("list", "secrets", ""),
        ("list", "configmaps", ""),
        ("create", "pods", ""),
        ("update", "services", ""),
        ("create", "services", ""),
        ("delete", "services", ""),
        ("patch", "pods", ""),
        ("patch", "nodes/status", ""),
        ("patch", "nodes", ""),
        ("delete", "networkpolicies", "networking.k8s.io"),
        ("list", "events", "events.k8s.io"),
    ] {
        assert!(!may(server, verb, resource, group), "{verb} {resource}");
    }
}

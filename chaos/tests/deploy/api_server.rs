//! A real kube-apiserver takes the overlays, and gives romanad the permissions that it has in the manifests. The server is
//! the one that `deploy/test-kubernetes.sh` builds; without it, nothing is tested here, except in CI, where that fails.

#[path = "../../../deploy/built.rs"]
mod built;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use romana_chaos::cluster::free_ports;
use romana_chaos::wait::until;
use serde_json::json;
use tempfile::TempDir;

use crate::rbac::ALLOWED;
use crate::{deploy, must, output};

const PATIENCE: Duration = Duration::from_secs(60);
/// Service ranges, and the overlays for them.
const RANGES: [(&str, &[&str]); 2] = [
    ("10.96.0.0/12", &["kubeadm", "kubeadm-dns", "kubeadm-single", "custom-topology"]),
    ("100.64.0.0/13", &["kops-aws"]),
];
/// Who the control plane is.
const ACCOUNT: &str = "system:serviceaccount:kube-system:romanad";

/// An API server with its etcd on loopback, and a kubeconfig of its administrator; killed on drop.
struct Server {
    dir: TempDir,
    children: Vec<Child>,
}

impl Server {
    async fn start(program: &Path, range: &str) -> Self {
        let dir = TempDir::with_prefix("deploy-").unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        fs::write(path("tokens.csv"), "admin-token,admin,uid-admin,system:masters\n").unwrap();
        must(Command::new("openssl").args(["genrsa", "-out", &path("key.pem"), "2048"]));
        let ports = free_ports(3).unwrap();
        let etcd = format!("http://127.0.0.1:{}", ports[0]);
        let mut commands = [Command::new("etcd"), Command::new(program)];
        commands[0]
            .args(["--data-dir", &path("etcd"), "--listen-client-urls", &etcd])
            .args(["--advertise-client-urls", &etcd])
            .args(["--listen-peer-urls", &format!("http://127.0.0.1:{}", ports[1])]);
        commands[1]
            .args(["--etcd-servers", &etcd, "--bind-address=127.0.0.1"])
            .arg(format!("--secure-port={}", ports[2]))
            .args([format!("--service-cluster-ip-range={range}"), "--allow-privileged=true".into()])
            .args(["--authorization-mode=RBAC", "--endpoint-reconciler-type=none"])
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .args(["--cert-dir", &path("certs"), "--token-auth-file", &path("tokens.csv")])
            .args(["--service-account-key-file", &path("key.pem")])
            .args(["--service-account-signing-key-file", &path("key.pem")]);
        let children = commands.iter_mut().map(|command| {
            let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            quiet.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
        });
        let children = children.collect();
        let server = Self { dir, children };
        server.write_kubeconfig(ports[2]);
        let ready = until("a ready API server", PATIENCE, async || {
            output(server.kubectl().args(["get", "--raw", "/readyz"])).status.success()
        });
        ready.await.unwrap();
        server
    }

    fn write_kubeconfig(&self, port: u16) {
        let cluster = json!({
            "server": format!("https://127.0.0.1:{port}"),
            "certificate-authority": self.dir.path().join("certs/apiserver.crt"),
        });
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": "admin-token"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        });
        fs::write(self.kubeconfig(), config.to_string()).unwrap();
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// A command that uses this server.
    fn of(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        // Discovery is cached in the home directory.
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.dir.path());
        command
    }

    fn kubectl(&self) -> Command {
        self.of("kubectl")
    }

    /// Whether the control plane's account may do this.
    fn may(&self, verb: &str, resource: &str, group: &str) -> bool {
        let (resource, part) = resource.split_once('/').unwrap_or((resource, ""));
        let resource =
            if group.is_empty() { resource.into() } else { format!("{resource}.{group}") };
        let mut asked = self.kubectl();
        asked.args(["auth", "can-i", verb, &resource, "--all-namespaces", "--as", ACCOUNT]);
        asked.arg(format!("--subresource={part}"));
        String::from_utf8_lossy(&output(&mut asked).stdout).trim() == "yes"
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in &mut self.children {
            // A process that has ended already is fine.
            _ = child.kill();
            _ = child.wait();
        }
    }
}

#[tokio::test]
async fn the_api_server_takes_every_overlay() {
    let Some(program) = built::built("test-kubernetes.sh", &["--built"]) else { return };
    for (range, overlays) in RANGES {
        let server = Server::start(&program, range).await;
        let apply = deploy().join("kubernetes/dry-run.sh");
        for overlay in overlays {
            let said = must(server.of(&apply).arg(overlay));
            let taken = |line: &str| line.ends_with("(server dry run)");
            assert!(said.lines().count() > 15 && said.lines().all(taken), "{overlay}: {said}");
        }
        must(server.of(&apply).args([overlays[0], "--apply"]));
        // Again: nothing is left to change. kubectl takes the defaults in claim templates for a difference, which the
        // server does not.
        let again = must(server.of(&apply).args([overlays[0], "--apply"]));
        let set = "statefulset.apps/romanad configured";
        assert!(again.lines().all(|line| line.ends_with("unchanged") || line == set), "{again}");
        let generation = ["get", "statefulset", "romanad", "--namespace=kube-system"];
        let form = "--output=jsonpath={.metadata.generation}";
        assert_eq!(must(server.kubectl().args(generation).arg(form)), "1");
        assert_permissions(&server);
    }
}

/// Reading, Events, and Services where they show VIPs; nothing else that would harm.
fn assert_permissions(server: &Server) {
    for (group, resource, verbs) in ALLOWED {
        for verb in verbs {
            assert!(server.may(verb, resource, group), "{verb} {resource}");
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
        assert!(!server.may(verb, resource, group), "{verb} {resource}");
    }
}

//! Beside a real kube-apiserver (1.20, which has Endpoints only, or what KUBE_APISERVER names).

#[path = "../../../deploy/built.rs"]
mod built;

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use crate::support::{Dns, until};

/// An API server with its etcd on loopback, and a kubeconfig of its administrator; killed on drop.
struct Server {
    dir: TempDir,
    children: Vec<Child>,
}

fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

impl Server {
    fn start(program: &Path) -> Self {
        let dir = TempDir::with_prefix("dns-").unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        fs::write(path("tokens.csv"), "admin-token,admin,uid-admin,system:masters\n").unwrap();
        let made =
            Command::new("openssl").args(["genrsa", "-out", &path("key.pem"), "2048"]).output();
        assert!(made.unwrap().status.success(), "openssl makes no key");
        let ports = free_ports(3);
        let etcd = format!("http://127.0.0.1:{}", ports[0]);
        let mut commands = [Command::new("etcd"), Command::new(program)];
        commands[0]
            .args(["--data-dir", &path("etcd"), "--listen-client-urls", &etcd])
            .args(["--advertise-client-urls", &etcd])
            .args(["--listen-peer-urls", &format!("http://127.0.0.1:{}", ports[1])]);
        commands[1]
            .args(["--etcd-servers", &etcd, "--bind-address=127.0.0.1"])
            .arg(format!("--secure-port={}", ports[2]))
            .args(["--service-cluster-ip-range=10.96.0.0/16", "--endpoint-reconciler-type=none"])
            .args(["--service-account-issuer=https://kubernetes.default.svc"])
            .args(["--disable-admission-plugins=ServiceAccount", "--authorization-mode=RBAC"])
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
        until("a ready API server", || server.kubectl(&["get", "--raw", "/readyz"], "").is_ok());
        server
    }

    fn write_kubeconfig(&self, port: u16) {
        let cluster = json!({
            "server": format!("https://127.0.0.1:{port}"),
            "certificate-authority": self.dir.path().join("certs/apiserver.crt"),
        });
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": "admin-token"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        });
        fs::write(self.kubeconfig(), config.to_string()).unwrap();
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut child = Command::new("kubectl")
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl (deploy/test-setup.sh installs what the tests need)");
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn apply(&self, objects: &str) {
        let applied = self.kubectl(&["apply", "--validate=false", "-f", "-"], objects);
        applied.unwrap_or_else(|error| panic!("{error}"));
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

const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web}
spec: {clusterIP: 10.96.0.5, ports: [{name: https, port: 443}]}
---
apiVersion: v1
kind: Endpoints
metadata: {namespace: shop, name: web}
subsets: [{addresses: [{ip: 10.1.0.9}], ports: [{name: https, port: 8443}]}]
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: pg}
spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}
---
apiVersion: v1
kind: Endpoints
metadata: {namespace: shop, name: pg}
subsets: [{addresses: [{ip: 10.1.0.1, hostname: pg-0}], notReadyAddresses: [{ip: 10.1.0.2}], ports: [{name: sql, port: 5432}]}]
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: out}
spec: {type: ExternalName, externalName: www.example.com}
";

#[test]
fn services_of_a_real_api_server_have_names() {
    let Some(program) = built::built("test-kubernetes.sh", &["--built"]) else { return };
    let (server, dir) = (Server::start(&program), tempfile::tempdir().unwrap());
    server.apply(OBJECTS);
    let kubeconfig = server.kubeconfig().display().to_string();
    let options = ["--kubernetes", "--kubeconfig", &kubeconfig, "--upstream", ""];
    let dns = Dns::start(dir.path(), &options);
    until("readiness", || dns.get("/readyz").0 == 200);
    for (asked, expected) in [
        ("web.shop.svc.cluster.local A", &["10.1.0.9", "10.96.0.5"][..]),
        ("_https._tcp.web.shop.svc.cluster.local SRV", &["0 100 443 web.shop.svc.cluster.local."]),
        ("-x 10.96.0.5", &["web.shop.svc.cluster.local."]),
        ("pg.shop.svc.cluster.local A", &["10.1.0.1"]),
        (
            "_sql._tcp.pg.shop.svc.cluster.local SRV",
            &["0 100 5432 pg-0.pg.shop.svc.cluster.local."],
        ),
        ("-x 10.1.0.1", &["pg-0.pg.shop.svc.cluster.local."]),
        ("out.shop.svc.cluster.local CNAME", &["www.example.com."]),
        ("kubernetes.default.svc.cluster.local A", &["10.96.0.1"]),
    ] {
        assert_eq!(dns.short(asked), expected, "{asked}\n{}", dns.log());
    }
    assert_eq!(dns.status("shop.svc.cluster.local A").0, "NOERROR");
    // Changes arrive.
    server.apply(&OBJECTS.replace("10.1.0.9", "10.1.0.10"));
    until("the change", || dns.short("web.shop.svc.cluster.local A") == ["10.1.0.10", "10.96.0.5"]);
    server.kubectl(&["delete", "service", "web", "-n", "shop"], "").unwrap();
    until("the end", || dns.status("web.shop.svc.cluster.local A").0 == "NXDOMAIN");
    // The API server is killed: everything stays, after a restart as well.
    drop(server);
    assert_eq!(dns.short("pg.shop.svc.cluster.local A"), ["10.1.0.1"]);
    assert_eq!(dns.stop(), Some(0));
    let dns = Dns::start(dir.path(), &["--kubernetes", "--upstream", ""]);
    until("readiness", || dns.get("/readyz").0 == 200);
    assert_eq!(dns.short("pg.shop.svc.cluster.local A"), ["10.1.0.1"]);
}

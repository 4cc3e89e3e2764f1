//! Kubernetes' control plane on a machine with a bridge: etcd, API server, controller manager, scheduler.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use romana_testing::kubeconfig;

use crate::api::Api;
use crate::machine::Machine;
use crate::must;

/// Its address on the machines' link.
pub(crate) const ADDRESS: &str = "10.77.0.254";
const PORT: u16 = 6443;
const ETCD: &str = "http://127.0.0.1:2379";

pub(crate) struct ControlPlane {
    pub(crate) machine: Machine,
    /// The folder of Kubernetes' programs.
    programs: PathBuf,
}

impl ControlPlane {
    /// Starts the machine with its bridge, and all but the controllers, on `machine`.
    pub(crate) fn start(machine: Machine, programs: &Path, nodes: &[String]) -> Self {
        machine.run("ip", &["link", "add", "br0", "type", "bridge"]);
        machine.run("ip", &["addr", "add", &format!("{ADDRESS}/24"), "dev", "br0"]);
        machine.run("ip", &["link", "set", "br0", "up"]);
        let mut this = Self { machine, programs: programs.into() };
        this.write_files(nodes);
        let data = format!("--data-dir={}", this.path("etcd"));
        let etcd = [
            data,
            format!("--listen-client-urls={ETCD}"),
            format!("--advertise-client-urls={ETCD}"),
            "--listen-peer-urls=http://127.0.0.1:2380".into(),
        ];
        this.machine.start_program("etcd", Path::new("etcd"), &etcd);
        this.start_api_server();
        this
    }

    fn path(&self, name: &str) -> String {
        self.machine.dir.join(name).display().to_string()
    }

    /// A user for the administrator and for every kubelet, and the key of service accounts.
    fn write_files(&self, nodes: &[String]) {
        must(Command::new("openssl").args(["genrsa", "-out", &self.path("key.pem"), "2048"]));
        let mut tokens = String::from("admin-token,admin,uid-admin,system:masters\n");
        for node in nodes {
            tokens += &format!("{node}-token,system:node:{node},uid-{node},system:nodes\n");
            self.write_kubeconfig(node);
        }
        self.write_kubeconfig("admin");
        fs::write(self.path("tokens.csv"), tokens).expect("write the tokens");
    }

    fn write_kubeconfig(&self, user: &str) {
        let authority = self.machine.dir.join("certs/apiserver.crt");
        let url = format!("https://{ADDRESS}:{PORT}");
        let config = kubeconfig(&url, &authority, &format!("{user}-token"));
        fs::write(self.kubeconfig(user), config.to_string()).expect("write a kubeconfig");
    }

    /// The file with which a user reaches the API server.
    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.machine.dir.join(format!("{user}.kubeconfig"))
    }

    /// Starts the API server, with the data that there is.
    pub(crate) fn start_api_server(&mut self) {
        let arguments = [
            format!("--etcd-servers={ETCD}"),
            "--bind-address=0.0.0.0".into(),
            format!("--advertise-address={ADDRESS}"),
            format!("--secure-port={PORT}"),
            format!("--cert-dir={}", self.path("certs")),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={}", self.path("key.pem")),
            format!("--service-account-signing-key-file={}", self.path("key.pem")),
            format!("--token-auth-file={}", self.path("tokens.csv")),
            "--authorization-mode=Node,RBAC".into(),
            // kubeadm's default.
            "--service-cluster-ip-range=10.96.0.0/12".into(),
            "--allow-privileged=true".into(),
            // kubeadm's: nothing resolves the nodes' names. Logs and exec need it.
            "--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname".into(),
        ];
        let program = self.programs.join("kube-apiserver");
        self.machine.start_program("api", &program, &arguments);
    }

    /// kill -9.
    pub(crate) fn kill_api_server(&mut self) {
        self.machine.kill_program("api");
    }

    /// Starts what acts on objects; the API server is ready.
    pub(crate) fn start_controllers(&mut self) {
        let common = [
            format!("--kubeconfig={}", self.kubeconfig("admin").display()),
            "--leader-elect=false".into(),
            "--port=0".into(),
            "--bind-address=127.0.0.1".into(),
        ];
        let manager = [
            format!("--service-account-private-key-file={}", self.path("key.pem")),
            format!("--root-ca-file={}", self.path("certs/apiserver.crt")),
            format!("--cert-dir={}", self.path("manager")),
            "--use-service-account-credentials=true".into(),
            "--kube-api-qps=100".into(),
            "--kube-api-burst=200".into(),
        ];
        let manager = [&common[..], &manager].concat();
        let controllers = self.programs.join("kube-controller-manager");
        self.machine.start_program("controllers", &controllers, &manager);
        let certificates = format!("--cert-dir={}", self.path("scheduler"));
        let scheduler = [&common[..], &[certificates]].concat();
        let program = self.programs.join("kube-scheduler");
        self.machine.start_program("scheduler", &program, &scheduler);
    }

    /// The API, once its server has a certificate.
    pub(crate) async fn api(&self) -> Option<Api> {
        Api::open(&self.kubeconfig("admin")).await
    }
}

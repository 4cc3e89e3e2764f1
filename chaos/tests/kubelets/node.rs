//! A node: containerd, kubelet and kube-proxy on a machine whose files are its own.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::control_plane;
use crate::machine::Machine;

const CONTAINERD: &str = "unix:///run/containerd/containerd.sock";

/// Directories of which the node sees the machine's, and changes its own.
const LAYERED: [&str; 3] = ["/etc", "/opt", "/var"];
/// Directories that cannot be layers, because layers are made in them, or that must be as durable as a disk.
const OWN: [&str; 3] = ["/var/lib/containerd", "/var/lib/kubelet", "/var/lib/romanad"];

/// Keeps a replica where its data is (deploy/README.md).
const REPLICA: &str = ",romana.io/replica=";
/// Racks of the overlay `custom-topology`.
const RACKS: u32 = 4;

/// The rack of a node: its number, again from the first one after the last.
pub(crate) fn rack(node: &str) -> String {
    let number: u32 = node.trim_start_matches('n').parse().expect("n1, n2, …");
    format!("rack-{}", (number - 1) % RACKS + 1)
}

pub(crate) struct Node {
    pub(crate) machine: Machine,
    pub(crate) address: String,
    /// Whether it has the label of nodes for replicas.
    replica: bool,
}

/// What is the same for all nodes.
pub(crate) struct Common<'a> {
    /// The folder of Kubernetes' programs.
    pub(crate) programs: &'a Path,
    /// The administrator's kubeconfig, for kube-proxy.
    pub(crate) kubeconfig: PathBuf,
}

impl Node {
    /// Starts containerd on a node that was never there before.
    pub(crate) fn start(machine: Machine, switch: &Machine, address: &str, replica: bool) -> Self {
        let mut node = Self { machine, address: address.into(), replica };
        node.connect(switch);
        node.mount();
        node.clear();
        node.start_containerd();
        node
    }

    /// Ends everything at once, also what the kernel has of it: links, routes, rules, namespaces, mounts. Its files stay, as
    /// on a disk.
    pub(crate) fn power_off(&mut self) {
        let tasks = self.machine.path("/run/containerd/io.containerd.runtime.v2.task/k8s.io");
        let tasks = fs::read_dir(tasks).into_iter().flatten().flatten();
        let names: Vec<_> = tasks.map(|task| task.file_name()).collect();
        self.machine.end();
        // The kernel removes processes with their machine, but not their cgroups.
        let root = PathBuf::from("/sys/fs/cgroup");
        let parts = fs::read_dir(&root).into_iter().flatten().flatten().map(|part| part.path());
        for hierarchy in parts.chain([root]) {
            for name in &names {
                _ = fs::remove_dir(hierarchy.join("k8s.io").join(name));
            }
        }
    }

    /// Starts containerd again, on a node that was powered off and that has the files that it had.
    pub(crate) fn power_on(&mut self, init: &Path, switch: &Machine) {
        self.machine.restart(init);
        self.connect(switch);
        self.mount();
        self.start_containerd();
    }

    fn connect(&self, switch: &Machine) {
        let machine = &self.machine;
        machine.plug(switch, &format!("{}/24", self.address));
        // Packets to Services need a route before kube-proxy changes their destination.
        machine.run("ip", &["route", "add", "default", "via", control_plane::ADDRESS]);
        // kubeadm wants it, too.
        machine.run("sysctl", &["-qw", "net.ipv4.ip_forward=1"]);
    }

    fn start_containerd(&mut self) {
        let config = self.machine.dir.join("containerd.toml");
        fs::write(&config, CONTAINERD_CONFIG).expect("write the configuration");
        let arguments = ["--config".into(), config.display().to_string()];
        self.machine.start_program("containerd", Path::new("containerd"), &arguments);
    }

    fn mount(&self) {
        let machine = &self.machine;
        for path in LAYERED {
            let name = path.trim_start_matches('/');
            let part = |kind: &str| {
                let dir = machine.dir.join(format!("{name}-{kind}"));
                fs::create_dir_all(&dir).expect("a directory");
                dir.display().to_string()
            };
            let (upper, work) = (part("upper"), part("work"));
            let layers = format!("lowerdir={path},upperdir={upper},workdir={work}");
            machine.run("mount", &["-t", "overlay", "overlay", "-o", &layers, path]);
        }
        machine.run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
        for path in OWN {
            let own = machine.dir.join(path.rsplit('/').next().expect("a name"));
            fs::create_dir_all(&own).expect("a directory");
            machine.run("mkdir", &["-p", path]);
            machine.run("mount", &["--bind", own.to_str().expect("a path"), path]);
        }
    }

    /// Removes what the lab's machine has of networks, and installs what a node has before it joins.
    fn clear(&self) {
        let machine = &self.machine;
        machine.run("rm", &["-rf", "/etc/cni/net.d", "/opt/cni/bin", "/var/lib/romana"]);
        // What kubeadm's packages bring (kubernetes-cni): containerd does not do it itself.
        machine.run("mkdir", &["-p", "/opt/cni/bin"]);
        machine.run("cp", &["/usr/lib/cni/loopback", "/opt/cni/bin/loopback"]);
    }

    /// Whether containerd answers.
    pub(crate) fn has_containerd(&self) -> bool {
        let asked = self.machine.command("ctr").arg("version").output();
        asked.expect("start ctr (package containerd)").status.success()
    }

    /// Imports images; containerd answers.
    pub(crate) fn import(&self, images: &[PathBuf]) {
        for image in images {
            let image = image.to_str().expect("a path");
            self.machine.run("ctr", &["--namespace=k8s.io", "images", "import", image]);
        }
    }

    /// Starts kubelet and kube-proxy; containerd answers.
    pub(crate) fn join(&mut self, common: &Common<'_>, kubeconfig: &Path) {
        self.start_kubelet(common, kubeconfig);
        let proxy = [
            format!("--kubeconfig={}", common.kubeconfig.display()),
            format!("--hostname-override={}", self.machine.name),
            format!("--bind-address={}", self.address),
            "--proxy-mode=iptables".into(),
            // The table of connections belongs to all namespaces.
            "--conntrack-max-per-core=0".into(),
            "--conntrack-tcp-timeout-established=0".into(),
            "--conntrack-tcp-timeout-close-wait=0".into(),
        ];
        self.machine.start_program("proxy", &common.programs.join("kube-proxy"), &proxy);
    }

    fn start_kubelet(&mut self, common: &Common<'_>, kubeconfig: &Path) {
        let name = &self.machine.name;
        let config = self.machine.dir.join("kubelet.json");
        let manifests = self.machine.dir.join("manifests");
        fs::create_dir_all(&manifests).expect("a directory");
        fs::write(&config, kubelet_config(&manifests).to_string()).expect("write");
        let replica = if self.replica { REPLICA } else { "" };
        let arguments = [
            format!("--config={}", config.display()),
            format!("--kubeconfig={}", kubeconfig.display()),
            "--container-runtime=remote".into(),
            format!("--container-runtime-endpoint={CONTAINERD}"),
            format!("--image-service-endpoint={CONTAINERD}"),
            format!("--hostname-override={name}"),
            format!("--node-ip={}", self.address),
            format!("--node-labels=rack={}{replica}", rack(name)),
        ];
        let program = common.programs.join("kubelet");
        self.machine.start_program("kubelet", &program, &arguments);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.power_off();
    }
}

/// What the machine cannot do is left out: limits of pods' resources, and being spared by the kernel when memory is short.
fn kubelet_config(manifests: &Path) -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        "resolvConf": "/dev/null",
        "oomScoreAdj": 0,
        "evictionHard": {"memory.available": "1Mi"},
        "nodeStatusUpdateFrequency": "2s",
        "staticPodPath": manifests,
        "fileCheckFrequency": "1s",
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        "eventRecordQPS": 100,
        "eventBurst": 200,
        "registryPullQPS": 0,
    })
}

/// The directories of plugins and networks are the defaults.
const CONTAINERD_CONFIG: &str = r#"
version = 2

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:1"
disable_tcp_service = true
stream_server_address = "127.0.0.1"
# Root here may not lower it.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "/etc/cni/net.d"
"#;

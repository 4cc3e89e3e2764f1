//! A real runtime: podman with runc and its CNI library. Needs `podman`, `runc` and `busybox` (static).

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::lab::{Lab, run, until};
use crate::routes::{flat, start_all};

/// Podman on one host, isolated from the machine's configuration.
struct Podman {
    ns: String,
    dir: PathBuf,
}

impl Podman {
    fn new(lab: &Lab, host: &str) -> Self {
        let dir = lab.dir().join(format!("podman-{host}"));
        let plugins = Path::new(env!("CARGO_BIN_EXE_romana-cni")).parent().expect("a directory");
        for part in ["root", "runroot", "tmp", "net.d", "rootfs/bin"] {
            fs::create_dir_all(dir.join(part)).expect("a directory");
        }
        // The plugin and its configuration, as installed by `romana-agent install`.
        let socket = lab.socket(host);
        run(
            env!("CARGO_BIN_EXE_romana-agent"),
            &[
                "install",
                "--bin-dir",
                dir.join("bin").to_str().expect("a path"),
                "--conf-dir",
                dir.join("net.d").to_str().expect("a path"),
                "--socket",
                socket.to_str().expect("a path"),
                "--state-dir",
                lab.dir().join(host).to_str().expect("a path"),
            ],
        );
        assert!(plugins.join("romana-cni").exists());
        let busybox = dir.join("rootfs/bin/busybox");
        fs::copy("/bin/busybox", &busybox).expect("busybox-static is installed");
        fs::set_permissions(&busybox, fs::Permissions::from_mode(0o755)).expect("its mode");
        let config = format!(
            "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [{}]\n\
             [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n",
            json!(dir.join("bin"))
        );
        fs::write(dir.join("containers.conf"), config).expect("written");
        Self { ns: lab.ns(host), dir }
    }

    fn try_call(&self, args: &[&str]) -> Output {
        let path = |part: &str| self.dir.join(part).to_str().expect("a path").to_owned();
        // `ip netns exec` would hide the cgroups.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.ns)).arg("podman");
        command.env("CONTAINERS_CONF", path("containers.conf"));
        command.args(["--root", &path("root"), "--runroot", &path("runroot")]);
        command.args(["--tmpdir", &path("tmp"), "--network-config-dir", &path("net.d")]);
        command.args(args).output().expect("podman is installed")
    }

    fn call(&self, args: &[&str]) -> String {
        let output = self.try_call(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "podman {args:?}: {said}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Starts a container that sleeps.
    fn start(&self, name: &str) -> Vec<IpAddr> {
        let rootfs = self.dir.join("rootfs");
        self.call(&[
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "romana",
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=1000:1000",
            "--rootfs",
            rootfs.to_str().expect("a path"),
            "/bin/busybox",
            "sleep",
            "1000",
        ]);
        let shown: Value = serde_json::from_str(&self.call(&["inspect", name])).expect("JSON");
        let network = &shown[0]["NetworkSettings"]["Networks"]["romana"];
        let ip = |key: &str| network[key].as_str().and_then(|ip| ip.parse().ok());
        [ip("IPAddress"), ip("GlobalIPv6Address")].into_iter().flatten().collect()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.try_call(&["rm", "-f", "-t", "0", "-a"]);
    }
}

#[test]
fn podman_starts_containers_in_namespaces() {
    let mut lab = Lab::one_link();
    lab.topology(&flat());
    start_all(&mut lab);
    let (one, two) = (Podman::new(&lab, "h1"), Podman::new(&lab, "h2"));
    let (first, second) = (one.start("first"), two.start("second"));
    assert!(first.len() == 2 && second.len() == 2, "{first:?} {second:?}");
    for ip in &second {
        until("one container reaches the other", || {
            let to = ip.to_string();
            let ping = ["exec", "first", "/bin/busybox", "ping", "-c", "1", "-W", "1", &to];
            one.try_call(&ping).status.success()
        });
    }
    // A restart is a DEL and an ADD.
    one.call(&["restart", "-t", "0", "first"]);
    until("it has addresses again", || lab.allocated("h1").len() == 2);
    one.call(&["rm", "-f", "-t", "0", "first"]);
    until("the log has its addresses back", || lab.allocated("h1").is_empty());
    assert!(lab.links("h1").is_empty());
}

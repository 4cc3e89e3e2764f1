//! A real kube-apiserver with its etcd on loopback: TLS, tokens, RBAC.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{built, free_ports};

/// The administrator.
const ADMIN: &str = "admin";
/// Lines of a log that are shown.
const LOG_LINES: usize = 30;

/// The server, its data and its users. Processes and files are removed on drop.
#[derive(Debug)]
pub struct ApiServer {
    program: PathBuf,
    dir: TempDir,
    etcd: Child,
    etcd_url: String,
    api: Option<Child>,
    service_range: String,
    port: u16,
}

/// How a user reaches an API server at a URL: the certificate of its authority, and the token.
#[must_use]
pub fn kubeconfig(url: &str, authority: &Path, token: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url, "certificate-authority": authority}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    })
}

impl ApiServer {
    /// Starts the server of `deploy/test-kubernetes.sh` at a free port, with this range (CIDR) for addresses of Services.
    /// Its users are `admin` and `others`, who may nothing yet. It is not ready yet: see [`Self::is_ready`]. `None` where
    /// it was not built and this is not CI.
    ///
    /// # Panics
    /// It cannot be started, or `openssl` or `etcd` is missing.
    #[must_use]
    pub fn start(service_range: &str, others: &[&str]) -> Option<Self> {
        let program = built("test-kubernetes.sh", &["--built"])?;
        let dir = TempDir::with_prefix("api-server-").expect("a directory");
        let key = dir.path().join("key.pem");
        let made = Command::new("openssl").args(["genrsa", "-out"]).arg(key).arg("2048").output();
        assert!(made.expect("run openssl").status.success(), "openssl makes no key");
        let ports = free_ports(3).expect("free ports");
        let etcd_url = format!("http://127.0.0.1:{}", ports[0]);
        let etcd = Command::new("etcd")
            .arg("--data-dir")
            .arg(dir.path().join("etcd"))
            .args(["--listen-client-urls", &etcd_url, "--advertise-client-urls", &etcd_url])
            .args(["--listen-peer-urls", &format!("http://127.0.0.1:{}", ports[1])])
            .stdin(Stdio::null())
            .stdout(log_file(dir.path(), "etcd.log"))
            .stderr(log_file(dir.path(), "etcd.log"))
            .spawn()
            .expect("start etcd (package etcd-server)");
        let (service_range, port) = (service_range.to_owned(), ports[2]);
        let mut server = Self { program, dir, etcd, etcd_url, api: None, service_range, port };
        server.write_users(others);
        server.serve(port);
        Some(server)
    }

    fn write_users(&self, others: &[&str]) {
        let mut tokens = format!("{ADMIN}-token,{ADMIN},uid-{ADMIN},system:masters\n");
        for user in others {
            tokens += &format!("{user}-token,{user},uid-{user}\n");
        }
        fs::write(self.path("tokens.csv"), tokens).expect("write the tokens");
        for user in others.iter().chain([&ADMIN]) {
            let config = self.kubeconfig_at(self.port, user).to_string();
            fs::write(self.kubeconfig(user), config).expect("write a kubeconfig");
        }
    }

    /// Starts the API server at a port, with the data that there is. It is not ready yet.
    ///
    /// # Panics
    /// It runs, or it cannot be started.
    pub fn serve(&mut self, port: u16) {
        assert!(self.api.is_none(), "it runs");
        let api = Command::new(&self.program)
            .args(["--etcd-servers", &self.etcd_url, "--bind-address=127.0.0.1"])
            .args([format!("--secure-port={port}"), format!("--cert-dir={}", self.path("certs"))])
            .args(["--service-cluster-ip-range", &self.service_range])
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .args(["--service-account-key-file", &self.path("key.pem")])
            .args(["--service-account-signing-key-file", &self.path("key.pem")])
            .args(["--token-auth-file", &self.path("tokens.csv"), "--authorization-mode=RBAC"])
            .args(["--endpoint-reconciler-type=none", "--allow-privileged=true"])
            // Controllers, which make the accounts of pods, do not run.
            .arg("--disable-admission-plugins=ServiceAccount")
            .stdin(Stdio::null())
            .stdout(log_file(self.dir.path(), "api.log"))
            .stderr(log_file(self.dir.path(), "api.log"))
            .spawn()
            .expect("start kube-apiserver");
        self.api = Some(api);
    }

    /// Whether it answers at its own port that it is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.kubectl(&["get", "--raw", "/readyz"], "").is_ok()
    }

    /// kill -9.
    ///
    /// # Panics
    /// It does not run.
    pub fn kill(&mut self) {
        let mut api = self.api.take().expect("it runs");
        api.kill().expect("kill kube-apiserver");
        api.wait().expect("wait for kube-apiserver");
    }

    /// The process, while it runs.
    #[must_use]
    pub fn process(&self) -> Option<&Child> {
        self.api.as_ref()
    }

    /// The port that kubeconfigs name.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The kubeconfig of a user.
    #[must_use]
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.dir.path().join(format!("{user}.kubeconfig"))
    }

    /// The same for another port.
    #[must_use]
    pub fn kubeconfig_at(&self, port: u16, user: &str) -> Value {
        let authority = self.dir.path().join("certs/apiserver.crt");
        kubeconfig(&format!("https://127.0.0.1:{port}"), &authority, &format!("{user}-token"))
    }

    /// A command in whose environment the administrator uses this server.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        // Discovery is cached in the home directory.
        command.env("KUBECONFIG", self.kubeconfig(ADMIN)).env("HOME", self.dir.path());
        command
    }

    /// What the administrator's `kubectl` prints with this input.
    ///
    /// # Errors
    /// What it prints when it fails.
    ///
    /// # Panics
    /// There is no kubectl.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut child = self
            .command("kubectl")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl (deploy/test-setup.sh installs what the tests need)");
        // A command that does not read its input may have ended already; the pipe is closed here.
        _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().expect("the output of kubectl");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// The end of its log.
    #[must_use]
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.path("api.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for child in self.api.iter_mut().chain([&mut self.etcd]) {
            // A process that has ended already is fine.
            _ = child.kill();
            _ = child.wait();
        }
    }
}

fn log_file(dir: &Path, name: &str) -> File {
    File::options().create(true).append(true).open(dir.join(name)).expect("a log file")
}

//! A real kube-apiserver with its etcd, which the replicas follow, and what happens to it: killed, stopped, cut off.
//!
//! ```text
//!   replicas ──► proxy (may be cut) ──► kube-apiserver ──► etcd
//!   judge ─────────────────────────────────▲
//! ```

use std::fmt;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hyper::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::proxy::Proxy;
use crate::wait::until;
use romana_testing::{free_ports, romanad_grants};

/// Who may do what: the judge everything, romanad what it is granted.
const TOKENS: &str =
    "admin-token,admin,uid-admin,system:masters\nromanad-token,romanad,uid-romanad\n";
/// A name in the certificate that the server makes for itself.
const SERVER_NAME: &str = "kubernetes.default.svc";
/// Timeout of a start, of which the first one fills etcd.
const START_MAX: Duration = Duration::from_secs(60);
/// Timeout of a request of the judge.
const ASK_MAX: Duration = Duration::from_secs(5);

/// The server and its etcd. Both are killed on drop; their files are the cluster's.
#[derive(Debug)]
pub struct ApiServer {
    program: PathBuf,
    dir: PathBuf,
    etcd: Child,
    etcd_port: u16,
    /// `None`: it was killed.
    api: Option<Child>,
    port: u16,
    paused: bool,
    proxy: Proxy,
}

impl ApiServer {
    /// Starts the server with its files in `dir`, for replicas that connect to `from`, grants romanad what it needs,
    /// and waits until it is ready.
    pub(super) async fn start(program: &Path, dir: PathBuf, from: Ipv4Addr) -> Result<Self> {
        fs::create_dir(&dir).context("make the API server's directory")?;
        fs::write(dir.join("tokens.csv"), TOKENS).context("write the tokens")?;
        let key = dir.join("service-accounts.pem");
        let made = Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048").output();
        let made = made.context("run openssl (package openssl)")?;
        ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        let [etcd_port, etcd_peers, port] = free_ports(3)?[..] else {
            bail!("three ports were asked for");
        };
        let proxy = Proxy::start(from, (Ipv4Addr::LOCALHOST, port).into()).await?;
        let etcd = start_etcd(&dir, etcd_port, etcd_peers)?;
        let (program, api, paused) = (program.to_owned(), None, false);
        let mut server = Self { program, dir, etcd, etcd_port, api, port, paused, proxy };
        server.launch()?;
        server.wait_ready().await?;
        let text = server.config(server.proxy.at, "romanad-token").to_string();
        fs::write(server.kubeconfig(), text).context("write the kubeconfig")?;
        server.objects().await?.grant().await?;
        Ok(server)
    }

    /// The kubeconfig of the replicas.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.dir.join("romanad.kubeconfig")
    }

    /// Starts the process, with the data that there is.
    fn launch(&mut self) -> Result<()> {
        let path = |name: &str| self.dir.join(name).display().to_string();
        let api = Command::new(&self.program)
            .arg(format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port))
            .args(["--bind-address=127.0.0.1", "--service-cluster-ip-range=10.96.0.0/16"])
            .arg(format!("--secure-port={}", self.port))
            .arg(format!("--cert-dir={}", path("certs")))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!("--service-account-key-file={}", path("service-accounts.pem")))
            .arg(format!("--service-account-signing-key-file={}", path("service-accounts.pem")))
            .arg(format!("--token-auth-file={}", path("tokens.csv")))
            .args(["--authorization-mode=RBAC", "--endpoint-reconciler-type=none"])
            .args(["--allow-privileged=true", "--disable-admission-plugins=ServiceAccount"])
            .stdin(Stdio::null())
            .stdout(log(&self.dir, "api.log")?)
            .stderr(log(&self.dir, "api-errors.log")?)
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        self.api = Some(api);
        Ok(())
    }

    /// Waits until it answers as ready.
    ///
    /// # Errors
    /// It is not ready within a minute; the end of its log.
    pub async fn wait_ready(&self) -> Result<()> {
        let ready = until("a ready API server", START_MAX, async || {
            // It has a certificate only after its first start.
            let Ok(objects) = self.objects().await else { return false };
            objects.text("/readyz").await.is_ok_and(|text| text.starts_with("ok"))
        });
        ready.await.with_context(|| self.log_tail())
    }

    /// kill -9.
    ///
    /// # Errors
    /// It cannot be killed. That it was killed already is none.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.paused = false;
        let Some(mut api) = self.api.take() else { return Ok(()) };
        let ended = api.try_wait()?;
        ensure!(ended.is_none(), "the API server ended by itself\n{}", self.log_tail());
        api.kill().context("kill the API server")?;
        api.wait().context("wait for the API server").map(drop)
    }

    /// SIGSTOP: it keeps its connections and does not answer.
    ///
    /// # Errors
    /// It is down.
    pub(crate) fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)?;
        self.paused = true;
        Ok(())
    }

    /// Cuts the replicas off from it; the judge reaches it still.
    pub(crate) fn cut(&self) {
        self.proxy.cut(true);
    }

    /// Ends every fault. Does not wait until it is ready.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn heal(&mut self) -> Result<()> {
        self.proxy.cut(false);
        if self.paused {
            self.signal(Signal::CONT)?;
            self.paused = false;
        }
        if self.api.is_some() { Ok(()) } else { self.launch() }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let api = self.api.as_ref().context("the API server is down")?;
        let pid = i32::try_from(api.id()).ok().and_then(Pid::from_raw).context("a bad pid")?;
        kill_process(pid, signal).with_context(|| format!("signal {signal:?} to the API server"))
    }

    /// Requests of the administrator, past the proxy.
    ///
    /// # Errors
    /// It has no certificate yet.
    pub async fn objects(&self) -> Result<Objects> {
        let at = (Ipv4Addr::LOCALHOST, self.port).into();
        let kubeconfig: Kubeconfig = serde_json::from_value(self.config(at, "admin-token"))?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options);
        let mut config = Box::pin(config).await?;
        // What was asked once must not happen twice.
        config.default_retry = false;
        Ok(Objects(Client::try_from(config)?))
    }

    fn config(&self, at: SocketAddr, token: &str) -> Value {
        let cluster = json!({
            "server": format!("https://{at}"),
            "tls-server-name": SERVER_NAME,
            "certificate-authority": self.dir.join("certs/apiserver.crt"),
        });
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        })
    }

    /// The end of its log.
    fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.dir.join("api-errors.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
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

fn start_etcd(dir: &Path, port: u16, peers: u16) -> Result<Child> {
    Command::new("etcd")
        .arg("--data-dir")
        .arg(dir.join("etcd"))
        .args(["--listen-client-urls", &format!("http://127.0.0.1:{port}")])
        .args(["--advertise-client-urls", &format!("http://127.0.0.1:{port}")])
        .args(["--listen-peer-urls", &format!("http://127.0.0.1:{peers}")])
        .stdin(Stdio::null())
        .stdout(log(dir, "etcd.log")?)
        .stderr(log(dir, "etcd-errors.log")?)
        .spawn()
        .context("start etcd (package etcd-server)")
}

fn log(dir: &Path, name: &str) -> Result<File> {
    let file = File::options().create(true).append(true).open(dir.join(name));
    file.with_context(|| format!("open {name}"))
}

/// Requests of the administrator, each with a timeout of five seconds and sent once.
#[derive(Clone)]
pub struct Objects(Client);

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects").finish_non_exhaustive()
    }
}

impl Objects {
    /// One request; PATCH is a merge patch. A body of `null` is none.
    ///
    /// # Errors
    /// It was refused, or its outcome is unknown.
    pub async fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let asked = Box::pin(self.0.request(request.body(body)?));
        let answer = timeout(ASK_MAX, asked).await.with_context(|| format!("{method} {path}"))?;
        answer.with_context(|| format!("{method} {path}"))
    }

    /// The objects of a list, with all their pages.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn list(&self, path: &str) -> Result<Vec<Value>> {
        let mut list = self.call("GET", path, &Value::Null).await?;
        match list.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => Ok(items),
            _ => bail!("{path} is no list"),
        }
    }

    async fn text(&self, path: &str) -> Result<String> {
        let request = Request::builder().uri(path).body(Vec::new())?;
        Ok(timeout(ASK_MAX, Box::pin(self.0.request_text(request))).await??)
    }

    /// Grants romanad what it needs.
    async fn grant(&self) -> Result<()> {
        for (path, object) in romanad_grants() {
            self.call("POST", path, &object).await?;
        }
        Ok(())
    }
}

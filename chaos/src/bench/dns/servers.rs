//! The servers that are compared, and how each is told a change.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::api::Api;
use super::names::{NAMES, answers, first, name};
use crate::cluster::free_ports;
use crate::wait::until;

const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a log that are shown.
const LOG_BYTES: usize = 2_000;

/// A server program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    Romana,
    Dnsmasq,
    Unbound,
}

impl Program {
    /// The program's file name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Romana => "romana-dns",
            Self::Dnsmasq => "dnsmasq",
            Self::Unbound => "unbound",
        }
    }
}

/// How a server learns that a name has another address.
enum Changes {
    /// From an API server.
    Api(Api),
    /// From files in a directory that it watches.
    Files(PathBuf),
    /// By commands on a socket.
    Control(PathBuf),
}

/// A running server; killed on drop.
pub(super) struct Running {
    pub(super) program: Program,
    pub(super) address: SocketAddr,
    child: Child,
    changes: Changes,
    dir: TempDir,
}

impl Running {
    /// Starts a server with all names, and waits until it answers.
    pub(super) async fn start(
        program: Program,
        romanad: &Path,
        parent: Option<&Path>,
    ) -> Result<Self> {
        let dir = match parent {
            Some(parent) => TempDir::with_prefix_in("dns-", parent),
            None => TempDir::with_prefix("dns-"),
        };
        let dir = dir.context("a directory")?;
        let ports = free_ports(2)?;
        let [port, metrics] = ports[..] else { bail!("two ports were asked for") };
        let (command, changes) = match program {
            Program::Romana => romana(romanad, dir.path(), port, metrics).await?,
            Program::Dnsmasq => dnsmasq(dir.path(), port)?,
            Program::Unbound => unbound(dir.path(), port)?,
        };
        let child = spawn(command, &dir.path().join("log"))
            .with_context(|| format!("start {} (Debian's package has it)", program.name()))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let running = Self { program, address, child, changes, dir };
        let ready = until("an answer", PATIENCE, async || {
            answers(address, 0).await && answers(address, NAMES - 1).await
        });
        ready.await.with_context(|| format!("{}: {}", program.name(), running.log()))?;
        Ok(running)
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its process id, while it runs.
    pub(super) fn process(&self) -> Option<u32> {
        self.child.id()
    }

    /// The end of its log.
    pub(super) fn log(&self) -> String {
        let text = fs::read(self.dir.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_BYTES)..]).into_owned()
    }

    /// Gives a name another address.
    pub(super) async fn change(&self, at: usize, ip: Ipv4Addr) -> Result<()> {
        match &self.changes {
            Changes::Api(api) => {
                api.change(at, ip);
                Ok(())
            }
            Changes::Files(dir) => {
                // It reads a file as soon as it is written or has got its name: whole, therefore.
                let (new, file) = (self.dir.path().join("new"), dir.join(format!("s{at}")));
                tokio::fs::write(&new, format!("{ip} {}\n", name(at))).await?;
                tokio::fs::rename(&new, &file).await.context("rename a file of hosts")
            }
            Changes::Control(socket) => {
                let command = format!("UBCT1 local_data {}. 5 IN A {ip}\n", name(at));
                let mut stream = UnixStream::connect(socket).await.context("unbound's socket")?;
                stream.write_all(command.as_bytes()).await?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await?;
                ensure!(answer.starts_with("ok"), "unbound: {answer}");
                Ok(())
            }
        }
    }
}

fn spawn(mut command: Command, log: &Path) -> Result<Child> {
    let file = File::create(log).context("create a log")?;
    let both = file.try_clone().context("a log for two")?;
    command.stdin(Stdio::null()).stdout(file).stderr(both).kill_on_drop(true);
    command.spawn().context("start a process")
}

async fn romana(romanad: &Path, dir: &Path, port: u16, metrics: u16) -> Result<(Command, Changes)> {
    let api = Api::start().await?;
    let kubeconfig = dir.join("kubeconfig");
    fs::write(&kubeconfig, api.kubeconfig()).context("write the kubeconfig")?;
    let mut command = Command::new(romanad.with_file_name("romana-dns"));
    command
        .env_clear()
        .arg(format!("--listen=127.0.0.1:{port}"))
        .arg(format!("--metrics=127.0.0.1:{metrics}"))
        .arg("--state-dir")
        .arg(dir.join("state"))
        // One address for each name, as the others have it; and its one client may ask as often as it likes.
        .args(["--answer=endpoint", "--rate=0", "--upstream", "", "--kubernetes", "--kubeconfig"])
        .arg(&kubeconfig);
    Ok((command, Changes::Api(api)))
}

fn dnsmasq(dir: &Path, port: u16) -> Result<(Command, Changes)> {
    let (hosts, changes) = (dir.join("hosts"), dir.join("changes"));
    let lines: String = (0..NAMES).map(|at| format!("{} {}\n", first(at), name(at))).collect();
    fs::write(&hosts, lines).context("write the hosts")?;
    fs::create_dir(&changes).context("a directory for changes")?;
    let mut command = Command::new("dnsmasq");
    command
        .args(["--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--pid-file="])
        .args(["--listen-address=127.0.0.1", "--bind-interfaces", "--user=", "--no-resolv"])
        .args(["--no-hosts", "--cache-size=10000", "--local-ttl=5"])
        .arg(format!("--port={port}"))
        .arg(format!("--addn-hosts={}", hosts.display()))
        .arg(format!("--hostsdir={}", changes.display()));
    Ok((command, Changes::Files(changes)))
}

fn unbound(dir: &Path, port: u16) -> Result<(Command, Changes)> {
    let (config, control) = (dir.join("unbound.conf"), dir.join("control"));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let data =
        (0..NAMES).map(|at| format!("  local-data: \"{}. 5 IN A {}\"\n", name(at), first(at)));
    let text = format!(
        "server:\n  interface: 127.0.0.1\n  port: {port}\n  do-daemonize: no\n  use-syslog: no\n  logfile: \"\"\n  \
         chroot: \"\"\n  username: \"\"\n  directory: \"{dir}\"\n  pidfile: \"\"\n  num-threads: {threads}\n  \
         so-reuseport: yes\n  access-control: 127.0.0.0/8 allow\n  local-zone: \"cluster.local.\" static\n\
         {data}remote-control:\n  control-enable: yes\n  control-use-cert: no\n  control-interface: {control}\n",
        dir = dir.display(),
        control = control.display(),
        data = data.collect::<String>(),
    );
    fs::write(&config, text).context("write unbound's configuration")?;
    let mut command = Command::new("unbound");
    command.arg("-d").arg("-c").arg(&config);
    Ok((command, Changes::Control(control)))
}

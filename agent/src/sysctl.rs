//! The sysctls of the host: those that forwarding needs (Romana 2.0: agent flag `-provision-sysctls`), and those of the
//! agent's own links. The former belong to the host: the agent sets them only if configured, only for families that
//! have a network, and never resets them.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use romana_daemon::reconcile::{Next, Pass, Reconcile, Schedule};
use tokio::sync::watch;

use crate::follow::Seen;
use crate::view::Network;

/// Where a system without containers has them.
pub const SYSCTL_DIR: &str = "/proc/sys";
/// Must be 1 where containers have addresses of the family: IPv4, IPv6.
const FORWARDING: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];
/// When they are compared, besides when a network of another family comes.
pub const SCHEDULE: Schedule = Schedule {
    period: Some(Duration::from_secs(30)),
    retry: Duration::from_secs(1),
    retry_max: Duration::from_secs(8),
};

/// The sysctls below a directory, which has the host's `/proc/sys/net` as `net`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctls(PathBuf);

impl Sysctls {
    /// Those of a directory.
    #[must_use]
    pub fn at(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// The path of a sysctl such as `net/ipv4/ip_forward`.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The value of a sysctl.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self, name: &str) -> io::Result<String> {
        std::fs::read_to_string(self.path(name)).map(|value| value.trim().to_owned())
    }

    /// Sets a sysctl.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, value: &str) -> io::Result<()> {
        std::fs::write(self.path(name), value)
    }

    /// Why packets of a family are not forwarded, if so.
    #[must_use]
    pub fn not_forwarding(&self, v4: bool) -> Option<String> {
        self.forward(v4, false)
    }

    /// Sets the sysctls of the families that have a network, or only checks them. Returns what is wrong, as messages.
    #[must_use]
    pub fn provide(&self, networks: &[Network], set: bool) -> Vec<String> {
        let used = families(networks).into_iter();
        used.filter_map(|v4| self.forward(v4, set)).collect()
    }

    fn forward(&self, v4: bool, set: bool) -> Option<String> {
        let [four, six] = FORWARDING;
        let name = if v4 { four } else { six };
        let shown = name.replace('/', ".");
        match self.read(name) {
            Ok(value) if value == "1" => None,
            // A kernel without IPv6 has nothing to forward.
            Err(error) if error.kind() == ErrorKind::NotFound && !v4 && self.has_ipv4() => None,
            Err(error) => {
                let path = self.path(name);
                Some(format!("{shown} cannot be read at {}: {error}", path.display()))
            }
            Ok(_) if set => {
                let written = self.write(name, "1");
                written.err().map(|error| format!("{shown} cannot be set to 1: {error}"))
            }
            Ok(value) => Some(format!(
                "{shown} is {value}: set it to 1, or start the agent with --set-sysctls"
            )),
        }
    }

    fn has_ipv4(&self) -> bool {
        Path::new(&self.0).join("net/ipv4").is_dir()
    }
}

/// The families that have a network: IPv4 is `true`.
#[must_use]
pub fn families(networks: &[Network]) -> Vec<bool> {
    let used = |v4: &bool| networks.iter().any(|network| network.cidr.addr().is_ipv4() == *v4);
    [true, false].into_iter().filter(used).collect()
}

/// Keeps forwarding on (`--set-sysctls`).
pub struct Forwarding {
    sysctls: Sysctls,
    seen: watch::Receiver<Seen>,
    /// The families of the last pass.
    families: Vec<bool>,
}

impl Forwarding {
    /// For the networks of this view.
    #[must_use]
    pub fn new(sysctls: Sysctls, seen: watch::Receiver<Seen>) -> Self {
        Self { sysctls, seen, families: Vec::new() }
    }
}

impl Reconcile for Forwarding {
    const PART: &'static str = "sysctl";

    async fn pass(&mut self) -> Pass {
        let networks = networks(&self.seen.borrow_and_update());
        self.families = families(&networks);
        let problems = self.sysctls.provide(&networks, true);
        let next = if problems.is_empty() { Next::Period } else { Next::Retry };
        Pass { problems, next }
    }

    async fn wake(&mut self) {
        loop {
            if self.seen.changed().await.is_err() {
                return std::future::pending().await;
            }
            if families(&networks(&self.seen.borrow_and_update())) != self.families {
                return;
            }
        }
    }
}

fn networks(seen: &Seen) -> Vec<Network> {
    seen.view.as_ref().map(|view| view.networks.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(cidr: &str) -> Network {
        Network { name: "n".into(), cidr: cidr.parse().unwrap(), tenants: Vec::new() }
    }

    /// A directory with sysctls as the kernel has them.
    fn sysctls(values: &[(&str, &str)]) -> (tempfile::TempDir, Sysctls) {
        let dir = tempfile::tempdir().unwrap();
        let sysctls = Sysctls::at(dir.path().to_owned());
        for (name, value) in values {
            std::fs::create_dir_all(sysctls.path(name).parent().unwrap()).unwrap();
            sysctls.write(name, &format!("{value}\n")).unwrap();
        }
        (dir, sysctls)
    }

    #[test]
    fn a_family_without_a_network_needs_no_forwarding() {
        let [four, six] = FORWARDING;
        let (_dir, sysctls) = sysctls(&[(four, "1"), (six, "0")]);
        assert_eq!(sysctls.provide(&[], false), [""; 0]);
        assert_eq!(sysctls.provide(&[network("10.0.0.0/8")], false), [""; 0]);
        assert_eq!(sysctls.provide(&[network("10.0.0.0/8")], true), [""; 0]);
        assert_eq!(sysctls.read(six).unwrap(), "0", "it is the host's");
        let both = [network("10.0.0.0/8"), network("fd00::/64")];
        let wrong = sysctls.provide(&both, false);
        assert!(wrong.len() == 1 && wrong[0].contains("--set-sysctls"), "{wrong:?}");
        assert_eq!(sysctls.provide(&both, true), [""; 0]);
        assert_eq!(sysctls.read(six).unwrap(), "1");
    }

    #[test]
    fn a_kernel_without_ipv6_is_told_from_a_wrong_directory() {
        let both = [network("10.0.0.0/8"), network("fd00::/64")];
        let (_dir, without) = sysctls(&[(FORWARDING[0], "1")]);
        assert_eq!(without.provide(&both, false), [""; 0]);
        let (_dir, wrong) = sysctls(&[]);
        assert_eq!(wrong.provide(&both, true).len(), 2, "nothing is there");
    }
}

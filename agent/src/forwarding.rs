//! Forwarding of packets by the host: of each family that has a network. The sysctls belong to the host: the agent sets
//! them only if configured (`--set-sysctls`), and never resets them.

use std::time::Duration;

use romana_daemon::reconcile::{Next, Pass, Reconcile, Schedule};
use tokio::sync::watch;

use crate::follow::Seen;
use crate::sysctl::Sysctls;
use crate::view::Network;

/// When the sysctls are compared, besides when a network of another family comes.
pub const SCHEDULE: Schedule = Schedule {
    period: Some(Duration::from_secs(30)),
    retry: Duration::from_secs(1),
    retry_max: Duration::from_secs(8),
};

/// The families that have a network: IPv4 is `true`.
#[must_use]
pub fn families(networks: &[Network]) -> Vec<bool> {
    let used = |v4: &bool| networks.iter().any(|network| network.cidr.addr().is_ipv4() == *v4);
    [true, false].into_iter().filter(used).collect()
}

/// Sets the sysctls of the families that have a network, or only checks them. Returns what is wrong, as messages.
#[must_use]
pub fn provide(sysctls: &Sysctls, networks: &[Network], set: bool) -> Vec<String> {
    families(networks).into_iter().filter_map(|v4| sysctls.forward(v4, set)).collect()
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
        let problems = provide(&self.sysctls, &networks, true);
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
    use crate::sysctl::FORWARDING;

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
        assert_eq!(provide(&sysctls, &[], false), [""; 0]);
        assert_eq!(provide(&sysctls, &[network("10.0.0.0/8")], false), [""; 0]);
        assert_eq!(provide(&sysctls, &[network("10.0.0.0/8")], true), [""; 0]);
        assert_eq!(sysctls.read(six).unwrap(), "0", "it is the host's");
        let both = [network("10.0.0.0/8"), network("fd00::/64")];
        let wrong = provide(&sysctls, &both, false);
        assert!(wrong.len() == 1 && wrong[0].contains("--set-sysctls"), "{wrong:?}");
        assert_eq!(provide(&sysctls, &both, true), [""; 0]);
        assert_eq!(sysctls.read(six).unwrap(), "1");
    }

    #[test]
    fn a_kernel_without_ipv6_is_told_from_a_wrong_directory() {
        let both = [network("10.0.0.0/8"), network("fd00::/64")];
        let (_dir, without) = sysctls(&[(FORWARDING[0], "1")]);
        assert_eq!(provide(&without, &both, false), [""; 0]);
        let (_dir, wrong) = sysctls(&[]);
        assert_eq!(provide(&wrong, &both, true).len(), 2, "nothing is there");
    }
}

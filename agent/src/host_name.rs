//! The name of this host in the log. It may be written otherwise than here: a kernel's name may have capitals, and the
//! name of a Kubernetes Node has none. DNS does not tell such names apart, and a cluster has only one of them.
//!
//! ```text
//!   configured, or the kernel's ─► file: found before ─► parts run ─► the log has another spelling ─► file ─► again
//! ```

use std::path::Path;

use romana_daemon::durable::{self, DurableError};
use romana_statemachine::name::HostName;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::follow::Seen;
use crate::ownership::HOST_FILE;
use crate::view::View;

/// The name that was found in the log before, if it is the configured one written otherwise.
///
/// # Errors
/// [`DurableError::Io`].
pub fn remembered(state_dir: &Path, configured: &HostName) -> Result<HostName, DurableError> {
    let found = match durable::load::<HostName>(&state_dir.join(HOST_FILE)) {
        // The log tells again.
        Err(DurableError::Damaged { .. }) => None,
        found => found?,
    };
    let found = found.filter(|found| found.check().is_ok() && found.is_alike(configured));
    Ok(found.unwrap_or_else(|| configured.clone()))
}

/// The name that the log has for this host, if it is written otherwise.
#[must_use]
pub fn written_otherwise(view: &View) -> Option<HostName> {
    if view.hosts.contains_key(&view.host) {
        return None;
    }
    view.hosts.keys().find(|name| name.is_alike(&view.host)).cloned()
}

/// Waits until the log has this host's name written otherwise, remembers that name and returns it; `None`: `stop`.
///
/// # Errors
/// [`DurableError`]: it cannot be remembered.
pub async fn watch(
    mut seen: watch::Receiver<Seen>,
    state_dir: &Path,
    stop: &CancellationToken,
) -> Result<Option<HostName>, DurableError> {
    let mut known = None;
    let other = |seen: &Seen| {
        let view = seen.view.as_ref().filter(|_| seen.caught_up);
        known = view.and_then(|view| written_otherwise(view));
        known.is_some()
    };
    tokio::select! {
        () = stop.cancelled() => return Ok(None),
        found = seen.wait_for(other) => if found.is_err() { return Ok(None) },
    }
    if let Some(name) = &known {
        durable::save(&state_dir.join(HOST_FILE), name)?;
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use romana_statemachine::command::HostState;

    use super::*;
    use crate::view::Host;

    #[test]
    fn a_name_is_found_in_any_case_of_letters() {
        let named = |own: &str, log: &[&str]| {
            let mut view = View::new(own.into());
            for name in log {
                let host = Host { ips: Vec::new(), state: HostState::Up };
                view.hosts.insert(HostName::from(*name), host);
            }
            written_otherwise(&view).map(|name| name.to_string())
        };
        let nodes = ["node-1", "node-2", "10.0.0.1", "ip-10-0-0-1.ec2.internal"];
        assert_eq!(named("Node-1", &nodes).as_deref(), Some("node-1"));
        assert_eq!(named("NODE-2.", &nodes).as_deref(), Some("node-2"));
        assert_eq!(named("node-1", &nodes), None, "it is there as it is");
        assert_eq!(named("node-3", &nodes), None);
        assert_eq!(named("10.0.0.1", &nodes), None);
        assert_eq!(named("IP-10-0-0-1.ec2.internal", &nodes).as_deref(), Some(nodes[3]));
        // From before names were unique in DNS.
        assert_eq!(named("Node-1", &["Node-1", "node-1"]), None);
    }

    #[test]
    fn what_was_found_is_remembered_as_long_as_it_is_this_host() {
        let dir = tempfile::tempdir().unwrap();
        let own =
            |configured: &str| remembered(dir.path(), &configured.into()).unwrap().to_string();
        assert_eq!(own("Node-1"), "Node-1");
        durable::save(&dir.path().join(HOST_FILE), &HostName::from("node-1")).unwrap();
        assert_eq!(own("Node-1"), "node-1");
        assert_eq!(own("other"), "other", "the configuration has changed");
        std::fs::write(dir.path().join(HOST_FILE), "nonsense").unwrap();
        assert_eq!(own("Node-1"), "Node-1");
    }
}

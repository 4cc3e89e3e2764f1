//! The agent's life: everything is started here, and stopped.
//!
//! ```text
//!   Following ──► seen ─┐
//!   netlink news ───────┼──► Router::pass: facts ─► plan ─► actual ─► diff ─► apply ──► status
//!   timer ──────────────┘
//!   Following ──► seen ─┬──► Enforcer::pass: compile ─► diff ─► ipset, iptables ──► status
//!   attach ─► Gate ─────┘
//!   romana-cni ──► socket ──► attach ──► ledger, log, kernel
//! ```
//! One code path for the first start, normal work, restart and repair. On SIGTERM everything stays in
//! the kernel.

use std::sync::Arc;

use romana_daemon::error::AnyError;
use romana_daemon::{Tasks, listener, probe};
use tokio::sync::{Notify, mpsc, watch};

use crate::attach::{self, Unable};
use crate::config::Config;
use crate::connections::{self, Forgotten};
use crate::enrol::Enrolment;
use crate::follow::Following;
use crate::http::AgentProbe;
use crate::kernel::packet_filter::PacketFilter;
use crate::kernel::taken::Taken;
use crate::kernel::{facts, netlink};
use crate::policy::enforce::enforcer;
use crate::pulse::{self, HEARTBEAT_TIMEOUT};
use crate::router::Router;
use crate::state_dir::StateDir;
use crate::status::Said;
use crate::{nat, register, sysctl};

/// Runs the agent until `tasks` are stopped.
///
/// # Errors
/// It did not start, or a task died.
pub async fn run(config: Config, mut tasks: Tasks) -> Result<(), AnyError> {
    let stop = tasks.stop();
    let state_dir = StateDir::open(&config.state_dir, &config.socket)?;
    let (host, instance) = (config.host.clone(), state_dir.instance.clone());
    let enrolment = Arc::new(Enrolment::new(host, instance, config.takeover_after));
    let (release, released) = mpsc::unbounded_channel();
    let (forgetting, forgotten) = watch::channel(Forgotten::default());
    let following = Following::open(&config, release, forgotten.clone())?;
    let seen = following.seen();
    let (client, beating) = (config.client(None)?, config.client(Some(HEARTBEAT_TIMEOUT))?);
    let listener = listener::bind(config.metrics)?;
    let handle = netlink()?;
    let (wake, taken) = (Arc::new(Notify::new()), Arc::new(Taken::default()));
    let (problems, attachments) = watch::channel(Vec::new());
    let (status, routes) = watch::channel(crate::status::Status::default());
    sysctl::prepare(config.set_sysctls);
    let filter = PacketFilter::find(config.policy.backend).await;
    let (enforcer, gate, policy) = enforcer(config.policy.clone(), seen.clone(), filter.clone());
    let router = Router::new(&config, handle.clone(), seen.clone(), status);
    let (unable_of, unable) = watch::channel(Some(Unable::new("the agent is starting".into())));
    let standing = enrolment.standing();
    let said = Said {
        routes,
        policy: policy.clone(),
        attachments,
        forgotten,
        standing: standing.clone(),
        unable,
        seen: seen.clone(),
        state_dir: config.state_dir.clone(),
    };
    let news =
        attach::News { taken: Arc::clone(&taken), problems, standing, policy, unable: unable_of };
    let (asking, kernel) = (client.clone(), handle.clone());
    let plugin = attach::open((&config).into(), asking, seen.clone(), kernel, gate, news).await?;
    tasks.spawn("kernel news", facts::watch_all(Arc::clone(&wake), taken, stop.clone()));
    tasks.spawn("attach", plugin.run(stop.clone()));
    tasks.spawn("follow", following.run(client.clone(), stop.clone()));
    tasks.spawn("routes", router.run(wake, stop.clone()));
    tasks.spawn("policy", enforcer.run(stop.clone()));
    tasks.spawn("nat", nat::keep(config.nat.clone(), seen.clone(), stop.clone()));
    tasks.spawn("connections", connections::forget(released, forgetting, stop.clone()));
    let speaking = Arc::clone(&enrolment);
    let registering = register::keep(config.clone(), speaking, client, handle, seen, stop.clone());
    tasks.spawn("register", registering);
    tasks.spawn("heartbeat", pulse::beat(enrolment, beating, said.clone(), stop.clone()));
    tasks.spawn("health", probe::serve(listener, AgentProbe { said, filter }, stop));
    tracing::info!(host = %config.host, metrics = %config.metrics, "agent started");
    // What is in the kernel stays.
    Ok(tasks.run().await?)
}

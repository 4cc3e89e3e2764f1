//! Starts the parts of the agent; `romana_daemon` supervises and stops them.
//!
//! ```text
//!   Following ──► seen ─┐
//!   netlink, timer ─────┴──► RouteReconciler::pass: facts ─► plan ─► actual ─► diff ─► apply ──► status
//!   Following ──► seen ─┬──► Enforcer::pass: compile ─► diff ─► ipset, iptables ──► status
//!   attach ─► EnforcerHandle ─────┘
//!   romana-cni ──► socket ──► attach ──► store, log, kernel
//!   Following ──► seen ─┬──► Holder: renewal ─► grants ─► watchdog (its own process) ─► addresses of VIPs
//!   timer ──────────────┘
//! ```
//! First start, normal operation, restart and repair share one code path. SIGTERM leaves the kernel's state unchanged.

use std::path::PathBuf;
use std::sync::Arc;

use romana_daemon::durable::DurableError;
use romana_daemon::error::AnyError;
use romana_daemon::problems::Problems;
use romana_daemon::{Tasks, listener, probe};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::attach::{self, Unable};
use crate::config::Config;
use crate::connections::{self, Forgotten};
use crate::enrol::Enrolment;
use crate::follow::{self, Seen};
use crate::forwarding::{self, Forwarding};
use crate::heartbeat::{self, HEARTBEAT_TIMEOUT};
use crate::host_name;
use crate::http::AgentProbe;
use crate::kernel::{facts, netlink, taken::Taken};
use crate::nat;
use crate::policy::enforce::{self, enforcer};
use crate::policy::packet_filter::PacketFilter;
use crate::register::{self, Registrar};
use crate::route_reconciler::{self, RouteReconciler};
use crate::state_dir::StateDir;
use crate::status::{Status, StatusSources};
use crate::vips::holder::{self, Holder};
use crate::vips::status::Holding;

/// Runs the agent until `tasks` are stopped: all its parts, again if the log has this host's name written otherwise.
///
/// # Errors
/// Start-up failed, or a task died.
pub async fn run(mut config: Config, tasks: Tasks) -> Result<(), AnyError> {
    let (stop, configured) = (tasks.stop(), config.host.clone());
    loop {
        let state_dir = StateDir::open(&config.state_dir, &config.socket)?;
        config.host = host_name::remembered(&config.state_dir, &configured)?;
        let parts = Tasks::new(stop.child_token());
        Box::pin(run_as(&config, &state_dir, parts)).await?;
        if stop.is_cancelled() {
            return Ok(());
        }
        tracing::info!(host = %config.host, "the log has the name of this host written otherwise");
    }
}

/// Runs the parts until they are stopped, or the host turns out to have another name.
async fn run_as(config: &Config, state_dir: &StateDir, mut tasks: Tasks) -> Result<(), AnyError> {
    let (stop, problems) = (tasks.stop(), Problems::default());
    let enrolment = Arc::new(Enrolment::new(config, state_dir));
    let (release, released) = mpsc::unbounded_channel();
    let (forgetting, forgotten) = watch::channel(Forgotten::default());
    let following =
        follow::open(config.host.clone(), &config.state_dir, &config.socket, release, forgotten)?;
    let (client, beating) = (config.client(None)?, config.client(Some(HEARTBEAT_TIMEOUT))?);
    let (health, handle, seen) = (listener::bind(config.metrics)?, netlink()?, following.seen());
    let (wake, taken) = (Arc::new(Notify::new()), Arc::new(Taken::default()));
    let links = Arc::new(Notify::new());
    let (status, routes) = watch::channel(Status::default());
    let (holding, held) = watch::channel(Holding::default());
    let (unable_of, unable) = watch::channel(Some(Unable::new("the agent is starting".into())));
    let filter = PacketFilter::find(config.policy.backend).await;
    let (enforcer, gate, policy) = enforcer(config.policy.clone(), seen.clone(), filter.clone());
    let router =
        RouteReconciler::new(config, handle.clone(), seen.clone(), status, Arc::clone(&wake));
    let state = enrolment.state();
    let sources =
        StatusSources::new(config, (routes, held), &policy, &problems, &state, unable, &seen);
    let (taken_up, enrolment_state) = (Arc::clone(&taken), state);
    let news = attach::News { taken: taken_up, enrolment_state, policy, unable: unable_of };
    let plugin = attach::open(config, client.clone(), seen.clone(), handle.clone(), gate, news);
    let plugin = plugin.await?;
    let forget = connections::forget(released, forgetting, problems.clone(), stop.clone());
    let beat = heartbeat::beat(Arc::clone(&enrolment), beating, sources.clone(), stop.clone());
    let nat = nat::keep(config.nat.clone(), seen.clone(), problems.clone(), stop.clone());

    tasks.spawn("host name", renamed(seen.clone(), config.state_dir.clone(), stop.clone()));
    tasks.spawn("kernel news", facts::watch_all([wake, Arc::clone(&links)], taken, stop.clone()));
    tasks.spawn("attach", plugin.run(problems.clone(), stop.clone()));
    tasks.spawn("follow", following.run(client.clone(), stop.clone()));
    tasks.spawn("health", probe::serve(health, AgentProbe { sources, filter }, stop.clone()));
    tasks.spawn("heartbeat", beat);
    tasks.spawn("connections", forget);
    tasks.spawn("nat", nat);
    tasks.reconcile(router, route_reconciler::SCHEDULE, &problems);
    tasks.reconcile(enforcer, enforce::SCHEDULE, &problems);
    if config.vips {
        let needs = holder::Needs {
            enrolment: Arc::clone(&enrolment),
            client: config.client_of(holder::RENEWAL_MAX, holder::RENEWAL_MAX / 2)?,
            handle: handle.clone(),
            sysctls: config.sysctls.clone(),
            set_sysctls: config.set_sysctls,
            link: config.vip_link.clone(),
            state_dir: config.state_dir.clone(),
            seen: seen.clone(),
            news: links,
            problems: problems.clone(),
            status: holding,
        };
        tasks.spawn(holder::PART, Holder::new(needs).run(stop.clone()));
    }
    if config.set_sysctls {
        let forwarding = Forwarding::new(config.sysctls.clone(), seen.clone());
        tasks.reconcile(forwarding, forwarding::SCHEDULE, &problems);
    }
    let registrar =
        Registrar { config: config.clone(), enrolment, client, handle, seen, known: false };
    tasks.reconcile(registrar, register::SCHEDULE, &problems);
    tracing::info!(host = %config.host, metrics = %config.metrics, "agent started");
    Ok(tasks.run().await?)
}

/// Stops the parts when the log has the host's name written otherwise.
async fn renamed(
    seen: watch::Receiver<Seen>,
    state_dir: PathBuf,
    stop: CancellationToken,
) -> Result<(), DurableError> {
    host_name::watch(seen, &state_dir, &stop).await?;
    stop.cancel();
    Ok(())
}

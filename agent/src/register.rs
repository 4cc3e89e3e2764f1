//! Registers this host with the cluster, if configured, and keeps its addresses up to date;
//! in any case enrols this agent.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use romana_client::model::Host;
use romana_client::{Client, Error};
use romana_daemon::durable;
use romana_daemon::error::chain;
use romana_daemon::reconcile::{Pass, Reconcile, Schedule};
use romana_statemachine::agent::{AGENT_INFO, REGISTERED_INFO};
use romana_statemachine::command::{HostChange, HostSource, HostSpec, Labels};
use rtnetlink::Handle;
use tokio::sync::watch;

use crate::config::{Config, Registration};
use crate::enrol::Enrolment;
use crate::follow::Seen;
use crate::kernel::facts;
use crate::ownership::OF_KUBERNETES_FILE;

/// How often the addresses are checked.
const PERIOD: Duration = Duration::from_secs(30);
/// How many addresses of other hosts are tried to find the route to them.
const OTHERS_ASKED: usize = 16;
/// Schedule of passes. The silence of another agent of this host is measured by asking repeatedly,
/// so failures do not slow it down.
pub const SCHEDULE: Schedule = Schedule { period: Some(PERIOD), retry: RETRY, retry_max: RETRY };
const RETRY: Duration = Duration::from_secs(1);

/// Registers the host, if configured, enrols this agent, and keeps the host's facts up to date.
pub struct Registrar {
    pub config: Config,
    pub enrolment: Arc<Enrolment>,
    pub client: Client,
    pub handle: Handle,
    pub seen: watch::Receiver<Seen>,
    /// Whether the log had the host when the last pass began.
    pub known: bool,
}

impl Reconcile for Registrar {
    const PART: &'static str = "registration";
    const DROPPED_AT_STOP: bool = true;

    async fn pass(&mut self) -> Pass {
        let Self { config, enrolment, client, handle, seen, known } = self;
        *known = is_known(config, &seen.borrow());
        match look(config, enrolment, client, handle, seen).await {
            Ok(()) => Pass::default(),
            Err(why) => Pass::failed(format!("this host is not registered yet: {why}")),
        }
    }

    /// The agent was refused, or the host was added or removed.
    async fn wake(&mut self) {
        let Self { config, enrolment, seen, known, .. } = self;
        let changed = async {
            let changed = seen.wait_for(|seen| is_known(config, seen) != *known);
            if changed.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = enrolment.refused.notified() => {}
            () = changed => {}
        }
    }
}

fn is_known(config: &Config, seen: &Seen) -> bool {
    seen.view.as_ref().is_some_and(|view| view.hosts.contains_key(&config.host))
}

/// Registers the host, enrols this agent, and updates the facts, in this order: of two agents,
/// the refused one changes nothing.
async fn look(
    config: &Config,
    enrolment: &Enrolment,
    client: &Client,
    handle: &Handle,
    seen: &watch::Receiver<Seen>,
) -> Result<(), String> {
    let ips = match &config.register {
        Some(registration) => Some(addresses(config, registration, handle, seen).await?),
        None => None,
    };
    let found = client.host(&config.host).await;
    if matches!(&found, Err(Error::Refused(error)) if error.status == 404) {
        // The next host of this name has no agent yet.
        enrolment.forget();
    }
    let known = match (found, &config.register, &ips) {
        (Ok(host), ..) => Some(host),
        (Err(Error::Refused(error)), Some(registration), Some(ips)) if error.status == 404 => {
            check_no_kubernetes(config)?;
            add(config, registration, ips, client).await?;
            None
        }
        (Err(error), ..) => return Err(error.to_string()),
    };
    enrolment.ask(client).await?;
    let Some(host) = known else { return Ok(()) };
    let of_kubernetes = host.source == HostSource::Kubernetes;
    remember(config, of_kubernetes)?;
    let as_known = std::iter::once(host.ip).chain(host.addresses.iter().copied()).collect();
    // The Node of a Kubernetes host has its addresses.
    let ips = ips.filter(|_| !of_kubernetes).unwrap_or(as_known);
    let Some((ip, further)) = ips.split_first() else { return Ok(()) };
    if let Some(change) = change(&host, *ip, further, own_info()) {
        client.update_host(change).await.map_err(|error| error.to_string())?;
        tracing::info!(host = %config.host, %ip, "host registration updated");
    }
    Ok(())
}

/// Remembers whether Kubernetes has this host: it is not registered again when its Node is deleted.
fn remember(config: &Config, of_kubernetes: bool) -> Result<(), String> {
    let file = config.state_dir.join(OF_KUBERNETES_FILE);
    let done = match (of_kubernetes, file.exists()) {
        (true, false) => durable::save(&file, &true),
        (false, true) => durable::remove(&file),
        _ => Ok(()),
    };
    done.map_err(|error| chain(&error))
}

/// Refuses to register a host that Kubernetes had.
fn check_no_kubernetes(config: &Config) -> Result<(), String> {
    let file = config.state_dir.join(OF_KUBERNETES_FILE);
    match file.exists() {
        false => Ok(()),
        true => Err(format!(
            "it belongs to Kubernetes, which has no Node {} now; it comes back with its Node. If it has left Kubernetes \
             for good, remove {}",
            config.host,
            file.display()
        )),
    }
}

/// The agent's own entries in its host's facts.
fn own_info() -> Labels {
    Labels::from([(AGENT_INFO.into(), env!("CARGO_PKG_VERSION").into())])
}

/// Addresses to register, main address first; at least one.
async fn addresses(
    config: &Config,
    registration: &Registration,
    handle: &Handle,
    seen: &watch::Receiver<Seen>,
) -> Result<Vec<IpAddr>, String> {
    let ips = match &registration.ips[..] {
        [] => {
            let others = others(config, seen)?;
            facts::own_addresses(handle, &others).await.map_err(|error| error.to_string())?
        }
        given => given.to_vec(),
    };
    if ips.is_empty() {
        return Err("it has no address on the link of its default route: give --host-ip".into());
    }
    Ok(ips)
}

/// Addresses of the others: hosts first, then replicas.
fn others(config: &Config, seen: &watch::Receiver<Seen>) -> Result<Vec<IpAddr>, String> {
    let seen = seen.borrow();
    let view = seen.view.as_ref().filter(|_| seen.caught_up);
    let view = view.ok_or("the cluster is not known yet")?;
    let hosts = view.hosts.iter().filter(|(name, _)| **name != config.host);
    let hosts = hosts.flat_map(|(_, host)| host.ips.iter().copied()).take(OTHERS_ASKED);
    let servers = config.servers.iter().filter_map(|server| server.host().parse().ok());
    Ok(hosts.chain(servers).filter(|ip: &IpAddr| !ip.is_loopback()).collect())
}

async fn add(
    config: &Config,
    registration: &Registration,
    ips: &[IpAddr],
    client: &Client,
) -> Result<(), String> {
    let Some((ip, further)) = ips.split_first() else { return Ok(()) };
    let (name, labels) = (config.host.clone(), registration.labels.clone());
    let (addresses, source) = (further.to_vec(), HostSource::Operator);
    let mut info = own_info();
    info.insert(REGISTERED_INFO.into(), "true".into());
    let spec = HostSpec { name, ip: *ip, addresses, labels, info, source };
    client.add_host(spec).await.map_err(|error| error.to_string())?;
    tracing::info!(host = %config.host, %ip, "host registered");
    Ok(())
}

/// The differences to the cluster's record. Labels of an existing host are managed by the operator.
fn change(host: &Host, ip: IpAddr, further: &[IpAddr], own: Labels) -> Option<HostChange> {
    let mut info = host.info.clone();
    info.extend(own);
    let change = HostChange {
        name: host.name.clone(),
        ip: (host.ip != ip).then_some(ip),
        addresses: (host.addresses != further).then(|| further.to_vec()),
        labels: None,
        info: (host.info != info).then_some(info),
    };
    let nothing = change.ip.is_none() && change.addresses.is_none() && change.info.is_none();
    (!nothing).then_some(change)
}
